"""`VerificationLog` logs now and then what several candidates give. vLLM's own counters count their rows."""

from __future__ import annotations

import time

import torch
from vllm import envs
from vllm.distributed.parallel_state import is_global_first_rank
from vllm.logger import init_logger

logger = init_logger("vllm.mtad")


class VerificationLog:
    """Logs every `VLLM_LOG_STATS_INTERVAL` seconds, if something was verified. The device is not waited for.

    Args:
        tally: that of `DraftTrees`.
    """

    def __init__(self, tally: torch.Tensor) -> None:
        self._tally = tally
        self._logged = torch.zeros(tally.shape[1], dtype=torch.int64)
        self._on_its_way: tuple[torch.Tensor, torch.cuda.Event | None] | None = None
        self._next = time.monotonic() + envs.VLLM_LOG_STATS_INTERVAL

    def step(self) -> None:
        """To be called after each verification."""
        if self._on_its_way is not None:
            figures, event = self._on_its_way
            if event is None or event.query():
                self._on_its_way = None
                self._log(figures)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + envs.VLLM_LOG_STATS_INTERVAL
            self._on_its_way = self._fetch()

    def _fetch(self) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        total = self._tally.sum(0)
        if total.device.type == "cpu":
            return total, None
        figures, event = torch.empty(total.shape, dtype=total.dtype, pin_memory=True), torch.cuda.Event()
        figures.copy_(total, non_blocking=True)
        event.record()
        return figures, event

    def _log(self, figures: torch.Tensor) -> None:
        calls, kept, others = (figures - self._logged).tolist()
        self._logged = figures.clone()
        if calls and is_global_first_rank():
            logger.info(
                "MTAD: mean acceptance length %.2f, tokens after a stop counted, in %d calls with a draft; %.0f %% of"
                " them kept another candidate than the chosen one.",
                1 + kept / calls,
                calls,
                100 * others / calls,
            )
