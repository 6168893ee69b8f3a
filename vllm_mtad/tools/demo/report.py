"""The demo prints a table, notes, and a few answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllm_mtad.tools.demo.figures import Figures, Measured
from vllm_mtad.tools.demo.task import DemoTask
from vllm_mtad.tools.harness.decoding import Decoded
from vllm_mtad.tools.harness.methods import DEFAULT

PLAIN_WIDTH = 110
"""Columns when the output is not a terminal."""
NUM_SHOWN = 4


def print_table(console: Console, task: DemoTask, figures: Sequence[Figures]) -> None:
    """One row a way to decode, with its speed also as a ratio to the first one's, the target alone."""
    base, in_flight = figures[0], task.asked.in_flight
    table = Table(title=f"{base.num_prompts} {task.asked.title}, {len(figures)} ways", box=SIMPLE_HEAD)
    judged = base.accuracy is not None
    names = ["way", "acceptance length", "accepted", *(["right"] if judged else []), "ppl"]
    for name in [*names, *(f"tok/s at {n}" for n in in_flight)]:
        table.add_column(name, justify="left" if name == "way" else "right", no_wrap=True)
    for row in figures:
        speeds = [(row.tokens_per_second[n], base.tokens_per_second[n]) for n in in_flight]
        table.add_row(
            row.method,
            f"{row.mean_acceptance_length:.2f}",
            "-" if row.acceptance_rate is None else f"{row.acceptance_rate:.1%}",
            *([] if row.accuracy is None else [f"{row.accuracy:.1%}"]),
            f"{row.perplexity:.3f}",
            *(f"{speed:.{0 if speed >= 100 else 1}f} ({speed / of_base:.2f}x)" for speed, of_base in speeds),
        )
    console.print(table)


def notes(compiled: bool, on_cpu: bool) -> list[str]:
    found = [
        f"T = 1, top-k 10, top-p 0.9; MTAD has gamma = {DEFAULT.num_speculative_tokens}, B = {DEFAULT.beam_width},"
        f" tau = {DEFAULT.acceptance_threshold}, C candidates; same prompts and seeds; engines run"
        f" {'compiled, as vLLM does by default' if compiled else 'eagerly (--compiled: as vLLM does by default)'}.",
        "acceptance length: tokens of a target call, over the calls that had a draft. ppl: of the answers under the"
        " target at T = 1.",
        "MTAD is lossy: it moves the text towards what the target finds jointly likely.",
    ]
    if on_cpu:
        found.append(
            "draft_model on a CPU: two bugs of vLLM 0.32.0 are corrected at run time (patches/0.32.0); its draft is"
            " warped by temperature only."
        )
    return found


def print_answers(console: Console, task: DemoTask, measured: Sequence[Measured]) -> None:
    """A few prompts' last lines with each way's answer; with a draft, each call's accepted run in brackets."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(task.pair.target)
    console.print("\nWhat each way wrote. [bold green]⟦accepted together⟧[/] then the target's own token:")
    width = max(len(of_way.method.name) for of_way in measured) + 1
    for at, prompt in enumerate(task.prompts[:NUM_SHOWN]):
        lines = prompt.text.splitlines()
        console.print(f"\n{lines[max(len(lines) - 2, 0)]}", style="bold", highlight=False, markup=False)
        for of_way in measured:
            judged = "" if not of_way.right else "[green]ok[/]    " if of_way.right[at] else "[red]wrong[/] "
            console.print(f"  {of_way.method.name:<{width}}{judged}", end="")
            has_draft = of_way.method.num_speculative_tokens > 0
            console.print(_marked(tokenizer, of_way.answers[at], has_draft), soft_wrap=True)


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
