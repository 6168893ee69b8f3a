"""This benchmark times one drafting round of mtad against one of vLLM's draft_model.

It runs on the bundled pair, in the engine's worker.

    python -m benchmarks.drafting_round [--json FILE]

All engines are up together and take turns; each figure is the median over the decode steps of all rounds in which
exactly so many requests were in flight. A round is `propose`: gamma draft passes and all that belongs to them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.pairs import MINISQL
from benchmarks.pairs.minisql.task import evaluation_examples
from benchmarks.prompt_sets.bundled import MiniSQL
from vllm_mtad.tools.harness.engines import engines_up, quiet_vllm
from vllm_mtad.tools.harness.machine import command_of, describe_machine
from vllm_mtad.tools.harness.methods import draft_model, mtad, target_alone
from vllm_mtad.tools.harness.turns import WARM_UP, Rounds

WAYS = (target_alone(), draft_model(), mtad())
ROUNDS, REQUESTS = 3, (1, 8)
WORKER = {"worker_cls": "benchmarks.timed_worker.TimedCPUWorker"}


def measure() -> list[dict[str, Any]]:
    prompts = [e.prompt for e in evaluation_examples("held_out", 96)]
    times: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    rounds = Rounds(prompts, MiniSQL.max_tokens, REQUESTS, ROUNDS, lambda in_flight: 12 * min(in_flight, 4), seed=1)
    with engines_up(WAYS, MINISQL, WORKER) as engines:
        for turn in rounds.turns(engines):
            turn.decode()
            (taken,) = turn.llm.collective_rpc("take_times")
            if turn.number != WARM_UP:
                for (part, in_flight), seconds in taken.items():
                    times[turn.method.family, part, in_flight] += seconds
    return [
        {"method": method, "part": part, "requests": n, "median_ms": statistics.median(v) * 1e3, "steps": len(v)}
        for (method, part, n), v in sorted(times.items())
        if n in REQUESTS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows and the machine")
    args = parser.parse_args()
    rows = measure()
    print(f"{'method':<12}{'part':<12}{'requests':>9}{'median ms':>11}{'steps':>7}")
    for row in rows:
        print(f"{row['method']:<12}{row['part']:<12}{row['requests']:>9}{row['median_ms']:>11.2f}{row['steps']:>7}")
    if args.json is not None:
        machine = describe_machine(command_of("benchmarks.drafting_round"), "cpu")
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    quiet_vllm()
    main()
