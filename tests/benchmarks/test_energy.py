"""Joules per token, with a stub of NVML whose counter moves in steps on a clock of the tests' own."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import torch

from benchmarks.energy import EnergyMeter, joules_per_token, open_meter, unavailable_reason, visible_gpus

IDLE, BUSY, REFRESH = 100.0, 400.0, 0.1


class GPUs:
    """NVML's functions over GPUs that draw `IDLE` watts, and `BUSY` in `work`."""

    def __init__(self, count: int = 1) -> None:
        self.count, self.now, self.joules = count, 0.0, 5000.0
        self._shown = self.joules

    def _pass(self, seconds: float, watts: float) -> None:
        """In pieces: the counter shows a new value only where a refresh falls into one."""
        for _ in range(round(seconds / 0.001)):
            before = self.now
            self.now += 0.001
            self.joules += 0.001 * watts
            if int(self.now / REFRESH + 1e-6) > int(before / REFRESH + 1e-6):
                self._shown = self.joules

    def sleep(self, seconds: float) -> None:
        self._pass(seconds, IDLE)

    def work(self, seconds: float) -> None:
        self._pass(seconds, BUSY)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        return int(self._shown * 1000)


def meter_of(gpus: GPUs) -> EnergyMeter:
    return EnergyMeter(gpus, range(gpus.count), clock=lambda: gpus.now, sleep=gpus.sleep)


@dataclass
class Work:
    """1 s of work per call."""

    gpus: GPUs
    tokens: int = 50
    calls: int = 0

    def __call__(self) -> int:
        self.gpus.work(1.03)  # ends between two refreshes
        self.calls += 1
        return self.tokens


def test_joules_are_the_sum_of_the_gpus():
    assert meter_of(GPUs(3)).joules() == 15000.0


def test_a_reading_waits_for_the_counter_to_move():
    gpus = GPUs()
    meter = meter_of(gpus)
    gpus.work(0.25)
    seconds, joules = meter.at_refresh()
    assert seconds == pytest.approx(0.3)
    assert joules == pytest.approx(5000 + 0.25 * BUSY + 0.05 * IDLE, abs=0.01)
    assert meter.at_refresh()[0] == pytest.approx(0.4)


def test_a_counter_that_never_moves_is_read_as_it_is():
    class Stuck(GPUs):
        def _pass(self, seconds: float, watts: float) -> None:
            self.now += seconds

    assert meter_of(Stuck()).at_refresh() == (pytest.approx(1.0, abs=0.01), 5000.0)


def test_idle_watts_are_exact_although_the_counter_moves_in_steps():
    gpus = GPUs()
    gpus.sleep(0.037)
    assert meter_of(gpus).idle_watts(1.234) == pytest.approx(IDLE, rel=1e-4)


def test_energy_per_token_gross_and_net():
    gpus = GPUs()
    work = Work(gpus)
    found = joules_per_token(work, meter_of(gpus), IDLE, minimum_seconds=30.0)
    assert 30 <= found["seconds"] <= 32
    assert found["runs"] == work.calls
    assert found["tokens"] == 50 * work.calls
    busy = 1.03 * work.calls
    assert found["net_joules_per_token"] == pytest.approx(busy * (BUSY - IDLE) / found["tokens"], rel=1e-3)
    assert found["gross_joules_per_token"] == pytest.approx(found["watts"] * found["seconds"] / found["tokens"])
    assert IDLE < found["watts"] < BUSY


def test_a_run_longer_than_the_minimum_runs_once():
    gpus = GPUs()
    assert joules_per_token(Work(gpus), meter_of(gpus), IDLE, minimum_seconds=0.5)["runs"] == 1


def test_a_run_without_tokens_has_no_energy_per_token():
    gpus = GPUs()
    with pytest.raises(ValueError, match="gave none"):
        joules_per_token(Work(gpus, tokens=0), meter_of(gpus), IDLE, minimum_seconds=2)


@pytest.mark.parametrize(
    ("visible", "handles"),
    [(None, [0, 1, 2, 3]), ("2", [2]), ("3, 1", [3, 1]), ("2,-1,1", [2]), ("GPU-ab-12", ["GPU-ab-12"])],
)
def test_the_gpus_that_cuda_sees(visible, handles):
    assert visible_gpus(GPUs(4), visible) == handles


@pytest.mark.parametrize("visible", ["", "-1"])
def test_no_visible_gpu_is_said(visible):
    with pytest.raises(ValueError, match="names no GPU"):
        visible_gpus(GPUs(4), visible)


@pytest.mark.skipif(torch.cuda.is_available() or os.path.exists("/dev/nvidia0"), reason="has a GPU")
def test_without_a_gpu_there_is_no_meter_and_a_reason():
    assert open_meter() is None
    assert unavailable_reason().startswith("no NVML: ")
