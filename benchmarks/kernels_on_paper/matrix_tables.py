"""`tables` shows the compile matrix as tables for a reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.kernels_on_paper.compiled import SHARED_LIMITS

Row = dict[str, Any]
HEADER = """# The compile matrix

`python -m benchmarks.compile_matrix`. Every kernel of Model Runner V2 over what the configuration accepts, at 128,256
tokens, compiled by Triton and its own ptxas for each architecture; nothing was launched. A program's shared memory is
what fits or does not; registers and spills are a thread's; instructions are static, of sm_90. Rows: `compiled.jsonl`.
"""


def tables(rows: Sequence[Row], wanted: int, serving: Mapping[int, Sequence[tuple[str, str]]]) -> str:
    """`wanted`: how many rows the whole matrix has. `serving`: (kernel, variant) of a serving process, by gamma."""
    parts = [HEADER, "" if len(rows) == wanted else f"**{len(rows)} of {wanted} are compiled yet.**\n"]
    parts += ["## What fits\n", _what_fits(rows), "## What does not fit, or spills\n", _what_does_not(rows)]
    parts += ["## A serving process (B = 4, bfloat16, heads of 64)\n", _serving(rows, serving)]
    return "\n".join(filter(None, parts))


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def _what_fits(rows: Sequence[Row]) -> str:
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["kernel"], row["architecture"])):
        groups.setdefault((row["kernel"], row["architecture"]), []).append(row)
    return _table(
        [
            "kernel",
            "sm",
            "variants",
            "fit",
            "KiB shared",
            "limit",
            "registers",
            "spill",
            "s each",
            "s, most",
        ],
        [
            [
                kernel,
                architecture,
                len(group),
                sum(row["fits"] for row in group),
                f"{max(row['shared'] for row in group) / 1024:.1f}",
                SHARED_LIMITS[architecture],
                max(row["registers"] for row in group),
                sum(row["spilled"] > 0 for row in group),
                f"{sum(row['seconds'] for row in group) / len(group):.1f}",
                f"{max(row['seconds'] for row in group):.1f}",
            ]
            for (kernel, architecture), group in groups.items()
        ],
    )


def _what_does_not(rows: Sequence[Row]) -> str:
    found = [row for row in rows if not row["fits"] or row["spilled"]]
    if not found:
        return "Nothing: all of it fits, and no thread spills a register.\n"
    by_variant: dict[str, list[Row]] = {}
    for row in found:
        by_variant.setdefault(row["variant"], []).append(row)
    return _table(
        ["kernel", "variant", "does not fit", "KiB shared", "spilled bytes"],
        [
            [
                group[0]["kernel"],
                describe(group[0]),
                ", ".join(f"sm_{row['architecture']} {row['error']}".strip() for row in group if not row["fits"])
                or "–",
                f"{max(row['shared'] for row in group) / 1024:.1f}",
                ", ".join(f"{row['spilled']} (sm_{row['architecture']})" for row in group if row["spilled"]) or "–",
            ]
            for group in by_variant.values()
        ],
    )


def describe(row: Row) -> str:
    """A variant in words: its constexprs that decide the code, and its types."""
    types = {kind.split()[0].lstrip("*") for kind in row["specialized"].values() if kind.startswith("*")}
    floats = sorted(types & {"bf16", "fp32", "fp64"}) if "bf16" in types else ["fp32"]
    return ", ".join([*(f"{name}={value}" for name, value in row["constexprs"].items()), "/".join(floats)])


def _serving(rows: Sequence[Row], serving: Mapping[int, Sequence[tuple[str, str]]]) -> str:
    compiled = {row["variant"]: row for row in rows if row["architecture"] == 90}
    counts = {gamma: Counter(name for name, _ in variants) for gamma, variants in serving.items()}
    shortest = min(serving)
    lines = []
    for name in sorted(counts[shortest]):
        own = [compiled[v] for n, v in serving[shortest] if n == name and v in compiled]
        instructions = sorted({(row["instructions"], row["looped"]) for row in own})
        seconds = sum(row["seconds"] for row in own)
        known = len(own) == counts[shortest][name]
        span = ", ".join(f"{n} ({looped})" if looped else f"{n}" for n, looped in instructions) or "?"
        lines.append([name, *(of[name] for of in counts.values()), f"{seconds:.1f}" if known else "?", span])
    lines.append(["all", *(sum(of.values()) for of in counts.values()), "", ""])
    names = ["kernel", *(f"variants, gamma = {gamma}" for gamma in serving)]
    return _table([*names, f"s to compile them, gamma = {shortest}", "instructions (of them in loops)"], lines)
