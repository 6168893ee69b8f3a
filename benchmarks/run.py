"""`python -m benchmarks run` does what a plan says and the folder does not hold yet."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import quality, speed, steps
from benchmarks.catalogue import on_this_device
from benchmarks.extras import measure_energy, measure_vocabulary_cost, serve_methods
from benchmarks.plan import Plan, Quality
from benchmarks.reference import answer_slowly
from benchmarks.store import Store
from vllm_mtad.tools.harness.engines import on_cpu
from vllm_mtad.tools.harness.machine import command_of, describe_machine
from vllm_mtad.tools.harness.progress import Work

PARTS = ("quality", "speed", "steps", "served", "energy", "vocabulary")


def run_plan(plan: Plan, folder: Path, parts: Sequence[str] = PARTS) -> None:
    """Measure; interrupted, it goes on where it was. `parts`: some of `PARTS`, the others are left for another call."""
    device = "cpu" if on_cpu() else "cuda"
    store, work = Store(folder), Work()
    machine = describe_machine(command_of("benchmarks"), device)
    machine["command"] = machine["command"].replace(str(folder), folder.name)  # where, is of no interest to others
    store.begin(machine | {"plan": plan.as_json()})
    more, reasons = on_this_device(device)
    for name, reason in reasons.items():
        if name not in {row["method"] for row in store.rows("unavailable")}:
            store.add("unavailable", {"method": name, "reason": reason})
    with tempfile.TemporaryDirectory() as models:
        wide = Path(models)
        if "quality" in parts:
            for item in plan.quality:
                quality.answer(plan, item, more, store, work)
            for item in plan.quality:
                quality.score(plan, item, store, work)
                answer_slowly(plan, item, store, work)
        if "speed" in parts:
            for timed in plan.speed:
                speed.time_methods(plan, timed, prompts_for(plan, timed.prompt_set), wide, store, work)
        if "steps" in parts and device == "cpu":
            for timed in plan.steps:
                steps.time_steps(plan, timed, prompts_for(plan, timed.prompt_set), wide, store, work)
        if "served" in parts:
            for served in plan.served:
                serve_methods(plan, served, prompts_for(plan, served.prompt_set), wide, store, work)
        if "energy" in parts:
            of_set = {part.prompt_set: prompts_for(plan, part.prompt_set) for part in plan.energy}
            measure_energy(plan, wide, of_set, store, work)
    if "vocabulary" in parts and plan.vocabulary:
        measure_vocabulary_cost(device, store, work)
    work.say(f"done: {folder}; python -m benchmarks report {folder}")


def prompts_for(plan: Plan, prompt_set: str) -> Quality:
    """The plan's own prompts of a set; where it asks for no answers to that set, the first 200."""
    return next((item for item in plan.quality if item.prompt_set == prompt_set), Quality(prompt_set, 200, ()))
