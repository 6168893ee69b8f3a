"""Several candidates on vLLM's CPU engine, timed: `python -m benchmarks.candidates_on_cpu`.

The target alone, `draft_model` and MTAD with one, two and four candidates take turns, round by round, with as many
requests in flight as said; sampled with the paper's parameters, and at temperature 0 without loss. Trees are verified
at every batch size (`max_candidate_rows` is out of the way). Engines of one draft length are up together, and their
rows of `timed.jsonl` are one part; the same command goes on with the next. `table.md` is written at the end, and by
`--tables` alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.plan import Models, Quality
from benchmarks.progress import closing
from benchmarks.report.candidates_on_cpu import page
from benchmarks.speed import prompts_of_round, sized, summary
from benchmarks.store import Store
from benchmarks.workload import Workload, load_workload
from vllm_mtad.measure.decoding import Run, decode
from vllm_mtad.measure.engines import quiet_vllm, start
from vllm_mtad.measure.likelihood import TargetLikelihood
from vllm_mtad.measure.methods import DEFAULT, PAPER, Method, Sampling, draft_model, mtad, target_alone

DEFAULT_FOLDER = Path(__file__).parent / "results" / "candidates-on-cpu"
CANDIDATES = (1, 2, 4)
IN_FLIGHT = (1, 2, 4, 8)
ROUNDS, LEAST_PROMPTS = 2, 4
GREEDY = Sampling(temperature=0.0)
ALWAYS = 1 << 12
"""Rows of a step, more than there are."""


class Part(NamedTuple):
    """`size`: of `measure.sizes.SIZES`, or "bundled"."""

    pair: str
    size: str
    is_compiled: bool
    gamma: int

    @property
    def methods(self) -> dict[int | None, Method]:
        """By number of candidates: None is the target alone, 0 `draft_model`."""
        found: dict[int | None, Method] = {None: target_alone(), 0: draft_model(self.gamma)}
        for candidates in CANDIDATES:
            options = replace(DEFAULT, num_speculative_tokens=self.gamma, num_candidates=candidates)
            found[candidates] = mtad(replace(options, max_candidate_rows=ALWAYS))
        return found


def all_parts() -> list[Part]:
    pairs = ("tales", "minisql")
    bundled = [Part(pair, "bundled", True, gamma) for pair in pairs for gamma in (4, 6, 8, 2)]
    eager = [Part(pair, "bundled", False, gamma) for gamma in (4, 6, 8, 2) for pair in pairs]
    padded = [Part(pair, size, True, gamma) for size in ("50m", "0.5b") for gamma in (4, 2, 6, 8) for pair in pairs]
    return bundled + padded + eager


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--parts", nargs="*", metavar="PAIR:SIZE:compiled|eager:GAMMA", help="these, in this order")
    parser.add_argument("--tables", action="store_true", help="decode nothing")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    store = Store(options.out)
    if not options.tables:
        quiet_vllm()
        done = {Part(*row["part"]) for row in store.rows("done")}
        wanted = all_parts() if options.parts is None else [_part_of(text) for text in options.parts]
        for part in wanted:
            if part not in done:
                for row in list(time_part(part)):  # whole parts only
                    store.add("timed", row)
                store.add("done", {"part": list(part)})
                print(part, flush=True)
    (options.out / "table.md").write_text(page(store.rows("timed")))


def _part_of(text: str) -> Part:
    pair, size, mode, gamma = text.split(":")
    return Part(pair, size, mode == "compiled", int(gamma))


def time_part(part: Part) -> Iterator[dict[str, Any]]:
    """One row a (method, temperature, requests in flight, round)."""
    workload = load_workload(Models(None, None), Quality(part.pair, 64, ()))
    likelihood = TargetLikelihood.of(workload.pair.target)
    with tempfile.TemporaryDirectory() as folder, closing([]) as engines:
        pair = sized(workload, None if part.size == "bundled" else part.size, Path(folder))
        for method in part.methods.values():
            engines.append(start(method, pair, enforce_eager=not part.is_compiled, max_num_seqs=max(IN_FLIGHT)))
        for sampling, in_flight in ((PAPER, IN_FLIGHT), (GREEDY, (IN_FLIGHT[0], IN_FLIGHT[-1]))):
            for concurrency in in_flight:
                for number, runs in _rounds(workload, engines, sampling, concurrency):
                    for candidates, run in zip(part.methods, runs):
                        yield {
                            "part": list(part),
                            "candidates": candidates,
                            "temperature": sampling.temperature,
                            "in_flight": concurrency,
                            "round": number,
                            **summary(run),
                            **_figures(workload, run, likelihood),
                        }


def _rounds(
    workload: Workload, engines: Sequence[Any], sampling: Sampling, concurrency: int
) -> Iterator[tuple[int, list[Run]]]:
    count, prompt_set = max(LEAST_PROMPTS, 2 * concurrency), workload.prompt_set
    params = sampling.params(prompt_set.max_tokens, prompt_set.stop)
    for number in range(-1, ROUNDS):  # the round before the first warms up
        chosen = prompts_of_round(workload, max(number, 0), count)
        runs = [decode(llm, chosen, params, concurrency, 1000 + number) for llm in engines]
        if number >= 0:
            yield number, runs


def _figures(workload: Workload, run: Run, likelihood: TargetLikelihood) -> dict[str, Any]:
    """Tokens of the calls that had a draft, and what the answers are worth; by prompt."""
    prompts = [d.prompt["prompt_token_ids"] for d in run.decoded]
    indices = [workload.prompt_ids.index(prompt) for prompt in prompts]
    return {
        "drafted_tokens": [sum(map(len, d.calls[1:])) for d in run.decoded],
        "drafted_calls": [len(d.calls) - 1 for d in run.decoded],
        "nats": [round(n, 4) for n in likelihood.negative_log_likelihoods(prompts, [d.tokens for d in run.decoded])],
        "lengths": [len(d.tokens) for d in run.decoded],
        "correct": [bool(workload.prompt_set.judge(i, d.text)) for i, d in zip(indices, run.decoded)],
    }


if __name__ == "__main__":
    main()
