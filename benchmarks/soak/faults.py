"""`kill` ends a process of a server, and `notices` says whether the server saw it."""

from __future__ import annotations

import os
import signal
import time
import urllib.request

import psutil

from benchmarks.serving import Server

PROCESSES = ("EngineCore", "Worker")
"""Parts of the names of a server's processes beside its first."""
NOTICE_S = 120.0


def kill(server: Server, name: str) -> None:
    """SIGKILL the process of the server whose name has this part."""
    first = psutil.Process(server.pid)
    victims = [process for process in first.children(recursive=True) if name in " ".join(process.cmdline())]
    if not victims:
        raise RuntimeError(f"The server has no process of the name {name!r}.")
    os.kill(victims[0].pid, signal.SIGKILL)


def notices(server: Server) -> bool:
    """Whether the server ends, or says that it is not healthy, instead of going on as if nothing were."""
    end = time.monotonic() + NOTICE_S
    while time.monotonic() < end:
        if not server.runs:
            return True
        try:
            urllib.request.urlopen(f"{server.url}/health", timeout=5).close()
        except OSError:  # an HTTPError is one
            return True
        time.sleep(0.5)
    return False
