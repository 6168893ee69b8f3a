"""This module measures where the time of a step goes, and the ceiling that the models' own forward passes set.

Rows of `steps`: one a (part of the plan, method), medians in ms over all decode steps with so many requests. A method's
ceiling is its mean acceptance length over the time of its forward passes alone: what would be left if scheduling,
drawing, accepting and sampling cost nothing.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.catalogue import methods_of
from benchmarks.plan import Plan, Quality, Speed
from benchmarks.quality import shared_options
from benchmarks.speed import key_of, rounds_of, sized, turns
from benchmarks.store import Store
from benchmarks.workload import load_workload
from vllm_mtad.tools.harness.decoding import Run
from vllm_mtad.tools.harness.engines import engines_up
from vllm_mtad.tools.harness.figures import mean_acceptance_length
from vllm_mtad.tools.harness.methods import Method
from vllm_mtad.tools.harness.progress import Work
from vllm_mtad.tools.harness.turns import WARM_UP

WORKER = "benchmarks.timed_worker.TimedCPUWorker"
PARTS = ("target", "target forward", "drafting", "draft forward", "acceptance")


def time_steps(plan: Plan, speed: Speed, quality: Quality, folder: Path, store: Store, work: Work) -> None:
    """Time what is not in `store` yet, with one request in flight."""
    workload = load_workload(plan.models, quality)
    done = {row["method"] for row in store.rows("steps") if key_of(speed) == {k: row[k] for k in key_of(speed)}}
    missing = [
        group for group in turns(methods_of(speed.groups), speed.together) if any(m.name not in done for m in group)
    ]
    if not missing:
        return
    pair = sized(workload, speed.size, folder)
    options = shared_options(plan, workload, 1) | {"worker_cls": WORKER}
    title = f"steps of {speed.prompt_set} at {speed.size or 'its own size'}"
    for group in work.over(title, missing, lambda group: ", ".join(m.name for m in group[1:])):
        runs: dict[Method, list[Run]] = defaultdict(list)
        times: dict[Method, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        with engines_up(group, pair, options) as engines:
            for turn in rounds_of(workload, speed, seed=2000).turns(engines):
                run = turn.decode()
                (taken,) = turn.llm.collective_rpc("take_times")
                if turn.number != WARM_UP:
                    runs[turn.method].append(run)
                    for (part, in_flight), seconds in taken.items():
                        if in_flight == 1:
                            times[turn.method][part] += seconds
        for method in group:
            if method.name not in done:
                done.add(method.name)
                store.add("steps", key_of(speed) | {"method": method.name} | _row(runs[method], times[method]))


def _row(runs: list[Run], times: dict[str, list[float]]) -> dict[str, Any]:
    """`step_ms`: of a whole decode step as the client sees it, prefills left out."""
    decoded = [d for run in runs for d in run.decoded]
    calls = [[len(call) for call in d.calls] for d in decoded]
    decode_seconds = sum(d.last - d.first for d in decoded)
    return {
        "mean_acceptance_length": mean_acceptance_length(calls),
        "step_ms": 1e3 * decode_seconds / sum(len(c) - 1 for c in calls),
        "steps": sum(len(c) - 1 for c in calls),
        "parts_ms": {part: 1e3 * statistics.median(times[part]) for part in PARTS if times.get(part)},
    }
