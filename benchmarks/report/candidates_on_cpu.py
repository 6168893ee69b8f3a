"""`page` shows tables of `benchmarks.candidates_on_cpu`: one a (pair, size, compiled or eager, temperature)."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

from benchmarks.report.tables import number, table

Row = dict[str, Any]

_INTRODUCTION = """\
# Several candidates on vLLM's CPU engine

`python -m benchmarks.candidates_on_cpu`, Model Runner V1, bfloat16, B = 4, tau = 0.5, two cores. Engines of one draft
length took turns. *acceptance length*: tokens of a target call, if it had a draft. *NLL/token*: under the target at
T = 1. *correct*: of all answers of the method. Then tok/s by requests in flight: first in tok/s, then × the target
alone of the same rounds, and × `draft_model` at the draft length of the table where it is fastest, which is found for
each number of requests in flight by itself (both are first divided by their own rounds' target alone). Speeds are
medians of few rounds on a small noisy machine: a difference below 0.05 means nothing, and rows of two tables do not
compare.
"""


def page(rows: list[Row]) -> str:
    parts = [_INTRODUCTION]
    by_setting: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        pair, size, is_compiled, _ = row["part"]
        by_setting[pair, size, is_compiled, row["temperature"]].append(row)
    for (pair, size, is_compiled, temperature), own in by_setting.items():
        sampling = "T = 1, top-k 10, top-p 0.9" if temperature else "temperature 0, lossless"
        parts += [f"## {pair}, {size}, {'compiled' if is_compiled else 'eager'}, {sampling}", _table(own)]
    return "\n".join(parts)


def _table(rows: list[Row]) -> str:
    in_flight = sorted({row["in_flight"] for row in rows})
    methods = dict.fromkeys((row["part"][3], row["candidates"]) for row in rows)
    drafts = [method for method in methods if method[1] == 0]
    speeds = {(m, n): _speed(rows, m, n) for m in methods for n in in_flight}
    relative = {(m, n): speeds[m, n] / speeds[(m[0], None), n] for m, n in speeds}
    best = {n: max(relative[draft, n] for draft in drafts) for n in in_flight}
    cells = []
    for method in sorted(methods, key=lambda m: (m[1] is not None, m[1] or 0, m[0])):
        candidates = method[1]
        own = [row for row in rows if (row["part"][3], row["candidates"]) == method]
        cells.append(
            [
                _name(method),
                "1" if candidates is None else number(_ratio(own, "drafted_tokens", "drafted_calls"), 2),
                number(_ratio(own, "nats", "lengths")),
                number(100 * sum(sum(row["correct"]) for row in own) / sum(len(row["correct"]) for row in own), 0),
                *(f"{speeds[method, n]:.0f}" for n in in_flight),
                *("1" if candidates is None else number(relative[method, n], 2) for n in in_flight),
                *("-" if candidates is None else number(relative[method, n] / best[n], 2) for n in in_flight),
            ]
        )
    header = ["", "acceptance length", "NLL/token", "correct, %", *(f"tok/s at {n}" for n in in_flight)]
    header += [f"× target at {n}" for n in in_flight] + [f"× draft_model at {n}" for n in in_flight]
    return table(header, cells)


def _name(method: tuple[int, int | None]) -> str:
    gamma, candidates = method
    if candidates is None:
        return f"target alone (beside γ = {gamma})"
    return f"draft_model γ = {gamma}" if candidates == 0 else f"MTAD γ = {gamma}, C = {candidates}"


def _speed(rows: list[Row], method: tuple[int, int | None], in_flight: int) -> float:
    return statistics.median(
        row["tokens_per_second"]
        for row in rows
        if (row["part"][3], row["candidates"]) == method and row["in_flight"] == in_flight
    )


def _ratio(rows: list[Row], above: str, below: str) -> float:
    return sum(sum(row[above]) for row in rows) / sum(sum(row[below]) for row in rows)
