"""`write_report` writes one page from the rows of a run, for a reader who has never heard of MTAD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import questions
from benchmarks.report.headline import headline
from benchmarks.report.page import Page
from benchmarks.report.results import Results
from benchmarks.report.tables import unavailable_table
from benchmarks.store import MANIFEST, Store

INTRODUCTION = """\
A large language model (the **target**) writes one token per pass. With *speculative decoding* a small model (the
**draft**) proposes a few tokens, the target checks them in one pass, and text comes faster. The usual rule (vLLM's
`draft_model`) keeps the text exactly as the target alone would have sampled it. **MTAD** drafts several candidates
jointly (`B` beams of `γ` tokens) and keeps the longest run whose joint probability under the target, divided by its
joint probability under the draft, exceeds a threshold `τ`. That is **lossy**: it moves the text towards what the target
finds likely. This page measures what that buys and what it costs.

**How to read it.** *acceptance length*: tokens per pass of the target, over the passes that had a draft.
*NLL/token*: how unlikely the target finds the text, in nats, recomputed outside vLLM at temperature 1; lower is
likelier; *ppl* is its exponential. Brackets are 95 % intervals, bootstrapped over prompts; differences are paired on
the same prompts and seeds, and **bold** where the interval excludes 0. *speed*: tokens/s divided by the target alone's
in the same round, the median with the smallest and largest round. Unless a row says otherwise: T = 1, top-k 10,
top-p 0.9, γ = 4, B = 4, τ = 0.5.
"""


def write_report(folder: Path) -> Path:
    """Render report.md and its plots into `folder`; returns the page's path."""
    store = Store(folder)
    manifests = store.manifests()
    if not manifests:
        raise SystemExit(f"{folder} holds no {MANIFEST}: it is no folder of results.")
    results, page = Results(store), Page(folder)
    page.add("# What MTAD buys, and what it costs", INTRODUCTION, _how(manifests), "## In short")
    page.add(*headline(results))
    for section in questions.SECTIONS:
        page.add(*section(results, page))
    page.add("## Not run", unavailable_table(_not_run(results)))
    return page.write()


def _how(manifests: list[dict[str, Any]]) -> str:
    last = manifests[-1]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items() if version)
    device = (last["gpu"] or {}).get("name") or f"{last['cpus']} cores of {last['cpu']}, no GPU"
    commands = "\n".join(dict.fromkeys(m["command"] for m in manifests))
    return (
        f"**Measured on** {device}; {versions}; commit {last['commit']}; {manifests[0]['time']} to {last['time']}. Raw"
        f" rows and `{MANIFEST}` are beside this page.\n\n```\n{commands}\n```\n"
    )


def _not_run(results: Results) -> dict[str, str]:
    """Methods that cannot run here, and data sets that nobody ran."""
    reasons = dict(results.unavailable)
    for row in results.store.rows("energy"):
        if "unavailable" in row:
            reasons["energy"] = f"not available: {row['unavailable']}"
    sets = {
        "gsm8k": "GSM8K",
        "humaneval": "HumanEval",
        "spider": "Spider",
        "mt_bench": "MT-Bench",
    }
    for name, label in sets.items():
        if name not in results.answers:
            reasons[label] = "the loader is there and tested on its schema; no model and data were given to this run"
    return reasons
