"""This module times every way to decode: in rounds in which the engines take turns, offline.

Rows of `speed`: one a (part of the plan, method, concurrency, round). All engines of one `turn` are up together, the
target alone among them, so that a ratio to it is of one round on one machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.catalogue import methods_of
from benchmarks.pairs.sizes import padded
from benchmarks.plan import Plan, Quality, Speed
from benchmarks.quality import refuse, shared_options
from benchmarks.store import Store
from benchmarks.workload import Workload, load_workload
from vllm_mtad.tools.harness.decoding import Run
from vllm_mtad.tools.harness.engines import engines_up, on_cpu
from vllm_mtad.tools.harness.methods import Method, target_alone
from vllm_mtad.tools.harness.pair import Pair
from vllm_mtad.tools.harness.progress import Work
from vllm_mtad.tools.harness.turns import WARM_UP, Rounds

GPU_CACHE_BYTES = 8 << 30
"""KV cache of an engine on a GPU that others share."""


def key_of(speed: Speed) -> dict[str, Any]:
    return {"prompt_set": speed.prompt_set, "size": speed.size}


def sized(workload: Workload, size: str | None, folder: Path) -> Pair:
    """The workload's pair at `size`, in a folder of its own within `folder`."""
    return workload.pair if size is None else padded(workload.pair, size, folder / workload.prompt_set.name / size)


def turns(methods: Sequence[Method], together: int) -> list[list[Method]]:
    """Methods in groups of engines that are up together, each led by the target alone."""
    base = target_alone()
    others = [method for method in methods if method != base]
    return [[base, *others[i : i + together - 1]] for i in range(0, len(others), max(together - 1, 1))]


def shared_machine(speed: Speed) -> dict[str, Any]:
    return {} if on_cpu() or speed.together == 1 else {"kv_cache_memory_bytes": GPU_CACHE_BYTES}


def time_methods(plan: Plan, speed: Speed, quality: Quality, folder: Path, store: Store, work: Work) -> None:
    """Time what is not in `store` yet. `quality` says which prompts; `folder` holds the padded models."""
    workload = load_workload(plan.models, quality)
    done = {(row["method"], row["concurrency"], row["round"]) for row in store.rows("speed") if _is_of(speed, row)}
    wanted = {(c, r) for c in speed.concurrency for r in range(speed.rounds)}
    missing = [
        group
        for group in turns(methods_of(speed.groups), speed.together)
        if any((m.name, c, r) not in done for m in group[1:] for c, r in wanted)
    ]
    if not missing:
        return
    pair = sized(workload, speed.size, folder)
    options = shared_options(plan, workload, max(speed.concurrency)) | shared_machine(speed)
    title = f"speed of {speed.prompt_set} at {speed.size or 'its own size'}"
    for group in work.over(title, missing, lambda group: ", ".join(m.name for m in group[1:])):
        refused = partial(refuse, store, work)
        with engines_up(group, pair, options, refused=refused) as engines:
            started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            for turn in rounds_of(workload, speed, seed=1000).turns(engines):
                run = turn.decode()
                if turn.number != WARM_UP:
                    row = {"method": turn.method.name, "concurrency": turn.in_flight, "round": turn.number}
                    store.add("speed", key_of(speed) | row | {"turn": started} | summary(run))


def rounds_of(workload: Workload, speed: Speed, seed: int) -> Rounds:
    prompt_set = workload.prompt_set
    return Rounds(
        workload.prompts,
        prompt_set.max_tokens,
        speed.concurrency,
        speed.rounds,
        lambda in_flight: max(speed.least_prompts, 2 * in_flight),
        seed,
        prompt_set.stop,
    )


def _is_of(speed: Speed, row: dict[str, Any]) -> bool:
    return key_of(speed) == {name: row[name] for name in key_of(speed)}


def summary(run: Run) -> dict[str, Any]:
    """Figures of one timed round: tokens a second, and the median over its requests of seconds to the first token and
    seconds per token after it.
    """
    per_token = [s for d in run.decoded if (s := d.seconds_per_token) is not None]
    return {
        "seconds": round(run.seconds, 4),
        "tokens": run.num_tokens,
        "calls": sum(len(d.calls) for d in run.decoded),
        "tokens_per_second": round(run.tokens_per_second, 3),
        "first_token": round(statistics.median(d.first for d in run.decoded), 5),
        "seconds_per_token": round(statistics.median(per_token), 6) if per_token else None,
    }
