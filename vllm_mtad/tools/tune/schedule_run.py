"""`run_schedule` measures draft lengths with more and more requests in flight, and the schedule that it recommends."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from vllm_mtad.config.options import MTADOptions
from vllm_mtad.tools.harness.engines import on_cpu
from vllm_mtad.tools.harness.errors import TargetError
from vllm_mtad.tools.harness.machine import describe_machine
from vllm_mtad.tools.harness.methods import Method, mtad, target_alone
from vllm_mtad.tools.harness.progress import Bar, bars, console_of_width
from vllm_mtad.tools.tune.prepare import Inputs, read_inputs
from vllm_mtad.tools.tune.report import EAGER, LOSSY, PLAIN_WIDTH, speed_cell
from vllm_mtad.tools.tune.rows import Speed, command_line, speculative_config
from vllm_mtad.tools.tune.schedule import MARGIN, OFF, Schedule, recommend, slower_than_the_target
from vllm_mtad.tools.tune.settings import Settings
from vllm_mtad.tools.tune.timing import Bench, Measured, measure_alone, measure_together, speed, time_again


class ScheduleTuner:
    """Measures draft lengths, then the schedule beside those that it uses; `measured[0]` is the target alone."""

    def __init__(self, settings: Settings, inputs: Inputs, bar: Bar) -> None:
        self.settings = settings
        self.bench = Bench.of(settings, inputs, 0, bar)  # speed alone is asked for
        lengths = settings.grid.num_speculative_tokens
        self.measured = [Measured(target_alone(settings.sampling)), *(Measured(self._method(n)) for n in lengths)]
        self.schedule: Schedule = []
        self.recommended: Method | None = None
        """None: the target alone is the fastest everywhere."""

    def search(self) -> None:
        target, *fixed = self.measured
        self._measure(fixed)
        ways = {own.method.num_speculative_tokens: own for own in self.measured if own.failure is None}
        if len(ways) == 1:
            raise TargetError(f"No draft length could be measured: {fixed[0].failure}")
        ratios = {
            n: {length: speed(own, target, n).ratio for length, own in ways.items()} for n in self.bench.concurrency
        }
        self.schedule = recommend(ratios, self.bench.engine["max_num_seqs"])
        used = sorted({length for _, _, length in self.schedule} - {OFF})
        if not used:
            return
        self.recommended = self._method(used[-1], self.schedule if len(self.schedule) > 1 else None)
        self._measure([ways[length] for length in used], is_again=True)
        if len(self.schedule) > 1:
            self.measured.append(Measured(self.recommended))
            self._measure(self.measured[-1:], is_again=False)

    def _measure(self, ways: list[Measured], is_again: bool = False) -> None:
        target = self.measured[0]
        if self.settings.together > 1:
            measure_together(self.bench, target, ways, self.settings.together)
        elif is_again:
            time_again(self.bench, [target, *ways])
        else:
            measure_alone(self.bench, ways if target.passes else [target, *ways])

    def _method(self, length: int, schedule: Schedule | None = None) -> Method:
        grid = self.settings.grid
        options = MTADOptions(length, grid.beam_widths[0], grid.thresholds[0])
        return mtad(options, self.settings.sampling, schedule)

    def speeds(self) -> list[dict[int, Speed]]:
        """Of each of `measured`, by requests in flight; empty where it failed."""
        target = self.measured[0]
        return [
            {} if own.failure is not None else {n: speed(own, target, n) for n in self.bench.concurrency}
            for own in self.measured
        ]


def run_schedule(settings: Settings, command: str) -> None:
    """Measure, print the table and the recommendation, and write all of it to `settings.json` if given.

    Raises:
        InputError: before any engine starts.
        TargetError: if the target alone cannot be run, or no draft length.
    """
    inputs = read_inputs(settings)
    with bars() as bar:
        tuner = ScheduleTuner(settings, inputs, bar)
        tuner.search()
    machine = describe_machine(command, "cpu" if on_cpu() else "cuda")
    _print(console_of_width(PLAIN_WIDTH), tuner, machine["device"])
    if settings.json is not None:
        _write(settings.json, tuner, machine)


def _print(console: Console, tuner: ScheduleTuner, device: str) -> None:
    settings = tuner.settings
    table = Table("way", *(f"tok/s at {n}" for n in settings.concurrency), box=SIMPLE_HEAD)
    for own, speeds in zip(tuner.measured, tuner.speeds()):
        table.add_row(own.method.full_name, *(map(speed_cell, speeds.values()) if speeds else ["not measured"]))
    console.print(table)
    sampling = settings.sampling
    notes = [f"{own.method.full_name} was not measured: {own.failure}" for own in tuner.measured if own.failure] + [
        LOSSY,
        f"{len(tuner.bench.prompt_ids)} prompts, T = {sampling.temperature:g}, top-k {sampling.top_k}, top-p"
        f" {sampling.top_p:g}, at most {settings.max_tokens} tokens; {settings.rounds} timed rounds, and again for what"
        " is recommended. In brackets the slowest and the fastest round's ratio to the target alone.",
        f"Another length is recommended only where it is more than {MARGIN:.0%} faster than that of smaller batches.",
    ]
    if device == "cpu" and tuner.bench.engine.get("enforce_eager", True):
        notes.append(EAGER)
    for note in notes:
        console.print(f"  {note}", style="dim", highlight=False, markup=False)
    if tuner.recommended is None:
        console.print(
            "\nDo not use MTAD for these prompts: no draft length is faster than the target alone.", style="bold"
        )
        return
    of_method = {own.method: speeds for own, speeds in zip(tuner.measured, tuner.speeds())}
    speeds = of_method[tuner.recommended]
    heading = "Recommended:" if speeds else "The schedule that these speeds suggest could not be measured:"
    console.print(f"\n{heading}", style="bold")
    if slower := slower_than_the_target({n: value.ratio for n, value in speeds.items()}):
        console.print(f"  {slower}", style="yellow", highlight=False, markup=False)
    line = command_line(tuner.recommended, settings.draft)
    console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)


def _write(path: Path, tuner: ScheduleTuner, machine: dict[str, Any]) -> None:
    rows = [
        {
            "way": own.method.full_name,
            "failure": own.failure,
            "speeds": {n: asdict(value) for n, value in speeds.items()},
            "passes_tokens_per_second": [asdict(each) for each in own.passes],
        }
        for own, speeds in zip(tuner.measured, tuner.speeds())
    ]
    recommended = tuner.recommended
    config = None if recommended is None else speculative_config(recommended, tuner.settings.draft)
    report = {"command": machine["command"], "machine": machine, "rows": rows, "schedule": tuner.schedule}
    settings = {"rounds": tuner.settings.rounds, "max_tokens": tuner.settings.max_tokens, "engine": tuner.bench.engine}
    settings |= {"num_prompts": len(tuner.bench.prompt_ids), "sampling": asdict(tuner.settings.sampling)}
    report |= {"speculative_config": config, "settings": settings}
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
