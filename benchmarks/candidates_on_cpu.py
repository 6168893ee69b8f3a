"""This benchmark times several candidates on vLLM's CPU engine: `python -m benchmarks.candidates_on_cpu`.

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

from benchmarks.hugging_face import TargetLikelihood
from benchmarks.plan import Models, Quality
from benchmarks.report.candidates_on_cpu import page
from benchmarks.speed import sized, summary
from benchmarks.store import Store
from benchmarks.workload import Workload, load_workload
from vllm_mtad.tools.harness.decoding import Run
from vllm_mtad.tools.harness.engines import engines_up, quiet_vllm
from vllm_mtad.tools.harness.methods import DEFAULT, PAPER, Method, Sampling, draft_model, mtad, target_alone
from vllm_mtad.tools.harness.turns import WARM_UP, Rounds

DEFAULT_FOLDER = Path(__file__).parent / "results" / "candidates-on-cpu"
CANDIDATES = (1, 2, 4)
IN_FLIGHT = (1, 2, 4, 8)
ROUNDS, LEAST_PROMPTS = 2, 4
GREEDY = Sampling(temperature=0.0)
ALWAYS = 1 << 12
"""Rows of a step, more than there are."""


class Part(NamedTuple):
    """`size`: of `pairs.sizes.SIZES`, or "bundled"."""

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
    options = {"enforce_eager": not part.is_compiled, "max_num_seqs": max(IN_FLIGHT)}
    with tempfile.TemporaryDirectory() as folder:
        pair = sized(workload, None if part.size == "bundled" else part.size, Path(folder))
        with engines_up(list(part.methods.values()), pair, options) as engines:
            for sampling, in_flight in ((PAPER, IN_FLIGHT), (GREEDY, (IN_FLIGHT[0], IN_FLIGHT[-1]))):
                timed = [(replace(method, sampling=sampling), llm) for method, llm in engines]
                for turn in _rounds(workload, in_flight).turns(timed):
                    run = turn.decode()
                    if turn.number != WARM_UP:
                        yield {
                            "part": list(part),
                            "candidates": _candidates_of(turn.method),
                            "temperature": sampling.temperature,
                            "in_flight": turn.in_flight,
                            "round": turn.number,
                            **summary(run),
                            **_figures(workload, run, likelihood),
                        }


def _candidates_of(method: Method) -> int | None:
    """The number of candidates, as in the keys of `Part.methods`."""
    if method.speculative is None:
        return None
    return int(dict(method.speculative).get("num_candidates", 0))


def _rounds(workload: Workload, in_flight: Sequence[int]) -> Rounds:
    prompts, task = workload.prompts, workload.prompt_set
    return Rounds(
        prompts, task.max_tokens, in_flight, ROUNDS, lambda n: max(LEAST_PROMPTS, 2 * n), seed=1000, stop=task.stop
    )


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
