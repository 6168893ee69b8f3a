"""`describe_machine` says what a result was measured on.

That is the processor, the GPU and its driver, the versions, the commit, the command. They are asked of other programs
and of package metadata, so that the process which starts the measurements never touches the device.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
"""The checkout, if this is one."""
PACKAGES = ("torch", "triton", "vllm", "vllm-mtad", "transformers")


def describe_machine(command: str, device: str) -> dict[str, Any]:
    """One JSON object; what cannot be found out is null. `command`: what was started."""
    return {
        "part": "machine",
        "device": device,
        "gpu": _first_gpu() if device == "cuda" else None,
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "command": command,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def command_of(program: str) -> str:
    """What was typed, if it was `python -m` of `program`."""
    return " ".join(["python -m", program, *sys.argv[1:]])


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _first_gpu() -> dict[str, str] | None:
    fields = ("name", "driver_version", "memory.total", "clocks.max.sm", "power.limit")
    found = _output("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    return dict(zip(fields, (value.strip() for value in found.splitlines()[0].split(",")))) if found else None


def _cpu() -> str | None:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return None
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    if _output("git", "rev-parse", "--show-toplevel") != str(ROOT):
        return None  # an installed wheel, perhaps within somebody's own repository
    commit = _output("git", "rev-parse", "HEAD")
    return commit and commit + ("+changes" if _output("git", "status", "--porcelain") else "")
