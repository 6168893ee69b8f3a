"""The catalogue lists the ways to decode that are compared with each other, and those that cannot run here."""

from __future__ import annotations

from dataclasses import replace

from vllm_mtad.tools.harness.methods import (
    DEFAULT,
    Method,
    Sampling,
    block_verification,
    draft_model,
    mtad,
    ngram,
    target_alone,
)

THRESHOLDS = (0.05, 0.1, 0.3, 0.5, 0.7, 0.9)
BEAM_WIDTHS = (1, 2, 4, 8)
DRAFT_LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8)
TIMED_LENGTHS = (2, 4, 6, 8)
TEMPERATURES = (0.0, 0.7, 1.0)
SHARPER = (0.0, 0.3, 0.5, 0.7, 0.85)
"""Temperatures of the target alone: the control for what is sharpening only."""

PER_TOKEN = mtad(replace(DEFAULT, acceptance="per_token"))
ABLATION = tuple(
    mtad(replace(DEFAULT, beam_width=beam_width, acceptance=acceptance))
    for beam_width in (1, DEFAULT.beam_width)
    for acceptance in ("per_token", "joint")
)
MAIN = (target_alone(), draft_model(), mtad())


def _temperatures() -> tuple[Method, ...]:
    greedy = Sampling(temperature=0.0)
    found = [mtad(replace(DEFAULT, greedy="joint"), greedy)]
    for temperature in TEMPERATURES:
        sampling = Sampling(temperature=temperature)
        found += [target_alone(sampling), draft_model(sampling=sampling), mtad(sampling=sampling)]
    return tuple(found)


GROUPS: dict[str, tuple[Method, ...]] = {
    "main": MAIN,
    "methods": (*MAIN, PER_TOKEN, ngram()),
    "sharper": (target_alone(), mtad(), *(target_alone(Sampling(temperature=t)) for t in SHARPER)),
    "bold": (
        target_alone(),
        *(mtad(replace(DEFAULT, acceptance_threshold=0.1, num_speculative_tokens=g)) for g in (4, 6)),
        draft_model(3),
    ),
    "ablation": (target_alone(), draft_model(), *ABLATION),
    "threshold": (target_alone(), *(mtad(replace(DEFAULT, acceptance_threshold=t)) for t in THRESHOLDS)),
    "few_thresholds": (target_alone(), *(mtad(replace(DEFAULT, acceptance_threshold=t)) for t in (0.1, 0.5, 0.9))),
    "beam_width": (target_alone(), *(mtad(replace(DEFAULT, beam_width=b)) for b in BEAM_WIDTHS)),
    "draft_length": (
        target_alone(),
        *(mtad(replace(DEFAULT, num_speculative_tokens=g)) for g in DRAFT_LENGTHS),
        *(draft_model(g) for g in DRAFT_LENGTHS),
    ),
    "draft_length_timed": (
        target_alone(),
        *(mtad(replace(DEFAULT, num_speculative_tokens=g)) for g in TIMED_LENGTHS),
        *(draft_model(g) for g in TIMED_LENGTHS),
    ),
    "drafting": (target_alone(), mtad(), mtad(replace(DEFAULT, draft_sampling="beam_search"))),
    "temperature": _temperatures(),
    "cross": (
        target_alone(),
        *(
            mtad(
                replace(DEFAULT, acceptance_threshold=t, beam_width=b, num_speculative_tokens=g),
            )
            for t in THRESHOLDS
            for b in BEAM_WIDTHS
            for g in DRAFT_LENGTHS
        ),
    ),
}
"""One factor at a time around the defaults. `bold`: a low threshold with long drafts, beside vanilla's short ones, for
text of a high entropy. `cross`: the whole product, on demand only."""


def methods_of(groups: tuple[str, ...]) -> list[Method]:
    """The methods of several groups, each once, in order."""
    return list(dict.fromkeys(method for group in groups for method in GROUPS[group]))


def on_this_device(device: str) -> tuple[tuple[Method, ...], dict[str, str]]:
    """(more methods to compare, reasons of those that cannot run) on `cuda` or `cpu`."""
    reasons = {
        "FLy": "came with vLLM 0.33, and is not for CPUs; what is here was run on 0.32.0",
        "typical acceptance": "vLLM 0.32.0 has none; the fixed threshold per token is in the row MTAD"
        " acceptance=per_token",
    }
    block = block_verification()
    if device == "cuda":
        return (block,), reasons
    return (), {block.name: "vLLM has it on Model Runner V2 only, which needs a GPU"} | reasons
