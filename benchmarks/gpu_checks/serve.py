"""This check starts `vllm serve` as a user does, with vLLM's default sizes, and watches it while it answers.

vLLM's own checks are on: what waits for the device in a step is an error there, and every kernel that is compiled after
the warm-up is logged. One server after another, one for each gamma and number of candidates.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_checks.models import LLAMA_1B, LLAMA_8B, TINY_DRAFT, TINY_TARGET, ModelShape, write_model
from benchmarks.gpu_checks.report import Report
from benchmarks.gpu_checks.subprocesses import started, tail

HOST = "127.0.0.1"
STOP_SECONDS = 60
ENVIRONMENT = {"VLLM_GPU_SYNC_CHECK": "error", "VLLM_LOGGING_LEVEL": "INFO"}
OPTIONS = ("--load-format", "dummy", "--jit-monitor-mode", "warn", "--jit-monitor-verbose")
"""Warnings and not errors: a server that goes on names every kernel that it compiles, not only the first."""

KINDS: dict[str, dict[str, Any]] = {
    "sampled": {"temperature": 1.0, "seed": 1},
    "greedy": {"temperature": 0.0},
    "small top-k": {"temperature": 1.0, "top_k": 10, "top_p": 0.9},
    "top-p": {"temperature": 1.0, "top_p": 0.9},
    "penalties": {"temperature": 0.8, "min_p": 0.05, "presence_penalty": 0.5, "logit_bias": {"5": 1.0}, "logprobs": 2},
    "streamed": {"temperature": 1.0, "stream": True, "stream_options": {"include_usage": True}},
}


@dataclass(frozen=True)
class Setting:
    target: ModelShape
    draft: ModelShape
    dtype: str
    servers: tuple[tuple[int, int], ...]
    """(gamma, number of candidates) of each."""
    options: tuple[str, ...]
    """Of `vllm serve`. Without any, sizes, backends, compilation and graphs are vLLM's own choice."""
    prompt_lengths: tuple[int, ...]
    crowd: int
    max_tokens: int


GPU = Setting(LLAMA_8B, LLAMA_1B, "bfloat16", ((4, 1), (8, 1), (4, 4)), (), (300, 1, 17, 2000, 12_000), 300, 64)
TINY_SIZES = (
    "--dtype float32 --max-model-len 128 --max-num-seqs 4 --max-num-batched-tokens 64 --block-size 32 --enforce-eager"
)
TINY = Setting(TINY_TARGET, TINY_DRAFT, "float32", ((3, 2),), tuple(TINY_SIZES.split()), (5, 80), 2, 4)


def run(report: Report, tiny: bool, limit: float) -> None:
    setting = TINY if tiny else GPU
    with tempfile.TemporaryDirectory() as folder:
        target = write_model(Path(folder) / "target", setting.target, setting.dtype)
        draft = write_model(Path(folder) / "draft", setting.draft, setting.dtype)
        for gamma, candidates in setting.servers:
            speculative = {"method": "mtad", "model": draft, "num_speculative_tokens": gamma}
            speculative["num_candidates"] = candidates
            name = f"gamma = {gamma}" + f", C = {candidates}" * (candidates > 1)
            options = [*setting.options, "--speculative-config", json.dumps(speculative)]
            try:
                _serve(report, setting, name, [target, *OPTIONS, *options], limit, on_gpu=not tiny)
            except Exception:
                report.add("serve", server=name, error=traceback.format_exc(limit=-6))


def _serve(report: Report, setting: Setting, name: str, arguments: list[str], limit: float, on_gpu: bool) -> None:
    """One server's records: whether it started, what it answered, what its log says up to its end."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    url, log = f"http://{HOST}:{port}", report.logs / f"serve {name}.log".replace(" = ", "_").replace(", ", "_")
    command = [_vllm(), "serve", *arguments, "--host", HOST, "--port", str(port), "--disable-uvicorn-access-log"]
    start = time.monotonic()
    with started(command, log, ENVIRONMENT) as process:
        ready = _wait_until_ready(process, url, limit)
        seconds = round(time.monotonic() - start, 1)
        wrong = _ask_all(url, setting, limit) if ready else []
        drafts = _drafts(url) if ready and not wrong else None
        text = log.read_text(errors="replace")
        process.terminate()
        try:
            process.wait(STOP_SECONDS)  # its memory is what the next server waits for
        except subprocess.TimeoutExpired:
            report.add("serve", server=name, note=f"did not end within {STOP_SECONDS} s of being asked to")
    found = findings(text, on_gpu)

    def check(what: str, passed: bool, **detail: Any) -> None:
        report.add("serve", check=f"vllm serve, {name}: {what}", passed=passed, detail=detail)

    if not ready:
        check("starts", False, seconds=seconds, **found, end=tail(log))
        return
    check("starts", not found["missing"], seconds=seconds, missing=found["missing"], says=found["says"])
    check("answers every request", not wrong and bool(drafts), wrong=wrong[:5], drafts=drafts)
    check("no step waits for the device", not found["waits"], waits=found["waits"])
    check("nothing is compiled in service", not found["compiles"], compiles=found["compiles"])
    check("its log has no errors", not found["errors"], errors=found["errors"])


def _vllm() -> str:
    command = shutil.which("vllm", path=str(Path(sys.executable).parent)) or shutil.which("vllm")
    if command is None:
        raise RuntimeError("The `vllm` command is not installed beside this Python.")
    return command


def _wait_until_ready(process: subprocess.Popen, url: str, limit: float) -> bool:
    end = time.monotonic() + limit
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return True
    return False


# -- requests --------------------------------------------------------------------------------------------------------


def _ask_all(url: str, setting: Setting, limit: float) -> list[str]:
    """What was wrong with the answers. One request alone; then one of each length, few enough for several candidates
    beside the longest prompts; then every kind at every length, twice, for the prefix cache has them the second time;
    then a crowd."""
    every = list(_bodies(setting))
    crowd = [every[0] | {"prompt": _prompt(setting.prompt_lengths[0], i), "seed": i} for i in range(setting.crowd)]
    few = [every[0] | {"prompt": _prompt(length, 1)} for length in setting.prompt_lengths]
    wrong: list[str] = []
    for wave in (every[:1], few, every, every, crowd):
        with ThreadPoolExecutor(len(wave)) as pool:
            wrong += filter(None, pool.map(lambda body: _ask(url, body, limit), wave))
    return wrong


def _bodies(setting: Setting) -> Iterator[dict[str, Any]]:
    for length in setting.prompt_lengths:
        for values in KINDS.values():
            yield {"prompt": _prompt(length, 0), "max_tokens": setting.max_tokens, "ignore_eos": True} | values


def _prompt(length: int, salt: int) -> list[int]:
    return [3 + (salt * 7919 + i * 104_729) % 500 for i in range(length)]


def _ask(url: str, body: dict[str, Any], limit: float) -> str | None:
    """What is wrong with the answer, if anything."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=limit) as answer:
            text = answer.read().decode()
    except urllib.error.HTTPError as error:
        return f"{error}: {error.read().decode(errors='replace')[:300]}"
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    chunks = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith(("data: {", "{"))]
    tokens = (json.loads(chunks[-1]).get("usage") or {}).get("completion_tokens") if chunks else None
    return None if tokens == body["max_tokens"] else f"{tokens} tokens of {body['max_tokens']}: {text[-300:]}"


def _drafts(url: str) -> float | None:
    """How many drafts the server says it verified."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        found = re.search(r"^vllm:spec_decode_num_drafts_total\{.*\} (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else None


# -- the log ---------------------------------------------------------------------------------------------------------

MUST_SAY = {"mtad": "MTAD is on", "scratch": "MTAD scratch:"}
MUST_SAY_ON_GPU = MUST_SAY | {"monitor": "Kernel JIT monitor activated"}
LOOKED_FOR = {
    "errors": re.compile(r"\bERROR\b|^(\(.*?\) )?Traceback \(most|^(\(.*?\) )?[\w.]*(Error|Exception)\b"),
    "refusals": re.compile(r"cannot be (combined|used) with|is not accepted by mtad"),
    "waits": re.compile(r"GPU<->CPU sync detected"),
    "compiles": re.compile(r"JIT compilation during inference|^(\(.*?\) )?(Autotuning kernel|Triton autotuning)"),
}
_SHOWN_LINES, _SHOWN_CHARACTERS = 12, 400


def findings(log: str, on_gpu: bool) -> dict[str, list[str]]:
    """Lines of a server's log by what is `LOOKED_FOR`; `says`, those that must be there, and `missing`, which of them
    are not."""
    lines = list(dict.fromkeys(log.splitlines()))
    found = {name: _shown([line for line in lines if of.search(line)]) for name, of in LOOKED_FOR.items()}
    must = MUST_SAY_ON_GPU if on_gpu else MUST_SAY
    said = {name: [line for line in lines if text in line][:1] for name, text in must.items()}
    missing = [name for name, line in said.items() if not line]
    return found | {"says": _shown([line for one in said.values() for line in one]), "missing": missing}


def _shown(lines: list[str]) -> list[str]:
    more = [f"and {len(lines) - _SHOWN_LINES} more lines"] if len(lines) > _SHOWN_LINES else []
    return [line[:_SHOWN_CHARACTERS] for line in lines[:_SHOWN_LINES]] + more
