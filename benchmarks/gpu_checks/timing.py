"""`Times` times what is launched on the device, in ms, by CUDA events; `copy_bandwidth` says how fast it copies."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

_CYCLES_PER_MS = 2_000_000  # at 2 GHz; a slower clock waits longer
_SHORTEST_LEAD, _LONGEST_LEAD = 5.0, 80.0


class Times:
    """The times of one function. `ms` has the host's share in it, `device_ms` has not: there the device is kept busy
    until the host has launched all."""

    def __init__(self) -> None:
        self._idle: list[float] = []
        self._behind: list[float] = []
        self._host: list[float] = []
        self._last_host = 0.0

    def time(self, function: Callable[[], Any], keep: bool, behind: bool) -> None:
        """Call it once. `behind`: behind other work that lasts twice as long as the host needs."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        if behind:
            lead = min(max(2 * self._last_host, _SHORTEST_LEAD), _LONGEST_LEAD)
            torch.cuda._sleep(int(lead * _CYCLES_PER_MS))
        start.record()
        began = time.perf_counter()
        function()
        host = (time.perf_counter() - began) * 1e3
        end.record()
        torch.cuda.synchronize()
        if not behind:  # behind a full queue the host waits for the device
            self._last_host = host
        if keep:
            (self._behind if behind else self._idle).append(start.elapsed_time(end))
            if not behind:
                self._host.append(host)

    def summary(self) -> dict[str, Any]:
        """`ms` and `device_ms`: quartiles, the median in the middle."""
        return {
            "ms": statistics.quantiles(self._idle, n=4),
            "device_ms": statistics.quantiles(self._behind, n=4),
            "host_ms": statistics.median(self._host),
        }


def copy_bandwidth() -> float:
    """Bytes read and written a second by a copy of 1 GiB on the device, the median of 20."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return 2 * source.nbytes / statistics.median(times)
