"""Each section here answers a question that users and reviewers of lossy decoding ask every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.catalogue import (
    ABLATION,
    BEAM_WIDTHS,
    DRAFT_LENGTHS,
    GROUPS,
    MAIN,
    PER_TOKEN,
    THRESHOLDS,
)
from benchmarks.report.ceiling import step_table, steps_of
from benchmarks.report.page import Page, image
from benchmarks.report.plots import concurrency_plot, pareto_plot, sweep_plot
from benchmarks.report.results import BASE, Results
from benchmarks.report.tables import (
    concurrency_table,
    interval_of_ablation,
    position_table,
    quality_table,
    table,
    text_table,
)

Section = Callable[[Results, Page], list[str]]


def names(group: str) -> list[str]:
    return list(dict.fromkeys([BASE, *(method.name for method in GROUPS[group])]))


def ablation(results: Results, page: Page) -> list[str]:
    blocks = [
        "## 1. Is it the joint test, or the beams? Against every other rule",
        "`MTAD acceptance=per_token` is speculative decoding with a fixed threshold on each token; `B=1` is one plain"
        " draft. `draft_model` is vanilla speculative decoding with probabilistic drafts; its draft is warped by"
        " temperature only, as vLLM has it, and on a CPU two bugs of vLLM 0.32.0 are corrected at run time for it and"
        " for n-gram.",
    ]
    for prompt_set, answers in results.answers.items():
        blocks += [f"### {prompt_set}", quality_table(results, prompt_set, names("methods"))]
        if not all(method.name in answers for method in ABLATION):
            continue
        one_per_token, one_joint, beams_per_token, beams_joint = (answers[method.name] for method in ABLATION)
        pairs = (
            ("the joint test, with one draft", one_joint, one_per_token),
            ("the joint test, with beams", beams_joint, beams_per_token),
            ("beams, with the test per token", beams_per_token, one_per_token),
            ("beams, with the joint test", beams_joint, one_joint),
        )
        header = [
            "what it earns",
            *(["correct, points"] if beams_joint.is_judged else []),
            "NLL/token",
            "acceptance length",
        ]
        rows = [
            [what, *interval_of_ablation(of, base), f"{_efficiency(of) - _efficiency(base):+.2f}"]
            for what, of, base in pairs
        ]
        blocks += [quality_table(results, prompt_set, [m.name for m in ABLATION]), table(header, rows)]
        blocks.append(position_table(results, prompt_set, names("methods")))
    return blocks


def _efficiency(row: Any) -> float:
    found = row.mean_acceptance_length
    return found.value if found else 1.0


def sharpening(results: Results, page: Page) -> list[str]:
    blocks = [
        "## 2. Is it only a lower temperature?",
        "The target alone at lower temperatures is the control: what a user gets by sharpening, without any draft. Low"
        " perplexity can be repetition, so the text itself is counted below.",
    ]
    for prompt_set in results.answers:
        if any(name in results.answers[prompt_set] for name in names("sharper")[2:]):
            blocks += [f"### {prompt_set}", quality_table(results, prompt_set, names("sharper"))]
        blocks.append(text_table(results, prompt_set, [*names("sharper"), PER_TOKEN.name]))
        blocks.append(_samples(results, prompt_set))
    return blocks


def _samples(results: Results, prompt_set: str, count: int = 3) -> str:
    """The first few answers of each main method, as they are."""
    answers = results.answers[prompt_set]
    shown = [method.name for method in MAIN if method.name in answers]
    lines = ["Sample text, the first prompts, not chosen:", "```"]
    for at in range(count):
        for name in shown:
            answer = next(iter(answers[name].answers.values()))[at]
            mark = {True: "correct", False: "wrong", None: ""}[answer["correct"]]
            lines.append(f"{name:<13}{mark:<8}{' '.join(answer['text'].split())}")
        lines.append("")
    return "\n".join([*lines[:-1], "```"])


def threshold(results: Results, page: Page) -> list[str]:
    blocks = ["## 3. What does the threshold do?"]
    for prompt_set in results.answers:
        points = [(t, method.name) for t, method in zip(THRESHOLDS, GROUPS["threshold"][1:])]
        if not any(name in results.answers[prompt_set] for _, name in points if name != "MTAD"):
            continue
        file = page.plot_file(f"threshold-{prompt_set}")
        plot = sweep_plot(results, prompt_set, [("MTAD", points)], "τ", file)
        blocks += [f"### {prompt_set}", image(plot, f"figures of {prompt_set} over the threshold")]
        blocks.append(quality_table(results, prompt_set, names("threshold")))
    return [*blocks, *_factors(results, page)]


def _factors(results: Results, page: Page) -> list[str]:
    """B, γ and the drafting mode; and everything that was timed, on one plot."""
    blocks = ["## 3b. Beams, draft length, drafting mode; and which settings are worth choosing from"]
    for prompt_set in results.answers:
        blocks.append(f"### {prompt_set}")
        beams = [(b, method.name) for b, method in zip(BEAM_WIDTHS, GROUPS["beam_width"][1:])]
        plot = sweep_plot(results, prompt_set, [("MTAD", beams)], "B", page.plot_file(f"beams-{prompt_set}"))
        blocks.append(image(plot, f"figures of {prompt_set} over the beam width"))
        lengths = GROUPS["draft_length"][1:]  # MTAD's, then draft_model's
        series = [
            ("MTAD", [(g, method.name) for g, method in zip(DRAFT_LENGTHS, lengths)]),
            ("draft_model", [(g, method.name) for g, method in zip(DRAFT_LENGTHS, lengths[len(DRAFT_LENGTHS) :])]),
        ]
        plot = sweep_plot(results, prompt_set, series, "γ", page.plot_file(f"draft-length-{prompt_set}"))
        blocks.append(image(plot, f"figures of {prompt_set} over the draft length"))
        plot = pareto_plot(results, prompt_set, page.plot_file(f"pareto-{prompt_set}"))
        blocks.append(image(plot, f"speed against quality on {prompt_set}"))
        for group in ("beam_width", "draft_length", "drafting"):
            if any(name in results.answers[prompt_set] for name in names(group) if name not in (BASE, "MTAD")):
                blocks.append(quality_table(results, prompt_set, names(group)))
    return blocks


def batches(results: Results, page: Page) -> list[str]:
    blocks = ["## 4. Batch sizes and temperatures; where does it lose?"]
    sets: dict[tuple[str, str | None], dict[int, Any]] = {}
    for (prompt_set, size, concurrency), found in results.speedups.items():
        shown = {name: speed for name, speed in found.items() if name in {method.name for method in MAIN}}
        sets.setdefault((prompt_set, size), {})[concurrency] = shown
    for (prompt_set, size), by_concurrency in sets.items():
        if len(by_concurrency) > 1:
            plot = concurrency_plot(by_concurrency, MAIN, page.plot_file(f"concurrency-{prompt_set}"))
            blocks += [f"### {prompt_set} at the cost of {size or 'its own size'}, offline", image(plot, "batch sizes")]
            blocks.append(concurrency_table(by_concurrency))
    blocks += _temperatures(results)
    return [*blocks, *_served(results), *_steps(results), *_vocabulary(results)]


def _temperatures(results: Results) -> list[str]:
    blocks = []
    for prompt_set, answers in results.answers.items():
        shown = [name for name in names("temperature") if name in answers]
        if len(shown) > len(MAIN):
            blocks += [f"### {prompt_set}: temperatures", quality_table(results, prompt_set, shown)]
    return blocks


def _served(results: Results) -> list[str]:
    rows = results.store.rows("served")
    if not rows:
        return []
    header = ["method", "at a time", "output tok/s", "TTFT, ms", "TPOT, ms", "ITL, ms", "p99 ITL", "accepted (vLLM's)"]
    cells = []
    for key in dict.fromkeys((row["method"], row["concurrency"]) for row in rows):
        own = [row for row in rows if (row["method"], row["concurrency"]) == key]
        spec = own[0]["vllm_spec_decode"]
        cells.append([key[0], str(key[1]), _median(own, "output_throughput")])
        cells[-1] += [_median(own, f"median_{of}_ms") for of in ("ttft", "tpot", "itl")]
        cells[-1] += [_median(own, "p99_itl_ms"), "-" if spec is None else f"{spec['acceptance_rate']:.1%}"]
    note = (
        "Medians over the repeats, in which the servers take turns. ITL is between two chunks of the stream, and a"
        " chunk holds a whole call's tokens; TPOT is per token. vLLM's own acceptance also counts tokens after the"
        " stop."
    )
    return [
        f"### Through a server (`vllm bench serve`), {rows[0]['prompt_set']}, {rows[0]['size']}",
        table(header, cells),
        note,
    ]


def _median(rows: Sequence[dict[str, Any]], name: str) -> str:
    values = sorted(row[name] for row in rows)
    middle = len(values) // 2
    value = values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
    return f"{value:.1f}"


def _steps(results: Results) -> list[str]:
    blocks = []
    for prompt_set in results.answers:
        if steps := steps_of(results, prompt_set):
            blocks += [f"### {prompt_set}: where a step's time goes, and the ceiling", step_table(steps)]
    if blocks:
        blocks.append(
            "The ceiling is a method's acceptance length over the time of its models' forward passes alone. One"
            " request in flight."
        )
    return blocks


def _vocabulary(results: Results) -> list[str]:
    rows = results.store.rows("vocabulary")
    if not rows:
        return []
    header = ["part", "method", *(f"{size:,} tokens, ms" for size in sorted({row["vocab_size"] for row in rows}))]
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        found.setdefault((row["part"], row["method"]), {})[row["vocab_size"]] = row["median_ms"]
    cells = [[part, method, *(f"{own[s]:.2f}" for s in sorted(own))] for (part, method), own in found.items()]
    note = (
        "The bundled models know 1,024 tokens; Llama 3 knows 128,256. What an iteration costs more for it, measured on"
        f" its own at the hidden sizes of {rows[0]['target']} and {rows[0]['draft']}:"
    )
    return ["### What a large vocabulary adds", note, table(header, cells)]


def control(results: Results, page: Page) -> list[str]:
    return [
        "## 5. Temperature 0, per request, seeds, detection",
        'At temperature 0 the default (`greedy="lossless"`) gives greedy decoding\'s own text, token for token in'
        " float32 (`tests/engine/test_lossless_and_sampling.py`; in bfloat16 the rows `T=0` above may differ by"
        ' numerics); `greedy="joint"` is lossy on purpose. A request with `mtad: false` is decoded as the target'
        " alone would decode it. A seeded request repeats when its steps fall the same."
        " `speculative_config.lossy` is `True` in an engine that runs it, and one line at its start says so.",
        "## 6. Versions and features",
        "vLLM 0.32.0; V1 on a CPU, V2 on a GPU. docs/support.md says for each feature (prefix caching, chunked"
        " prefill, structured output, logprobs, penalties, tensor parallelism, async scheduling, LoRA) whether it"
        " works, is refused or was not tested, and which test shows it.",
    ]


def energy(results: Results, page: Page) -> list[str]:
    rows = results.store.rows("energy")
    if not rows:
        return ["## 7. Energy", "Not asked for in this run."]
    if "unavailable" in rows[0]:
        return ["## 7. Energy", f"Not available on this machine ({rows[0]['unavailable']})."]
    header = ("method", "J/token, gross", "J/token, less idle", "W", "seconds")
    cells = [
        [
            row["method"],
            f"{row['gross_joules_per_token']:.2f}",
            f"{row['net_joules_per_token']:.2f}",
            f"{row['watts']:.0f}",
            f"{row['seconds']:.0f}",
        ]
        for row in rows
    ]
    return ["## 7. Energy", table(header, cells)]


SECTIONS: tuple[Section, ...] = (ablation, sharpening, threshold, batches, control, energy)
