"""This benchmark measures what several candidates give, by the slow reference on the bundled pairs:
`python -m benchmarks.candidates`.

It gives tokens and target rows a call, likelihood and accuracy for every (draft length, number of candidates, test):
sampled with the paper's parameters, and at temperature 0 without loss. One row of `decoded.jsonl` is one setting on all
prompts of a pair; the same command goes on where it was interrupted. `table.md` is written at the end, and by
`--tables` alone.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.hugging_face import TargetLikelihood
from benchmarks.plan import Models, Quality
from benchmarks.reference import calls_of
from benchmarks.report.candidates import page
from benchmarks.store import Store
from benchmarks.workload import load_workload
from vllm_mtad.algorithm.reference import ReferenceDecoder, ReferenceSettings, hugging_face_model
from vllm_mtad.tools.harness.methods import DEFAULT, PAPER

DEFAULT_FOLDER = Path(__file__).parent / "results" / "candidates"
DRAFT_LENGTHS = (2, 4, 6, 8)
CANDIDATES = (1, 2, 4)


class Setting(NamedTuple):
    """The setting of one row. Without candidates (`num_candidates` 0), the target decodes alone."""

    pair: str
    temperature: float
    gamma: int
    num_candidates: int
    candidate_test: str

    @property
    def reference(self) -> ReferenceSettings:
        return ReferenceSettings(
            self.gamma,
            DEFAULT.beam_width,
            DEFAULT.acceptance_threshold,
            num_candidates=max(self.num_candidates, 1),
            candidate_test=self.candidate_test,  # type: ignore[arg-type]
            temperature=self.temperature,
            top_k=PAPER.top_k,
            top_p=PAPER.top_p,
        )


def all_settings() -> list[Setting]:
    """All settings. Temperature 0 has one test: either keeps the same tokens there, with no likelihood to compare."""
    settings = []
    for pair in ("minisql", "tales"):
        for temperature in (PAPER.temperature, 0.0):
            tests = ("own", "reference") if temperature else ("own",)
            settings.append(Setting(pair, temperature, 1, 0, "own"))
            settings += [
                Setting(pair, temperature, gamma, candidates, test)
                for gamma in DRAFT_LENGTHS
                for candidates in CANDIDATES
                for test in (tests if candidates > 1 else ("own",))
            ]
    return settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--prompts", type=int, nargs=2, default=(200, 60), metavar=("MINISQL", "TALES"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tables", action="store_true", help="decode nothing")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    store = Store(options.out)
    if not options.tables:
        num_prompts = dict(zip(("minisql", "tales"), options.prompts))
        done = {
            Setting(*row["setting"])
            for row in store.rows("decoded")
            if row["prompts"] == num_prompts[row["setting"][0]]
        }
        for row in _decode_all([s for s in all_settings() if s not in done], num_prompts, options.processes):
            store.add("decoded", row)
            print(row["setting"], flush=True)
    (options.out / "table.md").write_text(page(store.rows("decoded"), store.rows("engines")))


def _decode_all(settings: list[Setting], num_prompts: dict[str, int], processes: int) -> Iterator[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_use_one_thread) as pool:
        futures = [pool.submit(decode, setting, num_prompts[setting.pair]) for setting in settings]
        for future in as_completed(futures):
            yield future.result()


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def decode(setting: Setting, num_prompts: int) -> dict[str, Any]:
    """One setting on the first prompts of its pair.

    Returns, by prompt: each call's tokens; the rows of all calls, and how many calls another candidate than the chosen
    one won; the answer's length, its nats, its verdict, and a digest of its tokens.
    """
    from transformers import AutoTokenizer

    workload = load_workload(Models(None, None), Quality(setting.pair, num_prompts, ()))
    target, draft = (hugging_face_model(str(path)) for path in (workload.pair.target, workload.pair.draft))
    most, end = workload.prompt_set.max_tokens, target.config.eos_token_id  # type: ignore[attr-defined]
    alone = frozenset(range(most)) if setting.num_candidates == 0 else frozenset({0})
    outputs = [
        ReferenceDecoder(target, draft, setting.reference, seed).generate(prompt, most, end, extra_token_only_at=alone)
        for seed, prompt in enumerate(workload.prompt_ids)
    ]
    tokens = [output.tokens for output in outputs]
    nats = TargetLikelihood(target).negative_log_likelihoods(workload.prompt_ids, tokens)
    tokenizer = AutoTokenizer.from_pretrained(str(workload.pair.target))
    texts = [tokenizer.decode([token for token in answer if token != end]) for answer in tokens]
    return {
        "setting": list(setting),
        "prompts": num_prompts,
        "calls": [calls_of(output) if setting.num_candidates else [1] * len(output.tokens) for output in outputs],
        "rows": [sum(output.rows) for output in outputs],
        "other_won": [output.other_won for output in outputs],
        "lengths": [len(answer) for answer in tokens],
        "nats": [round(value, 4) for value in nats],
        "correct": [bool(workload.prompt_set.judge(index, text)) for index, text in enumerate(texts)],
        "digests": [hashlib.sha256(repr(answer).encode()).hexdigest()[:12] for answer in tokens],
    }


if __name__ == "__main__":
    main()
