"""Each task (`tasks`) and each server runs in a process of its own, with a time limit and a log.

So what fails there, a poisoned CUDA context among it, neither hides nor harms what comes next.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_mtad.tools.harness.machine import ROOT

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # functions go to the engine's process through collective_rpc
    "VLLM_HOST_IP": "127.0.0.1",  # there may be no network to find an address on
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "PYTHONUNBUFFERED": "1",
}
_LAST_LINES = 25
_running: set[subprocess.Popen] = set()


@dataclass(frozen=True)
class Outcome:
    """`result` is the task's own, or None and then `error` says why, with the end of the log."""

    result: Any
    error: str | None
    seconds: float


def run_task(
    name: str, arguments: dict[str, Any], log: Path, limit: float, environment: dict[str, str] | None = None
) -> Outcome:
    """Run `tasks.TASKS[name](**arguments)`; everything in `arguments` and the result go through JSON."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.gpu_checks.tasks", name, str(result), json.dumps(arguments)]
        with started(command, log, environment) as process:
            try:
                code: int | str = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                code = f"stopped after {limit:.0f} s"
        seconds = round(time.monotonic() - start, 1)
        if result.exists():  # whatever happened at exit
            return Outcome(json.loads(result.read_text()), None, seconds)
    return Outcome(None, f"{name}: exit status {code}; {log}:\n{tail(log)}", seconds)


@contextlib.contextmanager
def started(command: list[str], log: Path, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen]:
    """A running process that writes to `log`. When the block ends it is killed, with all that it started."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=ENVIRONMENT | os.environ | (environment or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        _running.add(process)
        try:
            yield process
        finally:
            _end_group(process)


def _end_group(process: subprocess.Popen) -> None:
    """Kill the process and those that it started: an engine that outlived its front end would keep the memory."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _running.discard(process)


def end_all() -> None:
    """For a signal that ends this process: end all tasks, which are in sessions of their own and would go on."""
    for process in tuple(_running):
        _end_group(process)


def tail(log: Path) -> str:
    return "\n".join(line[:300] for line in log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
