"""`Server` runs one way to decode behind a real `vllm serve`.

It is asked by vLLM's own load generator, `vllm bench serve`.

Client and server share the machine's cores. `vllm bench serve` reads its prompts with pandas, which vLLM does not
install by itself (`pip install pandas`; this project's extra `bench` brings it).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from vllm_mtad.tools.harness.engines import engine_options
from vllm_mtad.tools.harness.methods import Method, Sampling
from vllm_mtad.tools.harness.pair import Pair

HOST = "127.0.0.1"
START_LIMIT, BENCH_LIMIT, STOP_LIMIT = 900.0, 3600.0, 30.0
"""Seconds."""
_SHOWN_OF_A_LOG, _SHOWN_ERRORS = 3000, 5
"""Characters, lines."""
_TIMES = ("ttft", "tpot", "itl", "e2el")


class Server:
    """A running server of one way to decode, for any number of `bench` calls. Several may be up and take turns.

        with Server(method, pair, folder) as server:
            server.bench(prompts, concurrency=8, num_prompts=64, max_tokens=72)

    Args:
        folder: for the logs, the prompts and the results of `vllm bench serve`; servers must not share it.
        engine: engine options that win over `harness.engines.engine_options`, by the names that `LLM` has for them.
        start_limit: seconds that the server may take to come up.
    """

    def __init__(
        self,
        method: Method,
        pair: Pair,
        folder: Path,
        engine: dict[str, Any] | None = None,
        start_limit: float = START_LIMIT,
    ) -> None:
        self.method, self.pair, self.folder, self.start_limit = method, pair, folder, start_limit
        self.options = engine_options(method) | (engine or {})
        self.log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._port, self._benches = 0, 0

    def __enter__(self) -> Server:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._port = _free_port()
        with self.log.open("wb") as log:
            # A session of its own: its whole process group can be ended, and Ctrl-C is left to this process.
            self._process = subprocess.Popen(
                self._command(), stdout=log, stderr=subprocess.STDOUT, env=_environment(), start_new_session=True
            )
        try:
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """Of the first process."""
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ask the server to end, then end what is left of its process group."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        if not _group_ends(process, STOP_LIMIT):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            _group_ends(process, STOP_LIMIT)  # its memory is what the next server waits for

    def bench(
        self, prompts: Sequence[str], *, concurrency: int, num_prompts: int, max_tokens: int, seed: int = 0
    ) -> dict[str, Any]:
        """One run of `vllm bench serve`: `num_prompts` requests, `concurrency` at a time, in the prompts' order.

        Before the clock starts, `concurrency` requests warm the server up. A request ends at max_tokens or at a stop.

        Returns:
            request_throughput (requests/s), output_throughput (tokens/s), duration (s), completed, total_input_tokens,
            total_output_tokens; mean, median and p99 of ttft, tpot, itl and e2el in ms, as `p99_ttft_ms` (an itl is
            between two chunks of the stream, and a speculative chunk holds several tokens; tpot is per token); and
            `vllm_spec_decode`, None without speculation.
        Raises:
            ValueError: more requests at a time than the server takes: they would wait, and TTFT would count it.
            RuntimeError: the run failed, in one sentence and the end of the log.
        """
        if concurrency > self.options["max_num_seqs"]:
            raise ValueError(f"concurrency={concurrency} needs the engine option max_num_seqs of at least as much.")
        if importlib.util.find_spec("pandas") is None:
            raise RuntimeError("`vllm bench serve` reads its prompts with pandas, which is missing: pip install pandas")
        self._benches += 1
        name = f"bench-{self._benches}"
        dataset = self.folder / f"{name}.jsonl"
        asked = islice(cycle(prompts), num_prompts)
        dataset.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in asked))
        command = self._bench_command(name, concurrency, num_prompts, max_tokens, seed)
        self._run_bench(command, self.folder / f"{name}.log")
        found = json.loads((self.folder / f"{name}.json").read_text())
        if found["failed"] or found["completed"] != num_prompts:
            raise RuntimeError(
                f"{found['failed']} of {num_prompts} requests to the server of {self.method.name!r} failed."
                + _end_of(self.log)
            )
        return _figures(found)

    # -- the server -----------------------------------------------------------------------------------

    def _command(self) -> list[str]:
        command = [_vllm(), "serve", str(self.pair.target), "--host", HOST, "--port", str(self._port)]
        command += ["--disable-uvicorn-access-log", *_flags(self.options)]
        speculative = self.method.speculative_config(str(self.pair.draft))
        return command if speculative is None else [*command, "--speculative-config", json.dumps(speculative)]

    def _wait_until_healthy(self) -> None:
        process, start = self._process, time.monotonic()
        assert process is not None
        while time.monotonic() - start < self.start_limit:
            if process.poll() is not None:
                raise RuntimeError(
                    f"The server of {self.method.name!r} ended with exit code {process.returncode} before it was ready."
                    + _end_of(self.log)
                )
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
            except OSError:
                time.sleep(0.5)
            else:
                return
        raise RuntimeError(
            f"The server of {self.method.name!r} was not ready after {self.start_limit:g} s." + _end_of(self.log)
        )

    # -- the load -------------------------------------------------------------------------------------

    def _bench_command(self, name: str, concurrency: int, num_prompts: int, max_tokens: int, seed: int) -> list[str]:
        options = {
            "base_url": self.url,
            "model": str(self.pair.target),
            "dataset_name": "custom",
            "dataset_path": str(self.folder / f"{name}.jsonl"),
            "num_prompts": num_prompts,
            "num_warmups": concurrency,
            "max_concurrency": concurrency,
            "custom_output_len": max_tokens,
            "seed": seed,
            "percentile_metrics": ",".join(_TIMES),
            "save_result": True,
            "result_dir": str(self.folder),
            "result_filename": f"{name}.json",
            "skip_chat_template": True,
            "disable_shuffle": True,
            "disable_tqdm": True,
        }
        return [_vllm(), "bench", "serve", *_flags(options | _sampling_options(self.method.sampling))]

    def _run_bench(self, command: list[str], log: Path) -> None:
        with log.open("wb") as out:
            try:
                code = subprocess.run(
                    command, stdout=out, stderr=subprocess.STDOUT, env=_environment(), timeout=BENCH_LIMIT
                ).returncode
            except subprocess.TimeoutExpired:
                code = None
        if code != 0:
            how = f"took longer than {BENCH_LIMIT:g} s" if code is None else f"ended with exit code {code}"
            raise RuntimeError(f"`vllm bench serve` against {self.method.name!r} {how}." + _end_of(log))


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    """The figures of the JSON file that `vllm bench serve` saves."""
    names = ["request_throughput", "output_throughput", "duration", "completed"]
    names += ["total_input_tokens", "total_output_tokens"]
    names += [f"{statistic}_{of}_ms" for of in _TIMES for statistic in ("mean", "median", "p99")]
    return {name: found[name] for name in names} | {"vllm_spec_decode": _spec_decode(found)}


def _spec_decode(found: dict[str, Any]) -> dict[str, Any] | None:
    """Acceptance as vLLM counts it, from the difference of the server's counters over the run.

    It also counts tokens after the stop and placeholder drafts (those of a request that has no draft), so it differs
    from `harness.figures`. `acceptance_rate` is a share, `acceptance_length` 1 + accepted tokens per draft.
    """
    if "spec_decode_num_drafts" not in found:
        return None
    return {
        "acceptance_rate": found["spec_decode_acceptance_rate"] / 100,
        "acceptance_length": found["spec_decode_acceptance_length"],
        "num_drafts": found["spec_decode_num_drafts"],
        "num_draft_tokens": found["spec_decode_draft_tokens"],
        "num_accepted_tokens": found["spec_decode_accepted_tokens"],
        "acceptance_per_position": found["spec_decode_per_position_acceptance_rates"],
    }


def _sampling_options(sampling: Sampling) -> dict[str, Any]:
    if sampling.temperature == 0:
        return {"temperature": 0.0}
    return {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}


def _flags(options: dict[str, Any]) -> list[str]:
    """Command-line arguments, by vLLM's naming rule; an option that is None is left at its default."""
    found: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, dict):
            found += [f"--{flag}", json.dumps(value)]
        elif isinstance(value, (list, tuple)):
            found += [f"--{flag}", *map(str, value)]
        elif value is not None:
            found += [f"--{flag}", str(value)]
    return found


def _vllm() -> str:
    command = shutil.which("vllm", path=str(Path(sys.executable).parent))
    if command is None:
        raise RuntimeError("The `vllm` command is not installed beside this Python.")
    return command


def _environment() -> dict[str, str]:
    """Gives the KV cache a size: without one, vLLM's CPU engine takes nearly all of the machine's memory for it."""
    return {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"} | os.environ


def _free_port() -> int:
    with socket.socket() as s:
        s.bind((HOST, 0))
        return int(s.getsockname()[1])


def _group_ends(leader: subprocess.Popen[bytes], limit: float) -> bool:
    """Whether all processes of `leader`'s group end within `limit` seconds."""
    deadline = time.monotonic() + limit
    while leader.poll() is None or _runs_in_group(leader.pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _runs_in_group(group: int) -> bool:
    """Whether any process of the group runs. A zombie, which nobody may ever reap in a container, does not."""
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
    return False


def _end_of(log: Path) -> str:
    """The end of a log, with its first errors: vLLM's last one often says no more than that there is one above."""
    text = log.read_text(errors="replace")
    errors = list(dict.fromkeys(line for line in text.splitlines() if "Error: " in line))[:_SHOWN_ERRORS]
    first = "".join(f"\n{line}" for line in errors)
    return f" The first errors in {log}:{first}\nIts end:\n{text[-_SHOWN_OF_A_LOG:]}"
