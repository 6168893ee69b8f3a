"""The demo from start to end."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vllm_mtad.demo.figures import MAX_TOKENS, MAX_TOKENS_OF_TALES, WAYS, WAYS_OF_TALES, measure
from vllm_mtad.measure.engines import quiet_vllm, start, stop
from vllm_mtad.measure.methods import PAPER

NUM_ROUNDS = 3
PROMPTS_ALONE, PROMPTS_AT_8 = 16, 48
"""Prompts of a timed round, with one request in flight and with eight."""
NUM_SHOWN = 4
PLAIN_WIDTH = 110
"""Columns when the output is not a terminal."""


def run_demo(num_prompts: int, size: str, json_path: Path | None) -> None:
    """Decode, print the tables and a few answers, and write the figures to `json_path` if given.

    Args:
        size: of the larger pair that is timed too, a key of `sizes.SIZES`.
    """
    quiet_vllm()
    from transformers import AutoTokenizer

    from vllm_mtad.demo.report import print_answers, print_larger, print_table, print_tales
    from vllm_mtad.demo.timed import NUM_PROMPTS, steps_of_timing, time_larger_pair, time_pair
    from vllm_mtad.measure.decoding import Run, decode
    from vllm_mtad.measure.likelihood import TargetLikelihood, perplexity
    from vllm_mtad.pair import MINISQL, TALES
    from vllm_mtad.pair.minisql.task import evaluation_examples
    from vllm_mtad.pair.tales import evaluation_tales

    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    examples = evaluation_examples("held_out", num_prompts)
    prompts = [example.prompt for example in examples]
    tokenizer, likelihood = AutoTokenizer.from_pretrained(MINISQL.target), TargetLikelihood.of(MINISQL.target)
    params = PAPER.params(MAX_TOKENS)
    engines: list[Any] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:

        def bar(description: str, total: int) -> Callable[[], None]:
            return partial(progress.advance, progress.add_task(description, total=total))

        started = bar(f"starting {len(WAYS)} engines", len(WAYS))
        try:
            for way in WAYS.values():
                engines.append(start(way, MINISQL))
                started()
            answers: list[Run] = []
            for label, llm in zip(WAYS, engines):
                answers.append(decode(llm, prompts, params, 8, 1, bar(f"answers: {label}", num_prompts)))
            # Interleaved, so that a change in the machine's load meets every way.
            advance = bar("timing", NUM_ROUNDS * len(WAYS) * (PROMPTS_ALONE + PROMPTS_AT_8))
            timed: dict[int, list[list[Run]]] = {1: [[] for _ in WAYS], 8: [[] for _ in WAYS]}
            for round_number in range(NUM_ROUNDS):
                for concurrency, count in ((1, PROMPTS_ALONE), (8, PROMPTS_AT_8)):
                    chosen = [prompts[(round_number * count + i) % num_prompts] for i in range(count)]
                    for i, llm in enumerate(engines):
                        timed[concurrency][i].append(
                            decode(llm, chosen, params, concurrency, 2 + round_number, advance)
                        )
        finally:
            for llm in engines:
                stop(llm)
        judged = bar("likelihood and execution", len(WAYS))
        prompt_ids = [tokenizer(prompt).input_ids for prompt in prompts]
        figures = []
        for i, label in enumerate(WAYS):
            decoded = answers[i].decoded
            tokens = [d.tokens for d in decoded]
            nats = likelihood.negative_log_likelihoods(prompt_ids, tokens)
            ppl = perplexity(nats, list(map(len, tokens)))
            figures.append(measure(label, examples, decoded, timed[1][i], timed[8][i], ppl))
            judged()
        openings = [tale.prompt for tale in evaluation_tales("held_out", NUM_PROMPTS)]
        advance = bar("open-ended tales", steps_of_timing(WAYS_OF_TALES))
        tales = time_pair(TALES, WAYS_OF_TALES, openings, MAX_TOKENS_OF_TALES, advance)
        larger = time_larger_pair(size, prompts, bar("at a larger model's cost", steps_of_timing(WAYS)))
    speeds = [statistics.median(run.tokens_per_second for run in rounds) for rounds in larger]
    print_table(console, figures)
    print_tales(console, tales)
    print_larger(console, size, speeds)
    print_answers(console, tokenizer, examples[:NUM_SHOWN], [run.decoded[:NUM_SHOWN] for run in answers])
    if json_path is not None:
        rows = [row.as_json() | {f"tokens_per_second_at_{size}": speed} for row, speed in zip(figures, speeds)]
        json_path.write_text(json.dumps(rows, indent=1) + "\n")
