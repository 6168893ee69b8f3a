"""Running the engines: each alone in turn, or some together with the target alone.

Every engine decodes all prompts once (or `samples` times) for its text, which also warms it up, and is then timed in
rounds. Round r has the same prompts and seeds for every engine, so that its speed is held against the target's in
that round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vllm_mtad.measure.decoding import Decoded, decode
from vllm_mtad.measure.engines import start, stop
from vllm_mtad.measure.methods import Method
from vllm_mtad.pair import Pair
from vllm_mtad.tune.errors import TargetError, reason
from vllm_mtad.tune.rows import Speed, label

Rounds = dict[int, list[float]]
"""Tokens per second of each round, by requests in flight."""
Bar = Callable[[str, int], Callable[[], None]]
"""Starts a progress bar of a description and a total, and gives what advances it."""
ANSWERS_IN_FLIGHT = 8
"""At least; what is in flight together changes the speed and not the text's distribution."""


@dataclass(frozen=True)
class Pass:
    """All rounds once. `at`: when they ended, in seconds of a clock; `beside`: the target's, if they took turns."""

    rounds: Rounds
    at: float
    beside: Rounds | None = None


@dataclass
class Measured:
    """`answers`: `[samples][num_prompts]`."""

    method: Method
    failure: str | None = None
    answers: list[list[Decoded]] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """What every engine is given. `engine`: options of vLLM; `params`: SamplingParams."""

    pair: Pair
    engine: dict[str, Any]
    prompts: list[str]
    params: Any
    concurrency: tuple[int, ...]
    samples: int
    rounds: int
    bar: Bar

    @contextmanager
    def started(self, method: Method) -> Iterator[Any]:
        llm = start(method, self.pair, **self.engine)
        try:
            yield llm
        finally:
            stop(llm)

    def answers(self, llm: Any, method: Method) -> list[list[Decoded]]:
        advance = self.bar(f"{label(method)}: answers", self.samples * len(self.prompts))
        in_flight = max(ANSWERS_IN_FLIGHT, *self.concurrency)
        return [
            decode(llm, self.prompts, self.params, in_flight, 1 + sample, advance).decoded
            for sample in range(self.samples)
        ]

    def round(self, llm: Any, number: int, in_flight: int) -> float:
        """Tokens per second of round `number`, whose prompts follow those of the last one."""
        count = prompts_of_round(in_flight)
        chosen = [self.prompts[(number * count + i) % len(self.prompts)] for i in range(count)]
        return decode(llm, chosen, self.params, in_flight, 1 + self.samples + number).tokens_per_second

    def all_rounds(self, running: Sequence[tuple[Measured, Any]]) -> list[Pass]:
        """Of each engine; they take turns, the first one being the target if they are several. One that fails is noted
        and leaves the others to go on.
        """
        names = ", ".join(label(measured.method) for measured, _ in running)
        advance = self.bar(f"{names}: timing", self.rounds * len(self.concurrency) * len(running))
        found: list[Rounds] = [{in_flight: [] for in_flight in self.concurrency} for _ in running]
        for number in range(self.rounds):
            for in_flight in self.concurrency:
                for (measured, llm), rounds in zip(running, found):
                    if measured.failure is None:
                        with failure_noted(measured):
                            rounds[in_flight].append(self.round(llm, number, in_flight))
                    advance()
        at, beside = time.monotonic(), found[0] if len(running) > 1 else None
        return [Pass(rounds, at, beside) for rounds in found]


def prompts_of_round(in_flight: int) -> int:
    """So many that the last ones, with fewer in flight, weigh little."""
    return max(8, 4 * in_flight)


def measure_alone(bench: Bench, found: Sequence[Measured]) -> None:
    """Each engine alone in turn. What cannot be run says why.

    Raises:
        TargetError: if the target alone is among them and cannot be run.
    """
    for measured in found:
        with failure_noted(measured), bench.started(measured.method) as llm:
            measured.answers = bench.answers(llm, measured.method)
            measured.passes += bench.all_rounds([(measured, llm)])


def time_again(bench: Bench, finalists: Sequence[Measured]) -> None:
    """Another pass of each, one after the other, the target first: what is compared was then timed close together."""
    for measured in finalists:
        # Failing now, when it ran before, would only lose what was measured.
        again = Measured(measured.method)
        with suppress(TargetError), failure_noted(again), bench.started(measured.method) as llm:
            bench.round(llm, bench.rounds, max(bench.concurrency))  # warms it up
            passes = bench.all_rounds([(again, llm)])
            if again.failure is None:
                measured.passes += passes


def measure_together(bench: Bench, target: Measured, found: Sequence[Measured], together: int) -> None:
    """Groups of `together` engines, of which the target alone is always one, that take turns round by round.

    `target` gets a pass for each group, and its answers if it has none yet.

    Raises:
        TargetError: if the target alone cannot be run.
    """
    with failure_noted(target), bench.started(target.method) as base:
        if not target.answers:
            target.answers = bench.answers(base, target.method)
        for at in range(0, len(found), together - 1):
            _measure_group(bench, target, base, found[at : at + together - 1])


def _measure_group(bench: Bench, target: Measured, base: Any, group: Sequence[Measured]) -> None:
    engines: list[tuple[Measured, Any]] = []
    try:
        for measured in group:
            with failure_noted(measured):
                engines.append((measured, start(measured.method, bench.pair, **bench.engine)))
                measured.answers = bench.answers(engines[-1][1], measured.method)
        running = [(measured, llm) for measured, llm in engines if measured.failure is None]
        of_target, *others = bench.all_rounds([(target, base), *running])
        target.passes.append(of_target)
        for (measured, _), own in zip(running, others):
            measured.passes.append(own)
    finally:
        for _, llm in engines:
            stop(llm)


def speed(measured: Measured, target: Measured, in_flight: int) -> Speed:
    """Against the target's same rounds: those beside it, or else what lies between the target's passes before and
    after, by the clock, as if the machine changed evenly. The target's own are held against their mean, which shows how
    steady the machine was.
    """
    times = [each.at for each in target.passes]
    of_target = list(zip(*(each.rounds[in_flight] for each in target.passes)))
    own: list[float] = []
    base: list[float] = []
    for each in measured.passes:
        own += each.rounds[in_flight]
        if measured is target:
            base += [sum(values) / len(values) for values in of_target]
        elif each.beside is not None:
            base += each.beside[in_flight]
        else:
            base += [float(np.interp(each.at, times, values)) for values in of_target]
    return Speed.of(own, base)


@contextmanager
def failure_noted(measured: Measured) -> Iterator[None]:
    """Turn an engine's error into `measured.failure`, or into a TargetError if it is the target's."""
    from vllm.exceptions import VLLMError

    try:
        yield
    except TargetError:
        raise
    except (ValueError, RuntimeError, OSError, VLLMError) as error:
        if measured.method.speculative is None:
            raise TargetError(f"The target alone cannot be run: {reason(error)}") from error
        measured.failure = reason(error)
