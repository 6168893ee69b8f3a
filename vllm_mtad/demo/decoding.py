"""Running prompts through an engine step by step, so that what each target call gave stays visible."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Decoded:
    """`calls`: the token ids that each target call gave, in order; the first is the prefill's one token. What
    follows a stop is not in them. `text`: the whole completion.
    """

    prompt: str
    calls: list[list[int]] = field(default_factory=list)
    text: str = ""

    @property
    def tokens(self) -> list[int]:
        return [token for call in self.calls for token in call]


@dataclass(frozen=True)
class Run:
    decoded: list[Decoded]
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return sum(len(d.tokens) for d in self.decoded) / self.seconds


def decode(llm: Any, prompts: list[str], concurrency: int, seed: int, advance: Callable[[], None]) -> Run:
    """Decode `prompts` with at most `concurrency` in flight; `advance` is called after each.

    Every prompt has its own seed, the same for every way.
    """
    engine, outputs = llm.llm_engine, [Decoded(prompt) for prompt in prompts]
    waiting, running = list(range(len(prompts))), 0
    start = time.perf_counter()
    while waiting or running:
        while waiting and running < concurrency:
            at = waiting.pop(0)
            engine.add_request(f"{seed}-{at}", prompts[at], _sampling_params(seed * 100_003 + at))
            running += 1
        for output in engine.step():
            completion, decoded = output.outputs[0], outputs[int(output.request_id.split("-")[1])]
            if completion.token_ids:
                decoded.calls.append(list(completion.token_ids))
            decoded.text += completion.text
            if output.finished:
                running -= 1
                advance()
    return Run(outputs, time.perf_counter() - start)


def _sampling_params(seed: int) -> Any:
    """The paper's sampling: T = 1, top-k 10, top-p 0.9."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=1.0, top_k=10, top_p=0.9, max_tokens=72, seed=seed, output_kind=RequestOutputKind.DELTA
    )
