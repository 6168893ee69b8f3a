"""This module collects what every way to decode wrote: answers, judged, and how likely the target finds them.

Rows of `answers`: one a (prompt set, method, seed), with each answer's tokens per target call, token ids, text and
verdict. Rows of `likelihoods`: the same answers' nats. Rows of `unavailable`: methods that could not run, and why.
"""

from __future__ import annotations

from typing import Any

from benchmarks.catalogue import GROUPS, methods_of
from benchmarks.hugging_face import TargetLikelihood
from benchmarks.plan import Plan, Quality
from benchmarks.prompt_sets.base import PromptSet
from benchmarks.store import Store
from benchmarks.workload import Workload, load_workload
from vllm_mtad.config.errors import one_sentence
from vllm_mtad.tools.harness.decoding import Decoded, decode
from vllm_mtad.tools.harness.engines import engine_up
from vllm_mtad.tools.harness.methods import Method
from vllm_mtad.tools.harness.progress import Work

CONCURRENCY = 32


def shared_options(plan: Plan, workload: Workload, max_num_seqs: int) -> dict[str, Any]:
    """What all methods' engines share: room for the longest prompt with its answer, and the user's own options."""
    longest = max(map(len, workload.prompt_ids)) + workload.prompt_set.max_tokens + 1
    return {"max_model_len": -(-longest // 256) * 256, "max_num_seqs": max_num_seqs} | plan.engine


def answer(plan: Plan, quality: Quality, more: tuple[Method, ...], store: Store, work: Work) -> None:
    """Decode what is not in `store` yet; `more`: methods beside those of the groups."""
    workload = load_workload(plan.models, quality)
    done = {(row["prompt_set"], row["method"], row["seed"]) for row in store.rows("answers")}
    missing: list[tuple[Method, list[int]]] = []
    for method in [*methods_of(quality.groups), *more]:
        num_seeds = quality.seeds + (quality.more_seeds if method in GROUPS["main"] else 0)
        seeds = [s for s in range(1, num_seeds + 1) if (quality.prompt_set, method.name, s) not in done]
        if seeds:
            missing.append((method, seeds))
    for method, seeds in work.over(f"answers to {quality.prompt_set}", missing, lambda piece: piece[0].name):
        _answer_by(method, seeds, plan, quality, workload, store, work)


def _answer_by(
    method: Method, seeds: list[int], plan: Plan, quality: Quality, workload: Workload, store: Store, work: Work
) -> None:
    prompt_set = workload.prompt_set
    params = method.sampling.params(prompt_set.max_tokens, prompt_set.stop)
    try:
        with engine_up(method, workload.pair, **shared_options(plan, workload, CONCURRENCY)) as llm:
            for seed in seeds:
                run = decode(llm, workload.prompts, params, CONCURRENCY, seed)
                key = {"prompt_set": quality.prompt_set, "method": method.name, "seed": seed}
                answers = [_judged(prompt_set, i, decoded) for i, decoded in enumerate(run.decoded)]
                store.add("answers", key | {"gamma": method.num_speculative_tokens, "answers": answers})
    except Exception as error:
        refuse(store, work, method, error)


def _judged(prompt_set: PromptSet, index: int, decoded: Decoded) -> dict[str, Any]:
    return {
        "calls": [len(call) for call in decoded.calls],
        "tokens": decoded.tokens,
        "text": decoded.text,
        "correct": prompt_set.judge(index, decoded.text),
    }


def refuse(store: Store, work: Work, method: Method, error: Exception) -> None:
    """A method whose engine does not start, or ends, is a row of its own, and the run goes on."""
    why = one_sentence(error)
    store.add("unavailable", {"method": method.name, "reason": why})
    work.say(f"{method.name} cannot run: {why}")


def score(plan: Plan, quality: Quality, store: Store, work: Work) -> None:
    """Nats of the answers in `store` that have none yet, with no engine up."""
    known = {(row["prompt_set"], row["method"], row["seed"]) for row in store.rows("likelihoods")}
    rows = [
        row
        for row in store.rows("answers")
        if row["prompt_set"] == quality.prompt_set and (row["prompt_set"], row["method"], row["seed"]) not in known
    ]
    if not rows:
        return
    workload = load_workload(plan.models, quality)
    likelihood = TargetLikelihood.of(workload.pair.target)
    for row in work.over(f"likelihood of {quality.prompt_set}", rows, lambda row: row["method"]):
        nats = likelihood.negative_log_likelihoods(workload.prompt_ids, [a["tokens"] for a in row["answers"]])
        key = {name: row[name] for name in ("prompt_set", "method", "seed")}
        store.add("likelihoods", key | {"nats": [round(n, 5) for n in nats]})
