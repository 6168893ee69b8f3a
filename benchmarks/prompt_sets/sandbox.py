"""`run_checked` runs a Python program that nobody has read, and says whether it passed its checks.

Each program gets a process of its own (`sandbox_inside.py`) in new network, process, IPC and mount namespaces:

- no network: the namespace has no interface that is up; opening an internet socket is also refused in the interpreter;
- the file system is read-only and without devices, /run, /proc and /dev/shm are hidden, and the working directory is a
  fresh 16 MiB in memory; no environment, nothing on stdin, stdout and stderr discarded;
- limits on processor time, memory of a process, file size, open files and processes; a limit on wall-clock time, after
  which every process of the program is killed, also those that left its process group;
- no capabilities but those of a namespace of its own; started by root, it runs as `nobody`.

A program passed only if its checks ran to their end: that is reported with a random token over a pipe, so neither an
exit status nor anything printed counts. Where a namespace is not permitted nothing is run (`SandboxError`).

What this does not protect against: a hole in the kernel (for that, use a virtual machine); reading files that the user,
or `nobody`, may read, though nothing but the verdict and a short reason comes out; use of the machine within the
limits, which hold for each process and so add up to 64 times as much; and a program written to fool this very judge,
since it shares an interpreter with its checks (an object that equals everything, a look for the token in the frames).
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

_INSIDE = Path(__file__).with_name("sandbox_inside.py")
_START_SECONDS = 30.0
_MAX_REPORT_BYTES = 4096


class SandboxError(ValueError):
    """This machine does not let this user isolate a program, so none is run."""


@dataclass(frozen=True)
class Outcome:
    passed: bool
    reason: str
    """Why not: the exception, or how the program ended. At most a few hundred characters."""


def run_checked(solution: str, checks: str, seconds: float = 10.0, memory_mib: int = 1024) -> Outcome:
    """Runs `solution` as a module and then `checks` in its namespace; passed is that neither raised nor ended early.

    `seconds` limits the wall-clock time from the start of `solution`, `memory_mib` the address space of each process.
    Raises SandboxError.
    """
    token = secrets.token_hex(16)
    request = {"token": token, "solution": solution, "checks": checks, "seconds": seconds, "memory_mib": memory_mib}
    report_in, report_out = os.pipe()
    with (
        open(report_in, "rb", buffering=0) as report,
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as stderr,
    ):
        stdin.write(json.dumps(request | {"report": report_out, "by_root": os.geteuid() == 0}).encode())
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                [*_unshare(), _python(), "-I", "-S", "-B", str(_INSIDE)],
                env={},
                cwd="/",
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=[report_out],
                start_new_session=True,
            )
        finally:
            os.close(report_out)  # ours; with the last of theirs the report ends
        try:
            received, ended = _read_lines(report, 1, _START_SECONDS)
            if not received.startswith(f"{token} ready\n"):
                stderr.seek(0)
                said = stderr.read(20_000).decode(errors="replace").strip().split("\n")[-1] or "it did not start"
                raise SandboxError(f"A program cannot be isolated on this machine, so none is run: {said.rstrip('.')}.")
            if not ended:
                received, ended = _read_lines(report, 2, seconds, received)
        finally:
            _kill(process)
    return _outcome(received, token, ended, seconds)


@functools.cache
def require_sandbox() -> None:
    """Raises SandboxError unless a right program passes here and a wrong one does not."""
    imports = "import collections, functools, hashlib, heapq, itertools, math, re, string, typing\n"
    right = run_checked(imports + "def one(): return 1", "assert one() == 1")
    if not right.passed or run_checked("def one(): return 2", "assert one() == 1").passed:
        raise SandboxError(
            f"A program cannot be judged in this machine's sandbox, so none is run: {right.reason or 'all pass'}."
        )


def _unshare() -> list[str]:
    command = shutil.which("unshare")
    if command is None:
        raise SandboxError("A program is isolated by `unshare` of util-linux (Linux), which is missing.")
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [command, *as_root, "--net", "--ipc", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--"]


def _python() -> str:
    """The interpreter without the virtual environment: a program has the standard library only."""
    return getattr(sys, "_base_executable", None) or sys.executable


def _read_lines(report: io.FileIO, lines: int, seconds: float, received: str = "") -> tuple[str, bool]:
    """(all that came, whether the other side has ended), once there are so many lines or the time is over."""
    deadline = time.monotonic() + seconds
    while received.count("\n") < lines and len(received) < _MAX_REPORT_BYTES:
        if not select.select([report], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return received, False
        data = report.read(_MAX_REPORT_BYTES)
        if not data:
            return received, True
        received += data.decode(errors="replace")
    return received, False


def _outcome(received: str, token: str, ended: bool, seconds: float) -> Outcome:
    lines = received.split("\n")[1:]
    if len(lines) < 2:  # the verdict's line is not complete
        return Outcome(False, "it ended before its checks did" if ended else f"it ran for {seconds:g} s")
    said, verdict, reason = [*lines[0].split(" ", 2), "", ""][:3]
    if said != token:
        return Outcome(False, "it wrote a report of its own")
    return Outcome(verdict == "passed", reason)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills the first process of the namespace, and with it every other one: the kernel ends them with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
