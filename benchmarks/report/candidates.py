"""`page` shows tables of `benchmarks.candidates`.

They have one row a setting, with differences paired with one candidate on the same prompts.
"""

from __future__ import annotations

from typing import Any

from benchmarks.report.candidates_in_engine import sections
from benchmarks.report.tables import number, table, with_interval
from vllm_mtad.tools.harness.intervals import Ratio, interval, paired_difference

Rows = dict[tuple[Any, ...], dict[str, Any]]

_INTRODUCTION = """\
# Several candidates, by the slow reference

`python -m benchmarks.candidates`: `vllm_mtad/algorithm/reference.py` on the bundled pairs with Hugging Face in float32,
B = 4, tau = 0.5. *acceptance length*: tokens of a target call, if it had a draft. *rows/call*: rows that the target
scored in them, the newest token's among them; nodes that are not there are not counted (an engine of fixed shape feeds
1 + gamma C). *other won*: calls whose accepted tokens were not the chosen draft's. Brackets are 95 % intervals,
bootstrapped over prompts; differences are to one candidate at the same gamma, paired by prompt, and **bold** where the
interval excludes 0.
"""


def page(rows: list[dict[str, Any]], of_engines: list[dict[str, Any]]) -> str:
    """Markdown. `of_engines`: rows of `benchmarks.candidates_in_engine`."""
    by_setting = {tuple(row["setting"]): row for row in rows}
    parts = [_INTRODUCTION]
    for pair in ("minisql", "tales"):
        ours = {setting: row for setting, row in by_setting.items() if setting[0] == pair}
        sampled = {setting: row for setting, row in ours.items() if setting[1] > 0}
        greedy = {setting: row for setting, row in ours.items() if setting[1] == 0}
        if sampled:
            parts += [f"## {pair}, T = 1, top-k 10, top-p 0.9: {_prompts(sampled)} prompts", _sampled_table(sampled)]
        if greedy:
            parts += [f"## {pair}, temperature 0, lossless: {_prompts(greedy)} prompts", _greedy_table(greedy)]
    if of_engines:
        parts += sections(rows, of_engines)
    return "\n".join(parts)


def _prompts(rows: Rows) -> int:
    return max(row["prompts"] for row in rows.values())


def _efficiency(row: dict[str, Any]) -> Ratio:
    return Ratio.of([sum(calls[1:]) for calls in row["calls"]], [len(calls) - 1 for calls in row["calls"]])


def _rows_per_call(row: dict[str, Any]) -> float:
    return Ratio.of(row["rows"], [len(calls) - 1 for calls in row["calls"]]).value()


def _other_won(row: dict[str, Any]) -> str:
    return f"{Ratio.of(row['other_won'], [len(calls) - 1 for calls in row['calls']]).value():.0%}"


def _nll(row: dict[str, Any]) -> Ratio:
    return Ratio.of(row["nats"], row["lengths"])


def _accuracy(row: dict[str, Any]) -> Ratio:
    return Ratio.of(row["correct"], [1] * len(row["correct"]))


def _ordered(rows: Rows) -> list[tuple[Any, ...]]:
    return sorted(rows, key=lambda setting: (setting[3] > 0, setting[2:]))


def _sampled_table(rows: Rows) -> str:
    header = ["gamma", "C", "test", "acceptance length", "difference", "rows/call", "other won"]
    header += ["NLL/token", "difference", "correct, %", "difference, points"]
    cells = []
    for setting in _ordered(rows):
        row, (_, _, gamma, candidates, test) = rows[setting], setting
        nll, correct = number(_nll(row).value()), number(_accuracy(row).value(), 1, scale=100)
        if not candidates:
            cells.append(["target alone", "-", "-", "1", "-", "1", "-", nll, "-", correct, "-"])
            continue
        one = rows.get((*setting[:3], 1, "own"))
        differences = ["-"] * 3
        if candidates > 1 and one is not None:
            differences = [
                with_interval(paired_difference(_efficiency(row), _efficiency(one)), 2, True),
                with_interval(paired_difference(_nll(row), _nll(one)), 3, True),
                with_interval(paired_difference(_accuracy(row), _accuracy(one)), 1, True, 100),
            ]
        head = [
            str(gamma),
            str(candidates),
            test if candidates > 1 else "-",
            with_interval(interval(_efficiency(row)), 2),
        ]
        head += [differences[0], f"{_rows_per_call(row):.1f}", _other_won(row)]
        cells.append([*head, nll, differences[1], correct, differences[2]])
    return table(header, cells)


def _greedy_table(rows: Rows) -> str:
    alone = next((row for setting, row in rows.items() if setting[3] == 0), None)
    cells = []
    for setting in _ordered(rows):
        row, (_, _, gamma, candidates, _) = rows[setting], setting
        if not candidates:
            continue
        one = rows.get((*setting[:3], 1, "own"))
        difference = "-"
        if candidates > 1 and one is not None:
            difference = with_interval(paired_difference(_efficiency(row), _efficiency(one)), 2, True)
        same = "-" if alone is None else f"{sum(map(str.__eq__, row['digests'], alone['digests']))}"
        efficiency = with_interval(interval(_efficiency(row)), 2)
        cells.append(
            [str(gamma), str(candidates), efficiency, difference, f"{_rows_per_call(row):.1f}", _other_won(row), same]
        )
    header = [
        "gamma",
        "C",
        "acceptance length",
        "difference",
        "rows/call",
        "other won",
        "texts equal to the target's own",
    ]
    return table(header, cells)
