"""This module measures what a run has beside answers and offline speed.

That is a real server, energy, and the cost of a large vocabulary.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.catalogue import MAIN, methods_of
from benchmarks.energy import joules_per_token, open_meter, unavailable_reason
from benchmarks.pairs.widen import SHAPES
from benchmarks.plan import Plan, Quality, Served
from benchmarks.quality import refuse, shared_options
from benchmarks.serving import Server
from benchmarks.speed import GPU_CACHE_BYTES, key_of, sized
from benchmarks.store import Store
from benchmarks.vocabulary import measure_vocabulary
from benchmarks.workload import load_workload
from vllm_mtad.tools.harness.decoding import decode
from vllm_mtad.tools.harness.engines import engine_up, on_cpu
from vllm_mtad.tools.harness.methods import DEFAULT
from vllm_mtad.tools.harness.progress import Work

IDLE_SECONDS = 15.0


def serve_methods(plan: Plan, served: Served, quality: Quality, folder: Path, store: Store, work: Work) -> None:
    """`vllm bench serve` against a server of each main method; servers are up together and take turns.

    Rows of `served`: one a (part of the plan, method, concurrency, repeat).
    """
    key = {"prompt_set": served.prompt_set, "size": served.size}
    done = {(r["method"], r["concurrency"], r["repeat"]) for r in store.rows("served") if key.items() <= r.items()}
    wanted = [(c, r) for r in range(served.repeats) for c in served.concurrency]
    missing = [(c, r) for c, r in wanted if any((m.name, c, r) not in done for m in MAIN)]
    if not missing:
        return
    workload = load_workload(plan.models, quality)
    pair = sized(workload, served.size, folder)
    options = shared_options(plan, workload, max(served.concurrency))
    if not on_cpu():
        options["kv_cache_memory_bytes"] = GPU_CACHE_BYTES
    with tempfile.TemporaryDirectory() as logs, ExitStack() as stack:
        servers = []
        for method in work.over("servers", MAIN, lambda method: method.name):
            try:
                servers.append(stack.enter_context(Server(method, pair, Path(logs) / method.family, options)))
            except RuntimeError as error:
                refuse(store, work, method, error)
        for concurrency, repeat in work.over("vllm bench serve", missing, lambda m: f"{m[0]} at a time"):
            for server in servers:
                figures = server.bench(
                    workload.prompt_set.prompts,
                    concurrency=concurrency,
                    num_prompts=max(16, 4 * concurrency),
                    max_tokens=workload.prompt_set.max_tokens,
                    seed=repeat,
                )
                row = {"method": server.method.name, "concurrency": concurrency, "repeat": repeat}
                store.add("served", key | row | figures)


def measure_energy(plan: Plan, folder: Path, quality_of: dict[str, Quality], store: Store, work: Work) -> None:
    """Rows of `energy`: joules per output token of each main method, or one row that says why there are none."""
    if store.rows("energy"):
        return
    meter = open_meter()
    if meter is None:
        store.add("energy", {"unavailable": unavailable_reason()})
        return
    for part in plan.energy:
        workload = load_workload(plan.models, quality_of[part.prompt_set])
        pair = sized(workload, part.size, folder)
        (concurrency,) = part.concurrency
        prompts, prompt_set = workload.prompts, workload.prompt_set
        for method in work.over("energy", methods_of(part.groups), lambda method: method.name):
            with engine_up(method, pair, **shared_options(plan, workload, concurrency)) as llm:
                params = method.sampling.params(prompt_set.max_tokens, prompt_set.stop)

                def run() -> int:
                    return decode(llm, prompts, params, concurrency, 1).num_tokens  # noqa: B023

                run()
                figures = joules_per_token(run, meter, meter.idle_watts(IDLE_SECONDS))
                store.add("energy", key_of(part) | {"method": method.name, "concurrency": concurrency} | figures)


def measure_vocabulary_cost(device: str, store: Store, work: Work) -> None:
    """Rows of `vocabulary`: at the hidden sizes of the padded pairs, one request in flight."""
    if store.rows("vocabulary"):
        return
    target, draft = ("8b", "1b") if device == "cuda" else ("0.5b", "50m")
    sizes = {"target": SHAPES[target].hidden_size, "draft": SHAPES[draft].hidden_size}
    work.say(f"the cost of a large vocabulary, at {target} and {draft}")
    for row in measure_vocabulary(sizes, DEFAULT.num_speculative_tokens, DEFAULT.beam_width, 1, device):
        store.add("vocabulary", {"target": target, "draft": draft} | row)
