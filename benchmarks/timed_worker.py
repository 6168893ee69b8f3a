"""A CPU worker that times its drafter and its rejection sampler."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from vllm_mtad.measure.corrected_worker import CorrectedCPUWorker


class TimedCPUWorker(CorrectedCPUWorker):
    """`collective_rpc("take_times")` gives and clears {(part, num_reqs): [seconds]}."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        self._times: dict[tuple[str, int], list[float]] = defaultdict(list)
        runner = self.model_runner
        self._time(runner, "execute_model", "target")
        if hasattr(runner, "drafter"):
            self._time(runner.drafter, "propose", "drafting")
            self._time(runner.rejection_sampler, "forward", "acceptance")

    def _time(self, owner: Any, name: str, part: str) -> None:
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self._times[part, self.model_runner.input_batch.num_reqs].append(time.perf_counter() - start)
            return result

        setattr(owner, name, timed)

    def take_times(self) -> dict[tuple[str, int], list[float]]:
        times, self._times = dict(self._times), defaultdict(list)
        return times
