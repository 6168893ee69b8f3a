"""The `vllm-mtad` command."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from vllm_mtad.tune.arguments import add_tune


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="vllm-mtad", description="MTAD (Multi-Token Assisted Decoding) for vLLM.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("pair", help="print the paths of the bundled target and draft")
    demo = commands.add_parser("demo", help="decode held-out questions in several ways and compare")
    demo.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    demo.add_argument("--num-prompts", type=int, default=300, help="held-out questions (default %(default)s)")
    demo.add_argument("--larger", choices=("0.5b", "50m"), default="0.5b", help="size of the padded pair that is timed")
    add_tune(commands)
    args = parser.parse_args(argv)
    if args.command == "pair":
        from vllm_mtad.pair import MINISQL

        print(f"target {MINISQL.target}\ndraft {MINISQL.draft}")
    elif args.command == "demo":
        from vllm_mtad.demo.run import run_demo

        run_demo(args.num_prompts, args.larger, args.json)
    else:
        _tune(args, sys.argv[1:] if argv is None else argv)


def _tune(args: argparse.Namespace, argv: list[str]) -> None:
    """Exit status 2 for what the user gave, 1 for a target that does not run."""
    from vllm_mtad.measure.engines import quiet_vllm

    quiet_vllm()
    from vllm_mtad.tune.errors import InputError, TargetError
    from vllm_mtad.tune.run import run_tune
    from vllm_mtad.tune.settings import Settings

    try:
        run_tune(Settings.from_arguments(args), shlex.join(["vllm-mtad", *argv]))
    except (InputError, TargetError) as error:
        print(f"vllm-mtad tune: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


if __name__ == "__main__":
    main()
