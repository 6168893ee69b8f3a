"""Soak a server of the bundled pair, kill its processes, and say what was lost.

    python -m benchmarks.soak --out DIR                     3,000 requests, 8 minutes on two cores
    python -m benchmarks.soak --out DIR --requests 200 --faults

The exit status is 1 if anything that must hold did not.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.pairs import FOLDER, MINISQL
from benchmarks.serving import Server
from benchmarks.soak.asks import Ask, greedy_ask, mixed_asks
from benchmarks.soak.faults import PROCESSES, kill, notices
from benchmarks.soak.load import Answer, send_all
from benchmarks.soak.verdict import Verdict, Vitals
from vllm_mtad.tools.harness.machine import command_of, describe_machine
from vllm_mtad.tools.harness.methods import mtad
from vllm_mtad.tools.harness.progress import Work
from vllm_mtad.tools.harness.prompts import read_prompts

MAX_MODEL_LEN, MOST_IN_FLIGHT, PROMPTS = 256, 24, 40
ENGINE: dict[str, Any] = {
    "dtype": "float32",  # greedy answers are compared character by character
    "max_model_len": MAX_MODEL_LEN,
    "max_num_seqs": 16,
    "num_gpu_blocks_override": 40,  # fewer than 16 requests need: they are preempted
    "enable_prefix_caching": True,
    "max_num_batched_tokens": 320,  # prompts are read in chunks
}


def soak(server: Server, prompts: Sequence[str], count: int, seed: int, work: Work) -> Verdict:
    """What held of a server, under `count` requests."""
    model = str(server.pair.target)
    greedy = {prompt: greedy_ask(prompt, model) for prompt in prompts[: len(prompts) // 2]}
    quiet = {a.ask.body["prompt"]: a.texts[0] for a in send_all(server.url, list(greedy.values()), 1, seed)}  # type: ignore[index]
    asks = list(mixed_asks(prompts, count, model, MAX_MODEL_LEN, seed))
    warm_up = max(1, count // 4)
    answers = _send(server, asks[:warm_up], seed, work)
    warm = Vitals.at_rest(server.url, server.pid)
    answers += _send(server, asks[warm_up:], seed + 1, work)
    return Verdict.of(answers, quiet, warm, Vitals.at_rest(server.url, server.pid))


def _send(server: Server, asks: list[Ask], seed: int, work: Work) -> list[Answer]:
    ended: list[Answer] = []

    def note(answer: Answer) -> None:
        ended.append(answer)
        if len(ended) % 250 == 0:
            work.say(f"{len(ended)} of {len(asks)} requests")

    return send_all(server.url, asks, MOST_IN_FLIGHT, seed, note)


def faults(prompts: Sequence[str], folder: Path, work: Work) -> list[str]:
    """Kill each process of a server under load, and start it again; what did not hold."""
    found: list[str] = []
    before: list[list[str]] = []
    killed: str | None = None
    for number, name in enumerate((*PROCESSES, None)):
        with Server(mtad(), MINISQL, folder / f"start-{number}", ENGINE) as server:
            asks = [greedy_ask(prompt, str(server.pair.target)) for prompt in prompts]
            answers = [answer.texts for answer in send_all(server.url, asks, 8, 0)]
            if killed is not None and answers != before:
                found.append(f"After a kill of {killed!r} and a new start the greedy answers differ.")
            before, killed = answers, name
            if name is not None:
                found += _kill_under_load(server, name, asks)
                work.say(f"killed {name} under load")
    return found


def _kill_under_load(server: Server, name: str, asks: list[Ask]) -> list[str]:
    found, ended, some_ended = [], list[Answer](), threading.Event()

    def note(answer: Answer) -> None:
        ended.append(answer)
        some_ended.set()

    load = threading.Thread(target=send_all, args=(server.url, asks * 40, 8, 1, note))
    load.start()
    some_ended.wait()  # so the others are in flight
    kill(server, name)
    if not notices(server):
        found.append(f"The server did not notice that {name!r} was killed.")
    load.join()
    if len(ended) != len(asks) * 40:
        found.append(f"Of {len(asks) * 40} clients {len(ended)} came to an end when {name!r} was killed.")
    if all(answer.is_whole for answer in ended):
        found.append(f"{name!r} was killed when nothing was in flight: this says nothing.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", action="store_true", help="kill processes too, and start again")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    work = Work()
    prompts = [prompt.text for prompt in read_prompts(FOLDER / "minisql" / "prompts.jsonl")][:PROMPTS]
    with Server(mtad(), MINISQL, args.out / "server", ENGINE) as server:
        verdict = soak(server, prompts, args.requests, args.seed, work)
    if args.faults:
        verdict.failures += faults(prompts[:8], args.out, work)
        verdict.figures["processes killed"] = len(PROCESSES)
    machine = describe_machine(command_of("benchmarks.soak"), "cpu")
    report = {"machine": machine, "figures": verdict.figures, "failures": verdict.failures}
    (args.out / "soak.json").write_text(json.dumps(report, indent=1) + "\n")
    for name, value in verdict.figures.items():
        work.say(f"{name}: {value:.4g}")
    for failure in verdict.failures:
        work.say(failure)
    sys.exit(1 if verdict.failures else 0)


if __name__ == "__main__":
    main()
