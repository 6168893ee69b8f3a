"""The `vllm-mtad` command."""

from __future__ import annotations

import argparse
from pathlib import Path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="vllm-mtad", description="MTAD (Multi-Token Assisted Decoding) for vLLM.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("pair", help="print the paths of the bundled target and draft")
    demo = commands.add_parser("demo", help="decode held-out questions three ways and compare")
    demo.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    demo.add_argument("--num-prompts", type=int, default=300, help="held-out questions (default %(default)s)")
    demo.add_argument("--larger", choices=("0.5b", "50m"), default="0.5b", help="size of the padded pair that is timed")
    args = parser.parse_args(argv)
    if args.command == "pair":
        from vllm_mtad.pair import MINISQL

        print(f"target {MINISQL.target}\ndraft {MINISQL.draft}")
    else:
        from vllm_mtad.demo.run import run_demo

        run_demo(args.num_prompts, args.larger, args.json)


if __name__ == "__main__":
    main()
