"""`Report` keeps results as they come, one JSON object a line, and prints them as tables at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = "gpu_checks.jsonl"


def append(file: Path, record: dict[str, Any]) -> None:
    """Append a record as one whole line: several processes write."""
    with file.open("a") as lines:
        lines.write(json.dumps(record) + "\n")


class Report:
    """The records of one run, in `folder`/gpu_checks.jsonl behind those of earlier runs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.logs = folder.resolve() / FILE, folder.resolve() / "logs"
        self._start = self.file.stat().st_size if self.file.exists() else 0

    def add(self, part: str, **values: Any) -> None:
        record = {"part": part} | {name: value for name, value in values.items() if value is not None}
        append(self.file, record)
        if "check" in record or "error" in record:
            print(_line(record), flush=True)

    def records(self) -> list[dict[str, Any]]:
        with self.file.open() as lines:
            lines.seek(self._start)
            return [json.loads(line) for line in lines]

    def failed(self) -> bool:
        """Whether a check failed or anything raised an error; a missed aim is not a failure."""
        return any(record.get("passed") is False or "error" in record for record in self.records())

    def print_tables(self) -> None:
        records = self.records()
        for part, table in TABLES.items():
            if own := [record for record in records if record["part"] == part]:
                print(f"\n{part}")
                table(own)


def _line(record: dict[str, Any]) -> str:
    if "check" in record:
        return f"{'pass' if record['passed'] else 'FAIL'}  {record['check']}  {json.dumps(record['detail'])[:400]}"
    what = next((record[name] for name in ("engine", "variant", "server") if name in record), "")
    return f"ERROR  {record['part']} {what}: {record['error']}"


def _print_checks(records: list[dict[str, Any]]) -> None:
    for record in records:
        if "check" in record:
            print(f"  {'pass' if record['passed'] else 'FAIL'}  {record['check']}")
        if "error" in record:
            print(f"  ERROR {record['error'].strip().splitlines()[-1][:200]}")
        if "aim" in record:
            print(f"  {'met   ' if record['met'] else 'MISSED'}  {record['aim']}: {record['value']:.3f}")


def _drafting(records: list[dict[str, Any]]) -> None:
    """Medians in ms; `x B1` and `x draft_model` compare with those two on the same batch."""
    timed = [record for record in records if record.get("timed")]
    if timed:
        print(f"  {'requests':>8}{'context':>8}{'longest':>9}  {'variant':<26}", end="")
        print(f"{'ms':>8}{'device':>8}{'host':>8}{'floor':>8}{'x floor':>9}{'x B1':>7}{'x draft_model':>15}")
    medians = {(r["requests"], r["context"], r["longest"], r["variant"]): r["ms"][1] for r in timed}
    for r in timed:
        at, ms = (r["requests"], r["context"], r["longest"]), r["ms"][1]
        b1, draft_model = medians.get((*at, "mtad B1 graphs")), medians.get((*at, "draft_model"))
        print(f"  {at[0]:>8}{at[1]:>8}{at[2]:>9}  {r['variant']:<26}", end="")
        print(f"{ms:>8.3f}{r['device_ms'][1]:>8.3f}{r['host_ms']:>8.3f}", end="")
        print(f"{r['floor_ms']:>8.3f}{ms / r['floor_ms']:>9.2f}{_ratio(ms, b1):>7}{_ratio(ms, draft_model):>15}")
    _print_checks(records)


def _ratio(value: float, base: float | None) -> str:
    return f"{value / base:.2f}" if base else "-"


def _trees(records: list[dict[str, Any]]) -> None:
    """Medians in ms of one layer's attention."""
    timed = [record for record in records if record.get("timed")]
    if timed:
        print(f"  {'requests':>8}{'context':>8}  {'variant':<10}{'ms':>8}{'device':>8}{'x xformers':>12}")
    base = {(r["requests"], r["context"]): r["device_ms"][1] for r in timed if r["variant"] == "xformers"}
    for r in timed:
        ratio = _ratio(r["device_ms"][1], base.get((r["requests"], r["context"])))
        print(f"  {r['requests']:>8}{r['context']:>8}  {r['variant']:<10}{r['ms'][1]:>8.3f}", end="")
        print(f"{r['device_ms'][1]:>8.3f}{ratio:>12}")
    for r in records:
        if "skipped" in r:
            print(f"  skipped: {r['skipped']}")
    _print_checks(records)


def _step(records: list[dict[str, Any]]) -> None:
    timed = [record for record in records if record.get("timed")]
    if timed:
        print(f"  {'requests':>8}  {'sampling':<11}{'step ms':>9}{'target':>9}{'accept':>9}{'draft':>9}", end="")
        print(f"{'accept/target':>15}{'draft/step':>12}")
    for r in timed:
        print(f"  {r['requests']:>8}  {r['sampling']:<11}{r['step_ms']:>9.3f}{r['target_ms']:>9.3f}", end="")
        print(f"{r['acceptance_ms']:>9.3f}{r['drafting_ms']:>9.3f}", end="")
        print(f"{r['acceptance_ms'] / r['target_ms']:>15.1%}{r['drafting_ms'] / r['step_ms']:>12.1%}")
    _print_checks(records)


def _arrivals(records: list[dict[str, Any]]) -> None:
    """How first passes ran, as full graph / pieces / eagerly, and medians in ms of steps with a prefill."""
    found = [record for record in records if "steps" in record]
    if found:
        print(f"  {'trace':<8}{'pieces':>7}{'steps':>7}{'prefill':>9}{'with prefill':>16}{'others':>14}", end="")
        print(f"{'step ms':>9}{'draft':>8}")
    for r in found:
        ways = ["/".join(str(r[name].get(mode, 0)) for mode in MODES) for name in FIRST_PASSES]
        print(
            f"  {r['trace']:<8}{r['pieces']!s:>7}{r['steps']:>7}{r['with_prefill']:>9}{ways[0]:>16}{ways[1]:>14}",
            end="",
        )
        print(f"{r.get('step_ms', float('nan')):>9.3f}{r.get('drafting_ms', float('nan')):>8.3f}")
    _print_checks(records)


def _claims(records: list[dict[str, Any]]) -> None:
    """What README and `docs` say of GPUs, and whether it was shown."""
    for r in records:
        print(f"  {r['holds']:<14}{r['claim']}  ({r['shown_by']})")


MODES, FIRST_PASSES = ("FULL", "PIECEWISE", "NONE"), ("first_passes_with_prefill", "other_first_passes")
TABLES = {
    "serve": _print_checks,
    "correctness": _print_checks,
    "drafting": _drafting,
    "trees": _trees,
    "step": _step,
    "arrivals": _arrivals,
    "claims": _claims,
}
