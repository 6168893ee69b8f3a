"""The benchmark suite measures ways to decode, and reports what it found.

    python -m benchmarks run --preset quick --out DIR     at most 10 minutes on two cores, nothing needed
    python -m benchmarks run --preset full --out DIR      everything on the bundled pairs
    python -m benchmarks run --preset gpu --out DIR --target T --draft D --prompt-set gsm8k
    python -m benchmarks report DIR                       Markdown and plots from the rows in DIR

A run that was interrupted goes on with the same command.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.plan import PRESETS, Models, Plan, Quality, own_models
from benchmarks.prompt_sets.registry import NAMES
from benchmarks.store import Store


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure")
    run.add_argument("--preset", choices=PRESETS, default="quick")
    run.add_argument("--out", type=Path, required=True, metavar="DIR")
    run.add_argument(
        "--parts", default=None, help="some of quality,speed,steps,served,energy,vocabulary (default: all)"
    )
    own = run.add_argument_group("your own models and prompts, instead of the bundled ones")
    own.add_argument("--target", help="folder or hub id")
    own.add_argument("--draft", help="folder or hub id")
    own.add_argument("--prompt-set", choices=NAMES, default="gsm8k")
    own.add_argument("--source", help="of the prompt set: folder, file or hub id (default: its own hub id)")
    own.add_argument("--databases", help="spider: the folder of its databases")
    own.add_argument("--num-prompts", type=int, default=200)
    own.add_argument("--seeds", type=int, default=1)
    own.add_argument("--chat", action="store_true", help="put prompts through the target's chat template")
    own.add_argument("--execute-generated-code", action="store_true", help="humaneval: permit it")
    own.add_argument("--engine", type=json.loads, default={}, metavar="JSON", help="more options of every vLLM engine")
    report = commands.add_parser("report", help="render DIR/report.md and its plots")
    report.add_argument("folder", type=Path, metavar="DIR")
    pack = commands.add_parser("pack", help="compress the answers and their likelihoods in DIR, to keep them")
    pack.add_argument("folder", type=Path, metavar="DIR")
    args = parser.parse_args(argv)
    if args.command == "run" and bool(args.target) != bool(args.draft):
        parser.error("--target and --draft go together")
    return args


def plan_of(args: argparse.Namespace) -> Plan:
    plan = PRESETS[args.preset]
    if not args.target:
        return plan
    options = {"allow_execution": True} if args.execute_generated_code else {}
    options |= {"databases": args.databases} if args.databases else {}
    quality = Quality(
        args.prompt_set,
        args.num_prompts,
        plan.quality[0].groups,
        seeds=args.seeds,
        source=args.source,
        options=tuple(options.items()),
        chat=args.chat,
    )
    return own_models(plan, Models(args.target, args.draft), quality, args.engine)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    if args.command == "pack":
        for part in ("answers", "likelihoods"):
            Store(args.folder).pack(part)
        return 0
    if args.command == "report":
        from benchmarks.report.markdown import write_report

        print(write_report(args.folder))
        return 0
    from vllm_mtad.tools.harness.engines import quiet_vllm

    quiet_vllm()
    from benchmarks.run import PARTS, run_plan

    parts = args.parts.split(",") if args.parts else PARTS
    if unknown := set(parts) - set(PARTS):
        raise SystemExit(f"--parts {','.join(sorted(unknown))}: choose from {','.join(PARTS)}")
    try:
        run_plan(plan_of(args), args.out, parts)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
