"""What the demo prints."""

from __future__ import annotations

import statistics
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllm_mtad.demo.figures import WAYS, WAYS_OF_TALES, Figures
from vllm_mtad.measure.decoding import Decoded, Run
from vllm_mtad.measure.figures import block_efficiency
from vllm_mtad.measure.methods import DEFAULT
from vllm_mtad.measure.sizes import SIZES
from vllm_mtad.pair.minisql.task import Example, is_correct

NOTES = (
    f"T = 1, top-k 10, top-p 0.9; gamma = {DEFAULT.num_speculative_tokens}, B = {DEFAULT.beam_width},"
    f" tau = {DEFAULT.acceptance_threshold}; same prompts and seeds; engines run eagerly in bfloat16 (vLLM's default is"
    " compiled, which takes a minute an engine to start).",
    "tokens/call: over the target calls that had a draft. ppl: of the answers under the target at T = 1.",
    "draft_model on a CPU: two bugs of vLLM 0.32.0 are corrected at run time (patches/0.32.0); its draft is warped"
    " by temperature only.",
    "The pair is tiny: these speeds are of the engine's overhead more than of a model. MTAD is lossy; it moves the"
    " text towards what the target finds jointly likely.",
)


def print_table(console: Console, figures: list[Figures]) -> None:
    table = Table(title=f"{figures[0].num_prompts} held-out questions, {len(figures)} ways", box=SIMPLE_HEAD)
    for name in ("way", "tokens/call", "accepted", "SQL correct", "ppl", "tok/s at 1", "tok/s at 8"):
        table.add_column(name, justify="left" if name == "way" else "right", no_wrap=True)
    base = figures[0]
    for row in figures:
        table.add_row(
            row.method,
            f"{row.block_efficiency:.2f}",
            "-" if row.acceptance_rate is None else f"{row.acceptance_rate:.1%}",
            f"{row.execution_accuracy:.1%}",
            f"{row.perplexity:.3f}",
            f"{row.tokens_per_second:.0f} ({row.tokens_per_second / base.tokens_per_second:.2f}x)",
            f"{row.tokens_per_second_at_8:.0f} ({row.tokens_per_second_at_8 / base.tokens_per_second_at_8:.2f}x)",
        )
    console.print(table)
    for note in NOTES:
        console.print(f"  {note}", style="dim", highlight=False)


def print_tales(console: Console, rounds: list[list[Run]]) -> None:
    table = Table(title="open-ended tales, one request at a time", box=SIMPLE_HEAD)
    for name in ("way", "tokens/call", "tok/s"):
        table.add_column(name, justify="left" if name == "way" else "right", no_wrap=True)
    speeds = [statistics.median(run.tokens_per_second for run in of_way) for of_way in rounds]
    for label, of_way, speed in zip(WAYS_OF_TALES, rounds, speeds):
        calls = [[len(call) for call in decoded.calls] for run in of_way for decoded in run.decoded]
        table.add_row(label, f"{block_efficiency(calls):.2f}", f"{speed:.0f} ({speed / speeds[0]:.2f}x)")
    console.print(table)


def print_larger(console: Console, size: str, speeds: list[float]) -> None:
    target, draft = (shape.upper() for shape in SIZES[size])
    compared = ", ".join(f"{label} {speed:.1f} ({speed / speeds[0]:.2f}x)" for label, speed in zip(WAYS, speeds))
    console.print(f"\nAt the cost of a {target} target and a {draft} draft, tok/s at 1: {compared}", highlight=False)
    console.print(
        "  The same pair, padded to larger matrices: each model computes what it did. The vocabulary stays small.",
        style="dim",
        highlight=False,
    )


def print_answers(console: Console, tokenizer: Any, examples: list[Example], answers: list[list[Decoded]]) -> None:
    """A few questions with each way's SQL; with a draft, each target call's accepted run in brackets."""
    console.print("\nWhat each way wrote. [bold green]⟦accepted together⟧[/] then the target's own token:")
    for at, example in enumerate(examples):
        console.print(f"\n{example.prompt.split('Question: ')[1].split(chr(10))[0]}", style="bold", highlight=False)
        for (label, way), of_way in zip(WAYS.items(), answers):
            mark = "[green]ok[/]   " if is_correct(example, of_way[at].text) else "[red]wrong[/]"
            console.print(f"  {label:<{max(map(len, WAYS)) + 1}}{mark} ", end="")
            console.print(_marked(tokenizer, of_way[at], has_draft=way.num_speculative_tokens > 0), soft_wrap=True)


def _marked(tokenizer: Any, decoded: Decoded, has_draft: bool) -> Text:
    """The answer, with the run of each target call that came from the draft in brackets."""
    text, shown = Text(), ""
    seen: list[int] = []
    for call in decoded.calls:
        run_length = len(call) - 1 if has_draft else 0
        for tokens, is_run in ((call[:run_length], True), (call[run_length:], False)):
            seen += tokens
            so_far = tokenizer.decode(seen, skip_special_tokens=True)
            new, shown = so_far[len(shown) :], so_far
            if new:
                text.append(f"⟦{new}⟧" if is_run else new, style="bold green" if is_run else "")
    return text
