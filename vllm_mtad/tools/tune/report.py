"""The tuner prints its report and writes it as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from vllm_mtad.config.options import METHOD
from vllm_mtad.tools.harness.intervals import Interval
from vllm_mtad.tools.tune.prepare import Inputs
from vllm_mtad.tools.tune.rows import Row, Speed, command_line, speculative_config
from vllm_mtad.tools.tune.scoring import Scores
from vllm_mtad.tools.tune.settings import Settings
from vllm_mtad.tools.tune.timing import Measured
from vllm_mtad.tools.tune.wishes import Choice, on_front

PLAIN_WIDTH = 160
"""Columns when the output is not a terminal."""
FEW_PROMPTS = 30
UNSTEADY = 0.1
"""The report says so if the target's own rounds differ by more than this share."""
LOSSY = (
    "MTAD is lossy: sampled text does not follow the target's own distribution. At temperature 0 its default is greedy"
    " decoding's own text."
)
EAGER = (
    "Engines ran eagerly, to start sooner; vLLM compiles by default, which changes speeds:"
    """ --engine '{"enforce_eager": false}' does it here too."""
)
CORRECTED = (
    "draft_model on a CPU was measured with two bugs of vLLM 0.32.0 corrected (patches/0.32.0): as installed, its"
    " sampled text is wrong."
)


@dataclass(frozen=True)
class Outcome:
    """`measured`, `scores`: of each row, in the same order."""

    settings: Settings
    machine: dict[str, Any]
    rows: list[Row]
    choices: list[Choice]
    measured: list[Measured]
    scores: list[Scores | None]
    inputs: Inputs


def print_outcome(console: Console, outcome: Outcome) -> None:
    console.print(table_of(outcome.rows, outcome.settings.concurrency))
    for row in outcome.rows:
        if row.failure is not None:
            console.print(
                f"  {row.label} was not measured: {row.failure}", style="yellow", highlight=False, markup=False
            )
    for note in notes(outcome):
        console.print(f"  {note}", style="dim", highlight=False, markup=False)
    for choice in outcome.choices:
        print_choice(console, choice, outcome.settings.draft)


def table_of(rows: list[Row], concurrency: tuple[int, ...]) -> Table:
    """One row a way to decode; see `notes` for what the columns are."""
    accuracy = any(row.accuracy is not None for row in rows)
    names = ["way", "acceptance length", *(f"tok/s at {n}" for n in concurrency), "nats/token", "difference"]
    table = Table(box=SIMPLE_HEAD)
    for name in [*names, *(["right", "difference"] if accuracy else [])]:
        table.add_column(name, justify="left" if name == "way" else "right", no_wrap=name == "way")
    fronts = [on_front(rows, in_flight) for in_flight in concurrency]
    for at, row in enumerate(rows):
        if row.failure is not None:
            table.add_row(row.label, "not measured")
            continue
        cells = [row.label, f"{row.mean_acceptance_length:.2f}" if row.mean_acceptance_length else "-"]
        cells += [f"{speed_cell(row.speeds[n])} {' *'[front[at]]}" for n, front in zip(concurrency, fronts)]
        cells += [f"{row.nats:.3f}", _difference(row, row.nats_difference, "+.3f", 1)]
        if accuracy:
            cells += ["-" if row.accuracy is None else f"{row.accuracy:.1%}"]
            cells += [_difference(row, row.accuracy_difference, "+.1f", 100)]
        table.add_row(*cells)
    return table


def speed_cell(speed: Speed) -> str:
    return f"{speed.tokens_per_second:.0f}, {speed.ratio:.2f}x ({speed.low:.2f}-{speed.high:.2f})"


def _difference(row: Row, interval: Interval | None, form: str, unit: float) -> str:
    if interval is None or row.method.speculative is None:
        return "-"
    return f"{interval.value * unit:{form}} [{interval.low * unit:{form}}, {interval.high * unit:{form}}]"


def print_choice(console: Console, choice: Choice, draft: str) -> None:
    wish, row = choice.wish.name, choice.row
    line = command_line(row.method, draft)
    heading = f"\nFor {wish} at {choice.concurrency} in flight"
    if row.is_mtad:
        console.print(f"{heading}: {row.label}, {choice.why}", style="bold", highlight=False, markup=False)
    else:
        console.print(f"{heading}: do not use MTAD here: {choice.why}", style="bold", highlight=False, markup=False)
    # As one line whatever the width, to be copied.
    console.print(
        f"  {line or 'vllm serve without --speculative-config'}", soft_wrap=True, highlight=False, markup=False
    )
    for caution in choice.cautions:
        console.print(f"  {caution}", style="dim", highlight=False, markup=False)


def notes(outcome: Outcome) -> list[str]:
    """How it was measured, what the columns are, and what weakens the result."""
    settings, rows, inputs = outcome.settings, outcome.rows, outcome.inputs
    sampling, num_prompts = settings.sampling, len(inputs.prompts)
    many = f" x {settings.samples} samples" if settings.samples > 1 else ""
    found = [
        LOSSY,
        f"{num_prompts} prompts{many}, T = {sampling.temperature:g}, top-k {sampling.top_k}, top-p {sampling.top_p:g},"
        f" at most {settings.max_tokens} tokens. {_how_timed(outcome)}",
        "acceptance length: tokens of a target call, over the calls that had a draft. tok/s: the median of the rounds;"
        " in brackets the slowest and the fastest round's ratio to the target alone in that round. *: on the Pareto"
        " front, nothing else is as fast and as likely and better in one; what is lossless counts as exactly as likely"
        " as plain sampling.",
        "nats/token: mean negative log-likelihood under the target at T = 1 (lower is likelier), with the 95 %"
        " interval of the paired difference to the target alone; fastest asks for its upper end to be at or below 0,"
        " and for every round to be faster than every round of the fastest lossless way.",
    ]
    if inputs.checker is not None:
        found.append("right: by the checker; a setting shown less often right (interval below 0) is never recommended.")
    mtad = [row for row in rows if row.is_mtad and row.failure is None]
    if len(mtad) > 1:
        found.append(
            f"Each interval is of one setting; the best of {len(mtad)} looks a little better here than on new prompts."
        )
    if num_prompts < FEW_PROMPTS:
        found.append(f"{num_prompts} prompts are few: the intervals are rough. {FEW_PROMPTS} or more are better.")
    if outcome.machine["device"] == "cpu":
        found += [CORRECTED, EAGER] if outcome.inputs.engine.get("enforce_eager", True) else [CORRECTED]
    return found + _complaints(outcome)


def _how_timed(outcome: Outcome) -> str:
    settings = outcome.settings
    if settings.together > 1:
        return f"Up to {settings.together} engines were up at once, the target among them, and took turns."
    again = [row.label for row, measured in zip(outcome.rows, outcome.measured) if len(measured.passes) > 1]
    timed = f", and at the end once more: {', '.join(again)}" if again else ""
    return f"Each engine ran alone in turn, timed in {settings.rounds} rounds after a warm-up{timed}."


def _complaints(outcome: Outcome) -> list[str]:
    found = []
    for in_flight, own in outcome.rows[0].speeds.items():
        if own.low < 1 - UNSTEADY or own.high > 1 + UNSTEADY:
            found.append(
                f"The machine was not steady: at {in_flight} in flight the target alone, timed more than once, ran at"
                f" {own.low:.2f}x to {own.high:.2f}x of its own speed. All speeds are that uncertain."
            )
    base = outcome.rows[0].repetition
    for choice in outcome.choices:
        if choice.row.is_mtad and choice.row.repetition > base + 0.01:
            found.append(
                f"{choice.row.label} repeats itself more: {choice.row.repetition:.1%} of its 4-grams stood in the same"
                f" answer before, {base:.1%} of plain sampling's."
            )
    if (checker := outcome.inputs.checker) and checker.failures:
        found.append(checker.complaint)
    return list(dict.fromkeys(found))


def write_json(path: Path, outcome: Outcome) -> None:
    path.write_text(json.dumps(as_json(outcome), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def as_json(outcome: Outcome) -> dict[str, Any]:
    settings = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(outcome.settings).items()}
    fronts = {in_flight: on_front(outcome.rows, in_flight) for in_flight in outcome.settings.concurrency}
    return {
        "command": outcome.machine["command"],
        "machine": outcome.machine,
        "settings": settings | {"engine": outcome.inputs.engine},
        "prompts": [asdict(prompt) for prompt in outcome.inputs.prompts],
        "rows": [
            _row_as_json(outcome, at) | {"on_front": {n: front[at] for n, front in fronts.items()}}
            for at in range(len(outcome.rows))
        ],
        "recommendations": [
            {
                "wish": asdict(choice.wish),
                "concurrency": choice.concurrency,
                "way": choice.row.label,
                "use_mtad": choice.row.method.family == METHOD,
                "speculative_config": speculative_config(choice.row.method, outcome.settings.draft),
                "command_line": command_line(choice.row.method, outcome.settings.draft),
                "why": choice.why,
                "cautions": list(choice.cautions),
            }
            for choice in outcome.choices
        ],
        "notes": notes(outcome),
    }


def _row_as_json(outcome: Outcome, at: int) -> dict[str, Any]:
    row, measured, scores = outcome.rows[at], outcome.measured[at], outcome.scores[at]
    config = speculative_config(row.method, outcome.settings.draft)
    found = {"way": row.label, "family": row.method.family, "speculative_config": config, "failure": row.failure}
    if row.failure is not None or scores is None:
        return found
    return found | {
        "lossless": row.lossless,
        "mean_acceptance_length": row.mean_acceptance_length,
        "speeds": {in_flight: asdict(speed) for in_flight, speed in row.speeds.items()},
        "passes_tokens_per_second": [asdict(each) for each in measured.passes],
        "nats_per_token": row.nats,
        "nats_difference": asdict(row.nats_difference),
        "accuracy": row.accuracy,
        "accuracy_difference": None if row.accuracy_difference is None else asdict(row.accuracy_difference),
        "repetition_rate": row.repetition,
        "nats_by_prompt": scores.nats.numerators.tolist(),
        "tokens_by_prompt": scores.nats.denominators.tolist(),
        "right_by_prompt": None if scores.right is None else scores.right.numerators.tolist(),
        "completions": [[answer.text for answer in answers] for answers in measured.answers],
    }
