"""What the measurements are held against. An aim that was not measured is not mentioned."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu_checks.report import Report


def add_aims(report: Report) -> None:
    """Appends a record for each aim: what was aimed at, what was reached, and whether that is enough."""
    records = [record for record in report.records() if record.get("timed")]
    _drafting(report, records)
    _step(report, records)


def _drafting(report: Report, records: list[dict[str, Any]]) -> None:
    own = [r for r in records if r["part"] == "drafting"]
    for field, how in (("ms", "device idle before"), ("device_ms", "host ahead")):
        medians = {(r["requests"], r["context"], r["variant"]): r[field][1] for r in own}
        for requests, base, at_most in (
            (1, "mtad B1 graphs", 1.15),
            (1, "draft_model", 0.5),
            (32, "mtad B1 graphs", 1.5),
        ):
            reached, compared = (medians.get((requests, 2048, name)) for name in ("mtad B4 graphs", base))
            if reached and compared:
                aim = f"B=4 at {requests} requests, 2k, {how}: at most {at_most} x {base}"
                report.add("drafting", aim=aim, value=reached / compared, met=reached / compared <= at_most)


def _step(report: Report, records: list[dict[str, Any]]) -> None:
    for r in records:
        if r["part"] == "step" and "acceptance_ms" in r:
            aim = f"acceptance at {r['requests']} requests, {r['sampling']}: at most 0.05 of the target's step"
            share = r["acceptance_ms"] / r["target_ms"]
            report.add("step", aim=aim, value=share, met=share <= 0.05)
