"""One drafting round of mtad against one of vLLM's draft_model, on the bundled pair, in the engine's worker.

    python -m benchmarks.drafting_round [--json FILE]

All engines are up together and take turns; each figure is the median over the decode steps of all rounds in which
exactly so many requests were in flight. A round is `propose`: gamma draft passes and all that belongs to them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import vllm

from vllm_mtad.demo.figures import MAX_TOKENS
from vllm_mtad.measure.decoding import decode
from vllm_mtad.measure.engines import quiet_vllm, start, stop
from vllm_mtad.measure.methods import PAPER, draft_model, mtad, target_alone
from vllm_mtad.pair import MINISQL
from vllm_mtad.pair.minisql.task import evaluation_examples

WAYS = (target_alone(), draft_model(), mtad())
ROUNDS, REQUESTS = 3, (1, 8)
WORKER = {"worker_cls": "benchmarks.timed_worker.TimedCPUWorker"}


def measure() -> list[dict[str, Any]]:
    prompts = [e.prompt for e in evaluation_examples("held_out", 96)]
    times: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    engines = [(way, start(way, MINISQL, **WORKER)) for way in WAYS]
    try:
        for round_number in range(ROUNDS + 1):
            for requests in REQUESTS:
                for way, llm in engines:
                    count = 12 * min(requests, 4)
                    decode(llm, prompts[:count], PAPER.params(MAX_TOKENS), requests, round_number)
                    (taken,) = llm.collective_rpc("take_times")
                    if round_number:  # the first warms up
                        for (part, in_flight), seconds in taken.items():
                            times[way.family, part, in_flight] += seconds
    finally:
        for _, llm in engines:
            stop(llm)
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
        machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "vllm": vllm.__version__}
        machine |= {"torch": torch.__version__, "command": "python -m benchmarks.drafting_round"}
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    quiet_vllm()
    main()
