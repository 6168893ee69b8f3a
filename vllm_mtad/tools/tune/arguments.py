"""This module defines the command line of `vllm-mtad tune`. It imports nothing heavy, so other commands stay quick."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """\
Measure MTAD on your own prompts, next to the target alone and vLLM's draft_model, and recommend a
--speculative-config. MTAD is lossy: sampled text does not follow the target's own distribution."""

WISHES = """\
wishes (nats/token: mean negative log-likelihood per token under the target at T = 1, from vLLM's prompt_logprobs, in
the precision that you serve in; differences are to plain sampling on the same prompts, with 95 % paired bootstrap
intervals):
  fastest    the fastest whose text is shown no less likely than plain sampling's: the upper end of the interval
             of the difference in nats/token is at or below 0. What is lossless qualifies by construction, and a
             lossy setting must be shown faster than it: each timed round than each of the fastest lossless way's.
  likeliest  the lowest nats/token (ties to 0.001 by speed) among MTAD settings whose interval lies below 0 and that
             are at least as fast as the target alone; --any-speed lifts the latter.
  budget     as likeliest, but at least (1 - slowdown) x as fast as the fastest lossless way, be it the target alone
             or draft_model at any of the draft lengths.
If no MTAD setting qualifies, the fastest lossless way is recommended. With a checker, a setting whose accuracy is
shown lower (the interval of the difference lies below 0) is never recommended.

search: draft_model at every draft length; MTAD at every (draft length, beam width) and the middle threshold; then the
other thresholds where the wish was served best. Each engine runs alone in turn, and at the end the target, the fastest
lossless way and the best MTAD setting are timed once more; or --together says how many engines take turns."""


def add_tune(commands: argparse._SubParsersAction) -> None:
    tune = commands.add_parser(
        "tune",
        help="measure settings on your own prompts and recommend one",
        description=DESCRIPTION,
        epilog=WISHES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = tune.add_argument
    add("--target", required=True, help="folder or hub id")
    add("--draft", help="folder or hub id of a model with the target's tokenizer (default: what mtad takes by itself)")
    add("--prompts", required=True, type=Path, metavar="FILE", help="text, a prompt a line; or .jsonl: prompt, answer")
    add("--chat", action="store_true", help="a prompt is a user's message in the target's chat template")
    add("--schedule", action="store_true", help="recommend a draft length for every batch size, by speed alone")
    add("--wish", nargs="+", default=["fastest"], metavar="WISH", help="fastest (default), likeliest, budget")
    add("--slowdown", type=float, help="of budget, in [0, 1) (default 0.05)")
    add("--any-speed", action="store_true", help="likeliest may be slower than the target alone")
    add("--checker", metavar="PLACE:FUNCTION", help="module or file.py: check(prompt, answer, completion) -> bool")
    add("--json", type=Path, metavar="FILE", help="also write what was measured here, completions included")
    given = tune.add_argument_group("how you serve")
    add = given.add_argument
    in_flight = (
        "in flight; one choice each (default 1; with --schedule 1 2 4 ... up to max_num_seqs of --engine, or 64)"
    )
    add("--concurrency", nargs="+", type=int, metavar="N", help=in_flight)
    add("--max-tokens", type=int, default=128, help="of a completion (default %(default)s)")
    add("--temperature", type=float, default=1.0, help="default %(default)s")
    add("--top-k", type=int, default=10, help="default %(default)s; 0 is off")
    add("--top-p", type=float, default=0.9, help="default %(default)s")
    add("--dtype", default="auto", help="of both models (default %(default)s)")
    add("--engine", default="{}", metavar="JSON", help="""more options of vLLM's LLM, e.g. '{"max_model_len": 4096}'""")
    search = tune.add_argument_group("what is tried, and how well it is measured")
    add = search.add_argument
    add("--num-speculative-tokens", nargs="+", type=int, default=[2, 4, 6], metavar="N", help="default 2 4 6")
    add("--beam-widths", nargs="+", type=int, metavar="N", help="default 1 4; with --schedule one, 4")
    add("--thresholds", nargs="+", type=float, metavar="X", help="default .1 .3 .5 .7; with --schedule one, .5")
    add("--full-grid", action="store_true", help="all combinations at once, instead of the search below")
    add("--num-prompts", type=int, default=100, help="the first so many of the file (default %(default)s)")
    add("--samples", type=int, default=1, help="completions of each prompt (default %(default)s)")
    add("--rounds", type=int, default=3, help="timed rounds of each engine (default %(default)s)")
    add("--together", type=int, default=1, metavar="N", help="engines up at once, the target among them (default 1)")
