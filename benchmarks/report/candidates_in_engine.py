"""`sections` shows tables of `benchmarks.candidates_in_engine`.

They set engines beside the reference, and say what their lengths would be worth.
"""

from __future__ import annotations

from typing import Any

from benchmarks.report.tables import number, table, with_interval
from vllm_mtad.tools.harness.intervals import Ratio, interval, paired_difference

Row = dict[str, Any]
GAMMAS, CANDIDATES = (4, 6, 8), (1, 2, 4)
DRAFT_PASS = 0.165
"""A pass of Llama-3.2-1B by one of Llama-3.1-8B: the weights that each reads, 2.47 by 15.01 GB."""
TREE_PASSES = (1.0, 1.1, 1.25)

_IN_ENGINES = """\
## In vLLM, T = 1, top-k 10, top-p 0.9

`python -m benchmarks.candidates_in_engine`: MTAD on Model Runner V2 in Triton's interpreter, `draft_model` on the CPU
engine, float32, 7 requests in flight, and the reference on the same prompts with seeds of its own. *difference*: engine
minus reference, paired by prompt.
"""
_FORMULA = f"""\
## What that would mean

Not measured: arithmetic. Let a pass of the draft model cost d target passes of one row, and a pass of the target over
R rows v(R) of them. A call then costs gamma d + v(R) and gives E tokens, so that MTAD is faster than `draft_model` by

    [E / (gamma d + v(R))] / [E' / (gamma' d + v(R'))]

Inputs: E of the tables above (the reference's, `draft_model`'s from the CPU engine). R = 1 + gamma C. d = {DRAFT_PASS}:
the bytes of weights that a pass of Llama-3.2-1B reads by those of Llama-3.1-8B. v = 1 for one candidate and for
`draft_model`, which is at its own best gamma'; what it may be for several candidates, the columns say. What a pass over
B beams costs more than one over a single row, and acceptance, are left out.
"""


def sections(decoded: list[Row], engines: list[Row]) -> list[str]:
    by_setting = {tuple(row["setting"]): row for row in engines}
    reference = {tuple(row["setting"]): row for row in decoded}
    parts = [_IN_ENGINES, _engine_table(by_setting, reference)]
    for pair in ("minisql", "tales"):
        drafts = {g: by_setting[pair, g, 0] for g in GAMMAS if (pair, g, 0) in by_setting}
        if drafts:
            parts += [_FORMULA] if _FORMULA not in parts else []
            parts += [f"### {pair}", _worth_table(pair, drafts, reference)]
    return parts


def _efficiency(row: Row, num_prompts: int) -> Ratio:
    """Tokens by calls that had a draft."""
    calls = row["calls"][:num_prompts]
    return Ratio.of([sum(own[1:]) for own in calls], [len(own) - 1 for own in calls])


def _engine_table(engines: dict[tuple, Row], reference: dict[tuple, Row]) -> str:
    cells = []
    for (pair, gamma, candidates), row in sorted(
        engines.items(), key=lambda item: (item[0][0], item[0][2], item[0][1])
    ):
        own = _efficiency(row, row["prompts"])
        method, expected = "draft_model", None
        if candidates:
            method = f"MTAD, C = {candidates}"
            expected = _efficiency(reference[pair, 1.0, gamma, candidates, "own"], row["prompts"])
        cells.append(
            [
                f"{pair}, {method}",
                str(gamma),
                str(row["prompts"]),
                str(1 + gamma * max(candidates, 1)),
                with_interval(interval(own), 2),
                "-" if expected is None else with_interval(interval(expected), 2),
                "-" if expected is None else with_interval(paired_difference(own, expected), 2, True),
            ]
        )
    header = ["engine", "gamma", "prompts", "rows/call", "acceptance length", "the reference's", "difference"]
    return table(header, cells)


def _worth_table(pair: str, drafts: dict[int, Row], reference: dict[tuple, Row]) -> str:
    best, gamma_of_best = max(
        (_efficiency(row, row["prompts"]).value() / (g * DRAFT_PASS + 1), g) for g, row in drafts.items()
    )
    tokens = _efficiency(drafts[gamma_of_best], drafts[gamma_of_best]["prompts"]).value()
    cells = [["draft_model", str(gamma_of_best), number(tokens, 2), str(1 + gamma_of_best), *["1"] * len(TREE_PASSES)]]
    for gamma in GAMMAS:
        for candidates in CANDIDATES:
            row = reference.get((pair, 1.0, gamma, candidates, "own"))
            if row is None:
                continue
            tokens = _efficiency(row, row["prompts"]).value()
            passes = TREE_PASSES if candidates > 1 else (1.0,) * len(TREE_PASSES)
            ratios = [tokens / (gamma * DRAFT_PASS + v) / best for v in passes]
            head = [f"MTAD, C = {candidates}", str(gamma), number(tokens, 2), str(1 + gamma * candidates)]
            cells.append([*head, *(number(ratio, 2) for ratio in ratios)])
    return table(["", "gamma", "acceptance length", "rows/call", *(f"v(R) = {v}" for v in TREE_PASSES)], cells)
