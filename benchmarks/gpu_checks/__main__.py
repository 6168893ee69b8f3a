"""`python -m benchmarks.gpu_checks` runs the checks of mtad on one GPU, part by part.

`vllm serve` comes first. Results are appended to DIR/gpu_checks.jsonl as they come, logs to DIR/logs; tables follow at
the end, with what became of each claim of our texts (`aims`). The exit status is 1 if a check failed or a part had an
error, which ends no other part; a missed aim is reported and changes nothing. `--tiny --device cpu` runs the same code
on toy shapes in Triton's interpreter (`python -m tests.interpreter -m benchmarks.gpu_checks ...`), to show that it
works, and keeps no times.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu_checks import correctness, serve
from benchmarks.gpu_checks.aims import conclude
from benchmarks.gpu_checks.report import Report
from benchmarks.gpu_checks.subprocesses import end_all, run_task
from vllm_mtad.tools.harness.machine import command_of, describe_machine

PARTS = ("serve", "correctness", "drafting", "trees", "step", "arrivals")
SPECULATORS = ("draft_model", "mtad B1", "mtad B4", "mtad B8", "mtad B16")
TINY_SPECULATORS = ("draft_model", "mtad B1", "mtad B2")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("gpu_checks"))
    parser.add_argument("--parts", default=",".join(PARTS), help="of %(default)s")
    parser.add_argument("--only-first", action="store_true", help="drafting: the first two batches only")
    parser.add_argument("--limit", type=float, metavar="SECONDS", default=1800, help="of each process (%(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy shapes, nothing timed")
    parser.add_argument(
        "--mode",
        type=int,
        choices=(0, 3),
        default=3,
        help="vLLM's in step and arrivals; 0: nothing compiled, in drafting",
    )
    args = parser.parse_args()
    asked = args.parts.split(",")
    if unknown := set(asked) - set(PARTS):
        parser.error(f"--parts {','.join(sorted(unknown))}: choose from {','.join(PARTS)}")
    args.parts = [part for part in PARTS if part in asked]
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
        "seconds": args.limit * 0.7,
        "mode": args.mode,
        "only": None,
    }
    outcome = run_task("drafting", arguments, report.logs / "drafting.log", args.limit)
    if outcome.error is None:
        return
    report.add("drafting", error=outcome.error)
    done = {record.get("variant", "") for record in report.records() if "timed" in record}
    for name in TINY_SPECULATORS if args.tiny else SPECULATORS:
        if not any(variant.startswith(name) for variant in done):
            log = report.logs / f"drafting_{name.replace(' ', '_')}.log"
            alone = arguments | {"only": [name], "only_first": True}
            if error := run_task("drafting", alone, log, args.limit).error:
                report.add("drafting", variant=name, error=error)


def run_trees(report: Report, args: argparse.Namespace) -> None:
    arguments = {"file": str(report.file), "tiny": args.tiny}
    if error := run_task("trees", arguments, report.logs / "trees.log", args.limit).error:
        report.add("trees", error=error)


def run_steps(report: Report, args: argparse.Namespace, folder: str) -> None:
    """Both parts that need an engine in this process use the same."""
    parts = [part for part in args.parts if part in ("step", "arrivals")]
    arguments = {"file": str(report.file), "folder": folder, "tiny": args.tiny, "mode": args.mode, "parts": parts}
    if error := run_task("steps", arguments, report.logs / "steps.log", args.limit).error:
        report.add(parts[0], error=error)


def run_part(part: str, report: Report, args: argparse.Namespace) -> None:
    print(f"{part} ...", flush=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if part == "serve":
                serve.run(report, args.tiny, args.limit)
            elif part == "correctness":
                correctness.run(report, args.device, args.tiny, args.limit)
            elif part == "drafting":
                run_drafting(report, args, folder)
            elif part == "trees":
                run_trees(report, args)
            else:
                run_steps(report, args, folder)
    except Exception:
        report.add(part, error=traceback.format_exc(limit=-6))


def _terminate(*_: Any) -> None:
    end_all()
    os._exit(128 + signal.SIGTERM)


def main() -> int:
    args = parse_arguments()
    signal.signal(signal.SIGTERM, _terminate)
    report = Report(args.out)
    report.add(**describe_machine(command_of("benchmarks.gpu_checks"), args.device))
    parts = [part for part in args.parts if part != "arrivals" or "step" not in args.parts]
    with ThreadPoolExecutor(2 if args.tiny else 1) as pool:
        list(pool.map(lambda part: run_part(part, report, args), parts))
    conclude(report)
    report.print_tables()
    print(f"\n{report.file}")
    return int(report.failed())


if __name__ == "__main__":
    sys.exit(main())
