"""The tuner runs each engine alone in turn, or some together with the target alone.

Every engine decodes all prompts once (or `samples` times) for its text, which also warms it up, says how likely its
target finds the text, and is then timed in rounds. Round r has the same prompts and seeds for every engine, so that
its speed is held against the target's in that round.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vllm_mtad.config.errors import one_sentence
from vllm_mtad.tools.harness.decoding import Decoded, decode
from vllm_mtad.tools.harness.engines import engine_up
from vllm_mtad.tools.harness.errors import TargetError
from vllm_mtad.tools.harness.likelihood import negative_log_likelihoods
from vllm_mtad.tools.harness.methods import Method
from vllm_mtad.tools.harness.pair import Pair
from vllm_mtad.tools.harness.progress import Bar
from vllm_mtad.tools.harness.turns import WARM_UP, Rounds
from vllm_mtad.tools.tune.rows import Speed

if TYPE_CHECKING:
    from vllm_mtad.tools.tune.prepare import Inputs
    from vllm_mtad.tools.tune.settings import Settings

Speeds = dict[int, list[float]]
"""Tokens per second of each round, by requests in flight."""
ANSWERS_IN_FLIGHT = 8
"""Answers are decoded with at least so many in flight, which changes their speed and not their distribution."""


@dataclass(frozen=True)
class Pass:
    """All rounds once. `at`: when they ended, in seconds of a clock; `beside`: the target's, if they took turns."""

    rounds: Speeds
    at: float
    beside: Speeds | None = None


@dataclass
class Measured:
    """`answers`: `[samples][num_prompts]`; `nats`: of each of them, under the target."""

    method: Method
    failure: str | None = None
    answers: list[list[Decoded]] = field(default_factory=list)
    nats: list[list[float]] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """What every engine is given. `engine`: options of vLLM. `prompt_ids`: `[num_prompts]` lists of tokens. `samples`:
    completions of each prompt that are judged, 0 for speeds alone.
    """

    pair: Pair
    engine: dict[str, Any]
    prompt_ids: list[list[int]]
    max_tokens: int
    concurrency: tuple[int, ...]
    samples: int
    rounds: int
    bar: Bar

    @classmethod
    def of(cls, settings: Settings, inputs: Inputs, samples: int, bar: Bar) -> Bench:
        pair = Pair(settings.target, settings.draft)
        in_flight, rounds, most = settings.concurrency, settings.rounds, settings.max_tokens
        return cls(pair, inputs.engine, inputs.prompt_ids, most, in_flight, samples, rounds, bar)

    @property
    def prompts(self) -> list[dict[str, Any]]:
        """As vLLM takes them."""
        return [{"prompt_token_ids": ids} for ids in self.prompt_ids]

    def started(self, method: Method) -> AbstractContextManager[Any]:
        return engine_up(method, self.pair, **self.engine)

    def answer(self, llm: Any, measured: Measured) -> None:
        """All prompts, `samples` times, and how likely the target, which this engine holds, finds the answers."""
        if not self.samples:
            return
        method = measured.method
        advance = self.bar(f"{method.full_name}: answers", self.samples * len(self.prompt_ids))
        in_flight, params = max(ANSWERS_IN_FLIGHT, *self.concurrency), method.sampling.params(self.max_tokens)
        for sample in range(self.samples):
            answers = decode(llm, self.prompts, params, in_flight, 1 + sample, advance).decoded
            measured.answers.append(answers)
            measured.nats.append(negative_log_likelihoods(llm, self.prompt_ids, [a.tokens for a in answers]))

    def all_rounds(self, running: Sequence[tuple[Measured, Any]], warms_up: bool = False) -> list[Pass]:
        """A pass of each engine. They take turns, the first one being the target if they are several. One that fails is
        noted and leaves the others to go on.
        """
        names = ", ".join(measured.method.full_name for measured, _ in running)
        of_method = {measured.method: measured for measured, _ in running}
        found: dict[Method, Speeds] = {method: {n: [] for n in self.concurrency} for method in of_method}
        rounds = Rounds(
            self.prompts,
            self.max_tokens,
            self.concurrency,
            self.rounds,
            prompts_in_round,
            seed=1 + self.samples,
            warms_up=warms_up,
        )
        advance = self.bar(f"{names}: timing", rounds.num_prompts(len(running)))
        for turn in rounds.turns([(measured.method, llm) for measured, llm in running]):
            measured = of_method[turn.method]
            if measured.failure is None:
                with failure_noted(measured):
                    if turn.number == WARM_UP:
                        turn.decode()
                    else:
                        found[turn.method][turn.in_flight].append(turn.decode(advance).tokens_per_second)
        at, of_target = time.monotonic(), found[running[0][0].method] if len(running) > 1 else None
        return [Pass(speeds, at, of_target) for speeds in found.values()]


def prompts_in_round(in_flight: int) -> int:
    """How many prompts a round has: so many that the last ones, with fewer in flight, weigh little."""
    return max(8, 4 * in_flight)


def measure_alone(bench: Bench, found: Sequence[Measured]) -> None:
    """Each engine alone in turn. What cannot be run says why.

    Raises:
        TargetError: if the target alone is among them and cannot be run.
    """
    for measured in found:
        with failure_noted(measured), bench.started(measured.method) as llm:
            bench.answer(llm, measured)
            measured.passes += bench.all_rounds([(measured, llm)], warms_up=not bench.samples)


def time_again(bench: Bench, finalists: Sequence[Measured]) -> None:
    """Another pass of each, one after the other, the target first: what is compared was then timed close together."""
    for measured in finalists:
        # Failing now, when it ran before, would only lose what was measured.
        again = Measured(measured.method)
        with suppress(TargetError), failure_noted(again), bench.started(measured.method) as llm:
            passes = bench.all_rounds([(again, llm)], warms_up=True)
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
            bench.answer(base, target)
        for at in range(0, len(found), together - 1):
            _measure_group(bench, target, base, found[at : at + together - 1])


def _measure_group(bench: Bench, target: Measured, base: Any, group: Sequence[Measured]) -> None:
    with ExitStack() as stack:
        engines: list[tuple[Measured, Any]] = []
        for measured in group:
            with failure_noted(measured):
                engines.append((measured, stack.enter_context(bench.started(measured.method))))
                bench.answer(engines[-1][1], measured)
        running = [(measured, llm) for measured, llm in engines if measured.failure is None]
        of_target, *others = bench.all_rounds([(target, base), *running], warms_up=not bench.samples)
        target.passes.append(of_target)
        for (measured, _), own in zip(running, others):
            measured.passes.append(own)


def speed(measured: Measured, target: Measured, in_flight: int) -> Speed:
    """The speed against the target's same rounds: those beside it, or else what lies between the target's passes before
    and after, by the clock, as if the machine changed evenly. The target's own are held against their mean, which shows
    how steady the machine was.
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
            raise TargetError(f"The target alone cannot be run: {one_sentence(error)}") from error
        measured.failure = one_sentence(error)
