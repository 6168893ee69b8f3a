"""`python -m benchmarks.gpu_checks`: what to run, in which order, with which time limits.

Results are appended to DIR/gpu_checks.jsonl as they come, logs to DIR/logs; tables follow at the end. The exit status
is 1 if a check failed or a part had an error; a missed aim is reported and changes nothing. `--tiny --device cpu` runs
the same code on toy shapes in Triton's interpreter (`python -m tests.interpreter -m benchmarks.gpu_checks ...`), to
show that it works, and keeps no times.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from benchmarks.gpu_checks import correctness
from benchmarks.gpu_checks.aims import add_aims
from benchmarks.gpu_checks.report import Report
from benchmarks.gpu_checks.subprocesses import end_all, run_task
from benchmarks.machine import describe_machine

PARTS = ("correctness", "drafting", "step")
DRAFTING_SECONDS, STEP_SECONDS = 180, 200
SPECULATORS = ("draft_model", "mtad B1", "mtad B4", "mtad B8")
TINY_SPECULATORS = ("draft_model", "mtad B1", "mtad B2")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("gpu_checks"))
    parser.add_argument("--parts", default=",".join(PARTS), help="of %(default)s")
    parser.add_argument("--only-first", action="store_true", help="drafting: the first two shapes only")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy shapes, nothing timed")
    parser.add_argument("--mode", type=int, default=0, help="vLLM's compilation mode in drafting and step (default 0)")
    args = parser.parse_args()
    args.parts = args.parts.split(",")
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"--parts {','.join(sorted(unknown))}: choose from {','.join(PARTS)}")
    if args.tiny != (args.device == "cpu"):
        parser.error("--tiny and --device cpu go together")
    return args


def run_drafting(report: Report, args: argparse.Namespace, folder: str) -> None:
    """All speculators together; should that process die, those without results each alone, not taking turns."""
    arguments: dict[str, Any] = {
        "file": str(report.file),
        "folder": folder,
        "tiny": args.tiny,
        "only_first": args.only_first,
        "seconds": DRAFTING_SECONDS * 0.7,
        "mode": args.mode,
    }
    names = list(TINY_SPECULATORS if args.tiny else SPECULATORS)
    outcome = run_task("drafting", arguments | {"only": names}, report.logs / "drafting.log", DRAFTING_SECONDS)
    if outcome.error is None:
        return
    report.add("drafting", error=outcome.error)
    done = {record.get("variant", "") for record in report.records() if "timed" in record}
    for name in names:
        if not any(variant.startswith(name) for variant in done):
            log = report.logs / f"drafting_{name.replace(' ', '_')}.log"
            alone = arguments | {"only": [name], "only_first": True}
            if error := run_task("drafting", alone, log, DRAFTING_SECONDS / 2).error:
                report.add("drafting", variant=name, error=error)


def run_step(report: Report, args: argparse.Namespace, folder: str) -> None:
    arguments = {"file": str(report.file), "folder": folder, "tiny": args.tiny, "mode": args.mode}
    if error := run_task("step", arguments, report.logs / "step.log", STEP_SECONDS).error:
        report.add("step", error=error)


def _terminate(*_: Any) -> None:
    end_all()
    os._exit(128 + signal.SIGTERM)


def main() -> int:
    args = parse_arguments()
    signal.signal(signal.SIGTERM, _terminate)
    report = Report(args.out)
    report.add(**describe_machine("benchmarks.gpu_checks", args.device))
    for part in args.parts:
        print(f"{part} ...", flush=True)
        try:
            with tempfile.TemporaryDirectory() as folder:
                if part == "correctness":
                    correctness.run(report, args.device, args.tiny)
                elif part == "drafting":
                    run_drafting(report, args, folder)
                else:
                    run_step(report, args, folder)
        except Exception:
            report.add(part, error=traceback.format_exc(limit=-6))
    add_aims(report)
    report.print_tables()
    print(f"\n{report.file}")
    return int(report.failed())


if __name__ == "__main__":
    sys.exit(main())
