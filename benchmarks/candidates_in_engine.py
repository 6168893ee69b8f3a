"""This benchmark runs several candidates in vLLM itself, beside the slow reference:
`python -m benchmarks.candidates_in_engine`.

MTAD runs on Model Runner V2 in Triton's interpreter, which is slow, so on few prompts; `draft_model`, for comparison,
on vLLM's CPU engine. Sampling is the paper's. Each engine is a process of its own, and a row of `engines.jsonl` is one
of them. The same command goes on where it was interrupted, and writes the tables of `benchmarks.candidates` again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any, NamedTuple

from benchmarks.candidates import DEFAULT_FOLDER
from benchmarks.report.candidates import page
from benchmarks.store import Store
from vllm_mtad.tools.harness.machine import ROOT

PAIRS = ("minisql", "tales")
IN_FLIGHT = 7
"""As many as the default `max_candidate_rows` lets have four candidates of four tokens."""


class EngineSetting(NamedTuple):
    """`num_candidates` 0: vLLM's draft_model."""

    pair: str
    gamma: int
    num_candidates: int

    @property
    def is_interpreted(self) -> bool:
        return self.num_candidates > 0


def all_settings() -> list[EngineSetting]:
    mtad = [EngineSetting(pair, 4, candidates) for candidates in (4, 1) for pair in PAIRS]
    return [EngineSetting(pair, gamma, 0) for gamma in (4, 6, 8) for pair in PAIRS] + mtad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs=2, default=(100, 40), metavar=("MINISQL", "TALES"))
    parser.add_argument("--interpreted", type=int, nargs=2, default=(42, 14), metavar=("MINISQL", "TALES"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(decode(*json.loads(options.one))))
        return
    store = Store(DEFAULT_FOLDER)
    for setting in all_settings():
        prompts = (options.interpreted if setting.is_interpreted else options.prompts)[PAIRS.index(setting.pair)]
        if not any(row["setting"] == list(setting) and row["prompts"] == prompts for row in store.rows("engines")):
            row = _decode_in_a_process(setting, prompts)
            store.add("engines", row)
            print(row["setting"], flush=True)
    (DEFAULT_FOLDER / "table.md").write_text(page(store.rows("decoded"), store.rows("engines")))


def _decode_in_a_process(setting: EngineSetting, num_prompts: int) -> dict[str, Any]:
    arguments = ["-m", "benchmarks.candidates_in_engine", "--one", json.dumps([setting, num_prompts])]
    interpreter = ["-m", "tests.interpreter"] if setting.is_interpreted else []
    done = subprocess.run([sys.executable, *interpreter, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    done.check_returncode()
    return json.loads(done.stdout.splitlines()[-1])


def decode(setting: list[Any], num_prompts: int) -> dict[str, Any]:
    """One setting on the first prompts of its pair: each call's tokens, by prompt."""
    from vllm_mtad.tools.harness.engines import engine_up, quiet_vllm

    quiet_vllm()
    from benchmarks.plan import Models, Quality
    from benchmarks.workload import load_workload
    from vllm_mtad.config.options import MTADOptions
    from vllm_mtad.tools.harness.decoding import decode
    from vllm_mtad.tools.harness.methods import PAPER, draft_model, mtad

    pair, gamma, num_candidates = EngineSetting(*setting)
    workload = load_workload(Models(None, None), Quality(pair, num_prompts, ()))
    method = draft_model(gamma)
    if num_candidates:
        method = mtad(MTADOptions(num_speculative_tokens=gamma, num_candidates=num_candidates))
    params = PAPER.params(workload.prompt_set.max_tokens)
    with engine_up(method, workload.pair, dtype="float32", max_num_seqs=IN_FLIGHT, max_model_len=512) as llm:
        run = decode(llm, workload.prompts, params, IN_FLIGHT, seed=1)
    calls = [[len(call) for call in decoded.calls] for decoded in run.decoded]
    return {"setting": list(setting), "prompts": num_prompts, "calls": calls}


if __name__ == "__main__":
    main()
