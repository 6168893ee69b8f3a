"""A server for tests, up until it is healthy and stopped at the end."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.commands import LIMIT_S


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def serving(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, **options) -> Iterator[str]:
    """The base URL of what `command`, with a `--port`, serves; its output goes to `log`."""
    port = _free_port()
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"VLLM_LOGGING_LEVEL": "INFO"} | (env or {}),
            **options,
        )
        try:
            _wait_until_healthy(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=LIMIT_S)


def _wait_until_healthy(process: subprocess.Popen, url: str, log: Path) -> None:
    for _ in range(LIMIT_S):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(url, timeout=1)
        except OSError:
            time.sleep(1)
        else:
            return
    raise TimeoutError(log.read_text()[-3000:])
