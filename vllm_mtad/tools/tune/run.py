"""`run_tune` runs the tuner from start to end."""

from __future__ import annotations

from vllm_mtad.tools.harness.engines import on_cpu
from vllm_mtad.tools.harness.machine import describe_machine
from vllm_mtad.tools.harness.methods import Method
from vllm_mtad.tools.harness.progress import Bar, bars, console_of_width
from vllm_mtad.tools.tune.candidates import baselines, first_stage, second_stage
from vllm_mtad.tools.tune.prepare import Inputs, read_inputs
from vllm_mtad.tools.tune.report import PLAIN_WIDTH, Outcome, print_outcome, write_json
from vllm_mtad.tools.tune.rows import Row
from vllm_mtad.tools.tune.scoring import Scores, row_of, score
from vllm_mtad.tools.tune.settings import Settings
from vllm_mtad.tools.tune.timing import Bench, Measured, measure_alone, measure_together, time_again
from vllm_mtad.tools.tune.wishes import best_mtad, choose, fastest_lossless


class Tuner:
    """Measures methods one after the other; `measured[0]` is the target alone."""

    def __init__(self, settings: Settings, inputs: Inputs, bar: Bar) -> None:
        self.settings, self.inputs = settings, inputs
        self.bench = Bench.of(settings, inputs, settings.samples, bar)
        self.measured: list[Measured] = []
        self.scores: list[Scores | None] = []

    def search(self) -> None:
        grid, sampling = self.settings.grid, self.settings.sampling
        self._measure([*baselines(grid, sampling), *first_stage(grid, sampling, self.settings.full_grid)])
        if not self.settings.full_grid:
            self._measure(second_stage(grid, sampling, self.rows(), self.settings.wishes, self.settings.concurrency))
        if self.settings.together == 1:
            finalists = {row.method for row in self._finalists()}
            time_again(self.bench, [measured for measured in self.measured if measured.method in finalists])

    def _finalists(self) -> list[Row]:
        """The target alone, and for each choice the fastest lossless way and the MTAD setting that serves best."""
        rows = self.rows()
        found: list[Row | None] = [rows[0]]
        for in_flight in self.settings.concurrency:
            found.append(fastest_lossless(rows, in_flight))
            found += [best_mtad(rows, wish, in_flight) for wish in self.settings.wishes]
        return [row for row in found if row is not None]

    def rows(self) -> list[Row]:
        target, of_target = self.measured[0], self.scores[0]
        assert of_target is not None  # or there was a TargetError
        return [row_of(measured, target, scores, of_target) for measured, scores in zip(self.measured, self.scores)]

    def _measure(self, methods: list[Method]) -> None:
        if not methods:
            return
        new = [Measured(method) for method in methods]
        target = (self.measured or new)[0]
        if self.settings.together == 1:
            measure_alone(self.bench, new)
        else:
            measure_together(self.bench, target, [m for m in new if m is not target], self.settings.together)
        for measured in new:
            scores = None if measured.failure else score(measured, self.inputs.prompts, self.inputs.checker)
            self.measured.append(measured)
            self.scores.append(scores)


def run_tune(settings: Settings, command: str) -> None:
    """Measure, print the table and the choices, and write all of it to `settings.json` if given.

    Raises:
        InputError: before any engine starts.
        TargetError: if the target alone cannot be run.
    """
    inputs = read_inputs(settings)
    with bars() as bar:
        tuner = Tuner(settings, inputs, bar)
        tuner.search()
    rows = tuner.rows()
    choices = [choose(rows, wish, in_flight) for wish in settings.wishes for in_flight in settings.concurrency]
    machine = describe_machine(command, "cpu" if on_cpu() else "cuda")
    outcome = Outcome(settings, machine, rows, choices, tuner.measured, tuner.scores, inputs)
    print_outcome(console_of_width(PLAIN_WIDTH), outcome)
    if settings.json is not None:
        write_json(settings.json, outcome)
