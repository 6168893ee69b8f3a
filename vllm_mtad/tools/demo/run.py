"""`run_demo` runs the demo from start to end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vllm_mtad.tools.demo.figures import Figures, Measured
from vllm_mtad.tools.demo.report import PLAIN_WIDTH, notes, print_answers, print_table
from vllm_mtad.tools.demo.task import DemoTask, bundled_folders, read_task
from vllm_mtad.tools.harness.decoding import decode
from vllm_mtad.tools.harness.engines import engines_up, on_cpu, options_for
from vllm_mtad.tools.harness.errors import check_folder_of
from vllm_mtad.tools.harness.likelihood import negative_log_likelihoods
from vllm_mtad.tools.harness.machine import describe_machine
from vllm_mtad.tools.harness.progress import Bar, bars, console_of_width
from vllm_mtad.tools.harness.prompts import tokenized
from vllm_mtad.tools.harness.turns import Rounds


def run_demo(
    folders: Sequence[Path], num_prompts: int | None, compiled: bool, json_path: Path | None, command: str
) -> None:
    """Measure each pair, print a table of each and a few answers, and write the figures to `json_path` if given.

    Args:
        folders: of pairs; if there are none, the bundled ones of a checkout.
        compiled: engines are compiled, as vLLM's default is, instead of running eagerly.
    Raises:
        InputError: before any engine starts.
    """
    if json_path is not None:
        check_folder_of("--json", json_path)
    tasks = [read_task(folder, num_prompts) for folder in folders or bundled_folders()]
    console = console_of_width(PLAIN_WIDTH)
    with bars(console) as bar:
        measured = [measure(task, compiled, bar) for task in tasks]
    for task, of_task in zip(tasks, measured):
        print_table(console, task, [Figures.of(of_way) for of_way in of_task])
    complaints = [of_task.checker.complaint for of_task in tasks if of_task.checker and of_task.checker.failures]
    for note in [*notes(compiled, on_cpu()), *complaints]:
        console.print(f"  {note}", style="dim", highlight=False)
    print_answers(console, tasks[0], measured[0])
    if json_path is not None:
        machine = describe_machine(command, "cpu" if on_cpu() else "cuda")
        found = [
            {"title": task.asked.title, "compiled": compiled, "ways": [asdict(Figures.of(way)) for way in of_task]}
            for task, of_task in zip(tasks, measured)
        ]
        json_path.write_text(json.dumps({"machine": machine, "pairs": found}, indent=1) + "\n")


def measure(task: DemoTask, compiled: bool, bar: Bar) -> list[Measured]:
    """All engines are up together: each answers, scores its answers, and then they take turns."""
    from transformers import AutoTokenizer

    asked, methods = task.asked, task.methods
    prompt_ids = tokenized(
        AutoTokenizer.from_pretrained(task.pair.target), [prompt.text for prompt in task.prompts], chat=False
    )
    prompts = [{"prompt_token_ids": ids} for ids in prompt_ids]
    measured = {method: Measured(method, rounds={n: [] for n in asked.in_flight}) for method in methods}
    started = bar(f"{asked.title}: {len(methods)} engines", len(methods))
    longest = max(map(len, prompt_ids)) + asked.max_tokens + 1
    options = options_for(longest, max(asked.in_flight), len(methods)) | {"enforce_eager": not compiled}
    with engines_up(methods, task.pair, options, started=started) as engines:
        for method, llm in engines:
            advance = bar(f"  answers: {method.name}", len(prompts))
            params, found = method.sampling.params(asked.max_tokens), measured[method]
            found.answers = decode(llm, prompts, params, max(asked.in_flight), 1, advance).decoded
            found.nats = negative_log_likelihoods(llm, prompt_ids, [answer.tokens for answer in found.answers])
        rounds = Rounds(
            prompts, asked.max_tokens, asked.in_flight, asked.rounds, asked.prompts_in_round, seed=2, warms_up=False
        )
        advance = bar("  timing", rounds.num_prompts(len(engines)))
        for turn in rounds.turns(engines):
            measured[turn.method].rounds[turn.in_flight].append(turn.decode(advance))
    if (checker := task.checker) is not None:
        for found in measured.values():
            found.right = [checker.is_right(p, answer.text) for p, answer in zip(task.prompts, found.answers)]
    return list(measured.values())
