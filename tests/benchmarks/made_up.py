"""Made-up rows of a run, as the suite writes them, small enough to check by hand."""

import random

from benchmarks.catalogue import ABLATION, GROUPS
from benchmarks.store import Store

PROMPTS = 40
METHODS = list(
    dict.fromkeys(
        method
        for group in ("methods", "ablation", "threshold", "sharper", "draft_length", "temperature")
        for method in GROUPS[group]
    )
)


def fill(store: Store) -> None:
    """Answers, likelihoods, speeds, steps: MTAD is right more often, likelier, and slower than draft_model at 8."""
    plan = {"preset": "made up", "models": {}, "quality": []}
    store.begin(
        {
            "plan": plan,
            "command": "python -m benchmarks run --preset made-up",
            "versions": {"vllm": "0.32.0"},
            "gpu": None,
            "cpu": "a processor",
            "cpus": 2,
            "commit": "abc",
            "time": "2026-01-01T00:00:00Z",
        }
    )
    for method in METHODS:
        _answer(store, method, 0.8 if method.family == "mtad" else 0.5, 0.1 if method.family == "mtad" else 0.2)
    for concurrency, mtad in ((1, 30.0), (8, 8.0)):
        for number in range(3):
            for name, tokens in (("target alone", 10.0), ("draft_model", 20.0), ("MTAD", mtad)):
                _time(store, name, concurrency, number, tokens * (1 + 0.01 * number))
    for name, forward, draft, whole in (
        ("target alone", 8.0, 0.0, 10.0),
        ("draft_model", 8.0, 4.0, 16.0),
        ("MTAD", 8.0, 4.0, 15.0),
    ):
        parts = {"target forward": forward, "target": 9.0} | (
            {"draft forward": draft, "drafting": draft + 1, "acceptance": 0.5} if draft else {}
        )
        row = {
            "prompt_set": "minisql",
            "size": "0.5b",
            "method": name,
            "steps": 9,
            "mean_acceptance_length": 3.0 if draft else 1.0,
        }
        store.add("steps", row | {"step_ms": whole, "parts_ms": parts})
    store.add("unavailable", {"method": "FLy", "reason": "came with vLLM 0.33"})
    store.add("energy", {"unavailable": "no NVML: no GPU"})


def _answer(store: Store, method, right: float, nats: float) -> None:
    key = {"prompt_set": "minisql", "method": method.name, "seed": 1}
    rng = random.Random(method.name)
    calls = [1, 3, 2] if method.num_speculative_tokens else [1] * 6
    answers = [
        {"calls": calls, "tokens": [1, 2, 3, 4, 5, i], "text": f" SELECT {i};", "correct": rng.random() < right}
        for i in range(PROMPTS)
    ]
    store.add("answers", key | {"gamma": method.num_speculative_tokens, "answers": answers})
    store.add("likelihoods", key | {"nats": [6 * nats + 0.001 * i for i in range(PROMPTS)]})


def _time(store: Store, method: str, concurrency: int, number: int, tokens_per_second: float) -> None:
    row = {"prompt_set": "minisql", "size": "0.5b", "method": method, "concurrency": concurrency, "round": number}
    row |= {"turn": "t", "seconds": 1.0, "tokens": 9, "calls": 3, "first_token": 0.1}
    store.add("speed", row | {"tokens_per_second": tokens_per_second, "seconds_per_token": 1 / tokens_per_second})


ABLATION_NAMES = [method.name for method in ABLATION]
