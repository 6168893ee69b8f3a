"""Engines take turns in rounds, so that a change in the machine's load meets every way to decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_mtad.tools.harness.decoding import Run, decode
from vllm_mtad.tools.harness.methods import Method

WARM_UP = -1
"""The number of the round before the first, which nobody counts."""


@dataclass(frozen=True)
class Turn:
    """One engine's part of a round. `prompts` and `seed` are the same for every engine of the round."""

    number: int
    in_flight: int
    method: Method
    llm: Any
    prompts: list[Any]
    params: Any
    seed: int

    def decode(self, advance: Callable[[], None] = lambda: None) -> Run:
        return decode(self.llm, self.prompts, self.params, self.in_flight, self.seed, advance)


@dataclass(frozen=True)
class Rounds:
    """`prompts`: as vLLM takes them. `count`: how many of them a round decodes, by requests in flight. `seed`: of the
    first round; each has the next.
    """

    prompts: Sequence[Any]
    max_tokens: int
    in_flight: Sequence[int]
    rounds: int
    count: Callable[[int], int]
    seed: int
    stop: tuple[str, ...] = ()
    warms_up: bool = True

    def turns(self, engines: Sequence[tuple[Method, Any]]) -> Iterator[Turn]:
        """In the order in which they are to be decoded: all rounds with so many in flight, engine by engine."""
        for in_flight in self.in_flight:
            for number in range(WARM_UP if self.warms_up else 0, self.rounds):
                chosen = prompts_of_round(self.prompts, max(number, 0), self.count(in_flight))
                if number == WARM_UP:
                    chosen = chosen[: max(4, in_flight)]
                for method, llm in engines:
                    params = method.sampling.params(self.max_tokens, self.stop)
                    yield Turn(number, in_flight, method, llm, chosen, params, self.seed + number)

    def num_prompts(self, num_engines: int) -> int:
        """How often `advance` is called if every turn but those that warm up calls it."""
        return num_engines * self.rounds * sum(map(self.count, self.in_flight))


def prompts_of_round(prompts: Sequence[Any], number: int, count: int) -> list[Any]:
    """The round's own `count` prompts, which follow those of the round before."""
    return [prompts[(number * count + i) % len(prompts)] for i in range(count)]
