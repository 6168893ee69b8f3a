"""These functions write Markdown tables of a run's figures.

Intervals are 95 %, bootstrapped over prompts; differences are paired.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.report.results import BASE, Answers, Results, Speedup, difference
from vllm_mtad.tools.harness.intervals import Interval


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are numbers."""
    lines = [f"| {' | '.join(header)} |", "|---|" + "--:|" * (len(header) - 1)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows]) + "\n"


def number(value: float, digits: int = 3, sign: bool = False, scale: float = 1.0) -> str:
    return f"{value * scale:{'+' if sign else ''}.{digits}f}"


def with_interval(found: Interval, digits: int = 3, sign: bool = False, scale: float = 1.0) -> str:
    """`value [low, high]`; bold where a difference's interval excludes 0."""
    low, value, high = (number(v, digits, sign, scale) for v in (found.low, found.value, found.high))
    text = f"{value} [{low}, {high}]"
    return f"**{text}**" if sign and found.excludes_zero else text


def speed_cell(speed: Speedup | None) -> str:
    return "-" if speed is None else f"{speed.ratio:.2f}× [{speed.low:.2f}, {speed.high:.2f}]"


def quality_table(results: Results, prompt_set: str, methods: Sequence[str]) -> str:
    """One row a method: what a target call gives, what the text is worth, how fast it came; differences to the target
    alone under the same sampling's seeds and prompts.
    """
    answers = results.answers[prompt_set]
    base, judged = answers[BASE], answers[BASE].is_judged
    header = ["method", "acceptance length", "accepted"]
    header += ["correct, %", "difference, points"] if judged else []
    header += ["NLL/token", "difference", "ppl", "speed"]
    rows = []
    for name in methods:
        if name not in answers:
            continue
        row = answers[name]
        efficiency, rate = row.mean_acceptance_length, row.acceptance_rate
        cells = [name, "1" if efficiency is None else with_interval(efficiency, 2)]
        cells.append("-" if rate is None else f"{rate:.1%}")
        if judged:
            cells.append(number(row.accuracy().value(), 1, scale=100))
            cells.append("-" if name == BASE else with_interval(difference(row, base, "accuracy"), 1, True, 100))
        cells.append(number(row.mean_nll().value()))
        cells.append("-" if name == BASE else with_interval(difference(row, base, "mean_nll"), 3, True))
        cells += [number(row.perplexity), speed_cell(results.speed_of(prompt_set, name))]
        rows.append(cells)
    return table(header, rows)


def text_table(results: Results, prompt_set: str, methods: Sequence[str]) -> str:
    """What low likelihood alone does not show: length, joint likelihood, repetition, variety."""
    answers = results.answers[prompt_set]
    header = ("method", "tokens/answer", "NLL/answer", "repeated 4-grams", "distinct-1", "distinct-2", "distinct-3")
    rows = []
    for name in methods:
        if name in answers:
            row = answers[name]
            variety = [number(row.distinct(n), 4) for n in (1, 2, 3)]
            cells = [name, number(row.mean_length, 1), number(row.joint_nll().value(), 2)]
            rows.append([*cells, f"{row.repetition:.2%}", *variety])
    return table(header, rows)


def position_table(results: Results, prompt_set: str, methods: Sequence[str]) -> str:
    """Share of the target calls that kept at least so many draft tokens."""
    shown = [results.answers[prompt_set][name] for name in methods if name in results.answers[prompt_set]]
    shown = [row for row in shown if row.gamma]
    longest = max((row.gamma for row in shown), default=0)
    header = ["method", *(f"≥ {i}" for i in range(1, longest + 1))]
    rows = [
        [row.method, *(f"{share:.1%}" for share in row.per_position), *["-"] * (longest - row.gamma)] for row in shown
    ]
    return table(header, rows)


def concurrency_table(found: dict[int, dict[str, Speedup]]) -> str:
    """`found`: concurrency -> method -> speed."""
    methods = [name for name in next(iter(found.values())) if name != BASE]
    header = ["requests in flight", "target alone, tok/s", *methods, f"{methods[-1]}, ms/token"]
    rows = [
        [
            str(concurrency),
            f"{own[BASE].tokens_per_second:.0f}",
            *(speed_cell(own.get(name)) for name in methods),
            f"{1e3 * own[methods[-1]].seconds_per_token:.1f}" if methods[-1] in own else "-",
        ]
        for concurrency, own in sorted(found.items())
    ]
    return table(header, rows)


def unavailable_table(reasons: dict[str, str]) -> str:
    return table(("not run", "why"), list(reasons.items())).replace("--:", "---")


def interval_of_ablation(of: Answers, base: Answers) -> list[str]:
    """Paired differences of one half of the method: correct answers in points, nats per token."""
    cells = [with_interval(difference(of, base, "accuracy"), 1, True, 100)] if of.is_judged else []
    return [*cells, with_interval(difference(of, base, "mean_nll"), 3, True)]
