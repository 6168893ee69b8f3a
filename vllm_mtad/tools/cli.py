"""`main` runs the `vllm-mtad` command: `doctor`, `tune` or `demo`."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from pathlib import Path

from vllm_mtad.tools.doctor import add_doctor, diagnose, flags_of_server
from vllm_mtad.tools.tune.arguments import add_tune

# vLLM warns of a Triton without a CPU backend before it sets its loggers up. An engine's processes import this as well.
if logging.lastResort is not None:
    logging.lastResort.setLevel(logging.ERROR)


def main(argv: list[str] | None = None) -> None:
    """Run the command. The exit status is 2 if what the user gave cannot be used; 1 if the target does not run, or if
    the doctor says so.
    """
    parser = argparse.ArgumentParser(prog="vllm-mtad", description="MTAD (Multi-Token Assisted Decoding) for vLLM.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_demo(commands)
    add_tune(commands)
    add_doctor(commands)
    given = sys.argv[1:] if argv is None else argv
    flags = flags_of_server(given) if given[:1] == ["doctor"] else []
    args = parser.parse_args(given[: len(given) - len(flags)])
    if args.command != "doctor":
        try:
            import rich  # noqa: F401
        except ImportError:
            sys.exit(f"vllm-mtad {args.command} needs more packages: pip install 'vllm-mtad[tools]'")
    from vllm_mtad.tools.harness.engines import quiet_vllm

    quiet_vllm()
    from vllm_mtad.tools.harness.errors import InputError, TargetError

    command = shlex.join(["vllm-mtad", *given])
    try:
        if args.command == "demo":
            from vllm_mtad.tools.demo.run import run_demo

            run_demo(args.pair, args.num_prompts, args.compiled, args.json, command)
        elif args.command == "doctor":
            diagnosis = diagnose(args.target, args.draft, flags)
            print(diagnosis)
            sys.exit(1 if diagnosis.reasons else 0)
        else:
            from vllm_mtad.tools.tune.run import run_tune
            from vllm_mtad.tools.tune.schedule_run import run_schedule
            from vllm_mtad.tools.tune.settings import Settings

            run = run_schedule if args.schedule else run_tune
            run(Settings.from_arguments(args), command)
    except (InputError, TargetError) as error:
        print(f"vllm-mtad {args.command}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


def _add_demo(commands: argparse._SubParsersAction) -> None:
    demo = commands.add_parser(
        "demo",
        help="decode a pair's own prompts in several ways and compare",
        description="Decode a pair's own prompts with the target alone, vLLM's draft_model and MTAD, and compare.",
    )
    add = demo.add_argument
    add(
        "--pair",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help="folders with `target`, `draft`, `prompts.jsonl`, and perhaps `check.py` and `demo.json` (default: the"
        " bundled pairs, if this is the root of vllm-mtad's repository)",
    )
    add("--num-prompts", type=int, help="judged answers of each pair at most")
    add("--compiled", action="store_true", help="compile the engines, as vLLM does by default; they start slower")
    add("--json", type=Path, metavar="FILE", help="also write the figures as JSON")


if __name__ == "__main__":
    main()
