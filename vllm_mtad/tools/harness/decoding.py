"""`decode` runs prompts through an engine step by step, so that what each target call gave stays visible."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Decoded:
    """`calls`: the token ids that each target call gave, in order; the first is the prefill's one token. What follows a
    stop is not in them. `text`: the whole completion. `first`, `last`: seconds from the request's start to its first
    and its last tokens.
    """

    prompt: Any
    calls: list[list[int]] = field(default_factory=list)
    text: str = ""
    first: float = 0.0
    last: float = 0.0

    @property
    def tokens(self) -> list[int]:
        return [token for call in self.calls for token in call]

    @property
    def seconds_per_token(self) -> float | None:
        """From the first token on; None if there is only one call."""
        after = sum(map(len, self.calls[1:]))
        return (self.last - self.first) / after if after else None


@dataclass(frozen=True)
class Run:
    decoded: list[Decoded]
    seconds: float

    @property
    def num_tokens(self) -> int:
        return sum(len(d.tokens) for d in self.decoded)

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds


def decode(
    llm: Any,
    prompts: Sequence[Any],
    params: Any,
    concurrency: int,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> Run:
    """Decode `prompts` with at most `concurrency` in flight; `advance` is called after each.

    Args:
        prompts: as vLLM takes them: texts, or `{"prompt_token_ids": ids}`.
        params: SamplingParams (`Sampling.params`), to which every prompt adds a seed of its own, the same for every
            way to decode.
    """
    engine, outputs = llm.llm_engine, [Decoded(prompt) for prompt in prompts]
    starts = [0.0] * len(prompts)
    waiting, running = list(range(len(prompts))), 0
    begin = time.perf_counter()
    while waiting or running:
        while waiting and running < concurrency:
            at = waiting.pop(0)
            own = params.clone()
            own.seed = seed * 100_003 + at
            starts[at] = time.perf_counter()
            engine.add_request(f"{seed}-{at}", prompts[at], own)
            running += 1
        for output in engine.step():
            completion, at = output.outputs[0], int(output.request_id.split("-")[1])
            decoded = outputs[at]
            if completion.token_ids:
                decoded.last = time.perf_counter() - starts[at]
                decoded.first = decoded.first or decoded.last
                decoded.calls.append(list(completion.token_ids))
            decoded.text += completion.text
            if output.finished:
                running -= 1
                advance()
    return Run(outputs, time.perf_counter() - begin)
