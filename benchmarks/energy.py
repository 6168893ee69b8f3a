"""This module measures joules per output token, by NVML's counter of a GPU's energy since its driver was loaded.

It is assumed that nothing else uses the measured GPUs. Engines that are up but idle hold memory only, which is part of
the idle power. The counter is of the whole board, the host's energy is not in it. It moves in steps, every 20 to 100 ms
on GPUs that have it (Volta and later), so every reading waits for a step and a measurement lasts 30 s or more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

MINIMUM_SECONDS = 30.0
_LONGEST_REFRESH, _POLL = 1.0, 0.001
"""Seconds: a counter that has not moved for the first is read as it is."""


class EnergyMeter:
    """The energy of some GPUs together.

    Args:
        library: NVML's Python binding, initialised.
        handles: NVML's device handles.
        clock, sleep: in seconds.
    """

    def __init__(
        self,
        library: Any,
        handles: Sequence[Any],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._library, self._handles = library, tuple(handles)
        self._clock, self._sleep = clock, sleep

    @property
    def num_gpus(self) -> int:
        return len(self._handles)

    def joules(self) -> float:
        """Since the drivers were loaded; NVML counts in mJ."""
        return sum(self._library.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self._handles) / 1e3

    def at_refresh(self) -> tuple[float, float]:
        """(seconds, joules) at the counter's next step: only then do the two belong together."""
        before, start = self.joules(), self._clock()
        while True:
            joules, now = self.joules(), self._clock()
            if joules != before or now - start >= _LONGEST_REFRESH:
                return now, joules
            self._sleep(_POLL)

    def idle_watts(self, seconds: float) -> float:
        """Mean power over so many seconds in which the caller leaves the GPUs alone."""
        start, joules = self.at_refresh()
        self._sleep(seconds)
        end, more = self.at_refresh()
        return (more - joules) / (end - start)


def open_meter() -> EnergyMeter | None:
    """The meter of the GPUs in CUDA_VISIBLE_DEVICES, of all GPUs if it is not set; None if there is none."""
    found = _open()
    return None if isinstance(found, str) else found


def unavailable_reason() -> str:
    """Why `open_meter` gives None, in one sentence; empty if it gives a meter."""
    found = _open()
    return found if isinstance(found, str) else ""


def joules_per_token(
    run: Callable[[], int], meter: EnergyMeter, idle_watts: float, minimum_seconds: float = MINIMUM_SECONDS
) -> dict[str, Any]:
    """Energy of `run`, repeated until `minimum_seconds` have passed.

    Args:
        run: does the work, waits for it and returns its number of output tokens.
        idle_watts: `EnergyMeter.idle_watts` of the same GPUs with the same engines up.

    Returns:
        gross_joules_per_token; net_joules_per_token, less what the GPUs would have used idle; seconds; tokens; runs;
        watts, gross; idle_watts; num_gpus.
    """
    tokens = runs = 0
    start, joules = meter.at_refresh()
    end, total = start, joules
    while end - start < minimum_seconds:
        tokens += run()
        runs += 1
        end, total = meter.at_refresh()
    if tokens == 0:
        raise ValueError("energy per token needs a run that gives tokens, but it gave none")
    seconds, spent = end - start, total - joules
    return {
        "gross_joules_per_token": spent / tokens,
        "net_joules_per_token": (spent - idle_watts * seconds) / tokens,
        "seconds": seconds,
        "tokens": tokens,
        "runs": runs,
        "watts": spent / seconds,
        "idle_watts": idle_watts,
        "num_gpus": meter.num_gpus,
    }


def _open() -> EnergyMeter | str:
    """A meter, or the reason why there is none."""
    try:
        from vllm.third_party import pynvml  # vLLM's copy of NVIDIA's binding
    except ImportError as error:
        return f"no NVML: vLLM's binding cannot be imported ({error})"
    try:
        pynvml.nvmlInit()
        meter = EnergyMeter(pynvml, visible_gpus(pynvml, os.environ.get("CUDA_VISIBLE_DEVICES")))
        meter.joules()
    except (pynvml.NVMLError, ValueError) as error:
        return f"no NVML: {error}"
    return meter


def visible_gpus(library: Any, visible: str | None) -> list[Any]:
    """NVML's handles of the GPUs that `CUDA_VISIBLE_DEVICES` names, by index or UUID; NVML itself ignores it.

    NVML's indices are in the order of the PCI bus. CUDA's are too where all GPUs are alike, or with
    CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    if visible is None:
        names = [str(index) for index in range(library.nvmlDeviceGetCount())]
    else:
        names = [name.strip() for name in visible.split(",") if name.strip()]
        names = list(takewhile(lambda name: name != "-1", names))  # CUDA sees none from there on
    if not names:
        raise ValueError("no GPU is visible" if visible is None else f"CUDA_VISIBLE_DEVICES={visible!r} names no GPU")
    return [
        library.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else library.nvmlDeviceGetHandleByUUID(name)
        for name in names
    ]
