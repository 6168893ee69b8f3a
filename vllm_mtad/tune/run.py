"""The tuner from start to end."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vllm_mtad.measure.engines import quiet_vllm
from vllm_mtad.measure.likelihood import TargetLikelihood
from vllm_mtad.measure.methods import Method
from vllm_mtad.pair import Pair
from vllm_mtad.tune.candidates import baselines, first_stage, second_stage
from vllm_mtad.tune.prepare import Inputs, read_inputs
from vllm_mtad.tune.report import PLAIN_WIDTH, Outcome, print_outcome, write_json
from vllm_mtad.tune.rows import Row
from vllm_mtad.tune.scoring import Scores, row_of, score, target_likelihood
from vllm_mtad.tune.settings import Settings
from vllm_mtad.tune.timing import Bar, Bench, Measured, measure_alone, measure_together, time_again
from vllm_mtad.tune.wishes import best_mtad, choose, fastest_lossless


class Tuner:
    """Measures methods one after the other; `measured[0]` is the target alone."""

    def __init__(self, settings: Settings, inputs: Inputs, bar: Bar) -> None:
        self.settings, self.inputs = settings, inputs
        self.bench = Bench(
            pair=Pair(Path(settings.target), Path(settings.draft)),
            engine=inputs.engine,
            prompts=[prompt.text for prompt in inputs.prompts],
            params=settings.sampling.params(settings.max_tokens),
            concurrency=settings.concurrency,
            samples=settings.samples,
            rounds=settings.rounds,
            bar=bar,
        )
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
        """Run, then score with no engine up: on a GPU there may be no room for both."""
        if not methods:
            return
        new = [Measured(method) for method in methods]
        target = (self.measured or new)[0]
        if self.settings.together == 1:
            measure_alone(self.bench, new)
        else:
            measure_together(self.bench, target, [m for m in new if m is not target], self.settings.together)
        advance = self.bench.bar("likelihood", len(new))
        with target_likelihood(self.settings.target) as likelihood:
            for measured in new:
                self.measured.append(measured)
                self.scores.append(self._score(measured, likelihood) if measured.failure is None else None)
                advance()

    def _score(self, measured: Measured, likelihood: TargetLikelihood) -> Scores:
        inputs = self.inputs
        return score(measured, inputs.prompts, inputs.prompt_ids, likelihood, inputs.checker)


def run_tune(settings: Settings, command: str) -> None:
    """Measure, print the table and the choices, and write all of it to `settings.json` if given.

    Raises:
        InputError: before any engine starts.
        TargetError: if the target alone cannot be run.
    """
    quiet_vllm()
    inputs = read_inputs(settings)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def bar(description: str, total: int) -> Callable[[], None]:
            return partial(progress.advance, progress.add_task(description, total=total))

        tuner = Tuner(settings, inputs, bar)
        tuner.search()
    rows = tuner.rows()
    choices = [choose(rows, wish, in_flight) for wish in settings.wishes for in_flight in settings.concurrency]
    outcome = Outcome(settings, command, versions(), rows, choices, tuner.measured, tuner.scores, inputs)
    console = Console()
    print_outcome(console if console.is_terminal else Console(width=PLAIN_WIDTH), outcome)
    if settings.json is not None:
        write_json(settings.json, outcome)


def versions() -> dict[str, str]:
    import torch

    found = {name: importlib.metadata.version(name) for name in ("vllm", "vllm-mtad", "torch", "transformers")}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {platform.machine()}"
    return found | {"python": platform.python_version(), "device": device}
