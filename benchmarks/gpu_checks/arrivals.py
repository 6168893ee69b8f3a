"""This check looks at the draft's first passes while requests keep arriving, so that most steps hold a prefill.

It shows how they run, and how long a step takes, once as the engine runs them and once with no pieces of them as
graphs.

A trace counts steps and not seconds: a prompt arrives before each. In `short` a step has no more tokens than
vLLM captures graphs for; in `long` it has more, and then neither the target's pass nor the draft's has a graph.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.gpu_checks.step_events import StepEvents


@dataclass(frozen=True)
class Trace:
    name: str
    prompts: int
    prompt_tokens: int
    max_tokens: int


TRACES = (Trace("short", 200, 256, 40), Trace("long", 100, 1024, 40))
TINY_TRACES = (Trace("short", 6, 20, 8),)


def traces(llm: Any, events: StepEvents, tiny: bool) -> Iterator[dict[str, Any]]:
    """A record for each trace, and for each way to run it. `most_captured`: tokens of the largest pieces."""
    compilation = llm.llm_engine.vllm_config.compilation_config
    has_pieces = compilation.cudagraph_mode.mixed_mode().name == "PIECEWISE"
    most_captured = max(compilation.cudagraph_capture_sizes or [0]) if has_pieces else 0
    for salt, trace in enumerate(TINY_TRACES if tiny else TRACES):
        for runs_pieces in (True,) if tiny else (True, False):
            events.runs_pieces = runs_pieces
            for repeat in range(1 if tiny else 2):  # the first may compile what the second finds
                events.take()
                served = _serve(llm, trace, salt=100 * salt + 10 * runs_pieces + repeat)
                steps = [step for step in events.take() if "first_pass" in step]
            found = {"trace": trace.name, "pieces": runs_pieces, "served": served, "most_captured": most_captured}
            yield found | first_passes(steps) | ({} if tiny else _times(steps))
    events.runs_pieces = True


def _serve(llm: Any, trace: Trace, salt: int) -> int:
    """How many requests were answered. Prompts of another `salt` are not in the prefix cache."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=1.0, max_tokens=trace.max_tokens, ignore_eos=True, detokenize=False)
    prompts = random.Random(salt)
    arrived = served = 0
    while arrived < trace.prompts or llm.llm_engine.has_unfinished_requests():
        if arrived < trace.prompts:
            ids = prompts.choices(range(3, 500), k=trace.prompt_tokens)
            llm.enqueue([{"prompt_token_ids": ids}], sampling, use_tqdm=False)
            arrived += 1
        served += sum(output.finished for output in llm.llm_engine.step())
    return served


def first_passes(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """How many steps there were, how many of them held a prefill, and how the first passes of both sorts ran."""
    passes = [step["first_pass"] for step in steps]
    modes = {has: Counter(p["mode"] for p in passes if p["has_prefill"] is has) for has in (True, False)}
    return {
        "steps": len(steps),
        "with_prefill": modes[True].total(),
        "first_passes_with_prefill": dict(modes[True]),
        "other_first_passes": dict(modes[False]),
        "most_tokens": max((p["tokens"] for p in passes), default=0),
    }


def _times(steps: list[dict[str, Any]]) -> dict[str, float]:
    """Medians in ms over steps with a prefill, on the device's clock: from a step's start to the next one's, with all
    that the device waits for the host, and of the drafting round alone."""
    import torch

    torch.cuda.synchronize()
    following = [(one, after) for one, after in pairwise(steps) if one["first_pass"]["has_prefill"]]
    if not following:
        return {}
    return {
        "step_ms": statistics.median(one["start"].elapsed_time(after["start"]) for one, after in following),
        "drafting_ms": statistics.median(
            start.elapsed_time(end) for start, end in (s["drafting"] for s, _ in following)
        ),
    }
