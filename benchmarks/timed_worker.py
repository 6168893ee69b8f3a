"""This CPU worker times its models' forward passes, its drafter and its rejection sampler."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from vllm_mtad.tools.harness.corrected_worker import CorrectedCPUWorker


class TimedCPUWorker(CorrectedCPUWorker):
    """`collective_rpc("take_times")` gives and clears {(part, num_reqs): [seconds]}.

    Parts: `target` (all of execute_model) and within it `target forward`; `drafting` (all of propose) and within it
    `draft forward`, the sum of its passes; `acceptance`.
    """

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        self._times: dict[tuple[str, int], list[float]] = defaultdict(list)
        self._forward = 0.0
        runner = self.model_runner
        self._time(runner, "execute_model", "target")
        self._time_forward(runner.model)
        if hasattr(runner, "drafter"):
            self._time(runner.drafter, "propose", "drafting")
            self._time(runner.rejection_sampler, "forward", "acceptance")
            if hasattr(runner.drafter, "model"):
                self._time_forward(runner.drafter.model)

    def _time(self, owner: Any, name: str, part: str) -> None:
        function = getattr(owner, name)
        forward = {"target": "target forward", "drafting": "draft forward"}.get(part)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._forward = 0.0
            start = time.perf_counter()
            result = function(*args, **kwargs)
            seconds, in_flight = time.perf_counter() - start, self.model_runner.input_batch.num_reqs
            self._times[part, in_flight].append(seconds)
            if forward:
                self._times[forward, in_flight].append(self._forward)
            return result

        setattr(owner, name, timed)

    def _time_forward(self, model: Any) -> None:
        """Adds up the time in `model` within whatever is being timed; a CPU's forward pass ends when it returns."""

        def begin(*_: Any) -> None:
            self._start = time.perf_counter()

        def end(*_: Any) -> None:
            self._forward += time.perf_counter() - self._start

        model.register_forward_pre_hook(begin)
        model.register_forward_hook(end)

    def take_times(self) -> dict[tuple[str, int], list[float]]:
        times, self._times = dict(self._times), defaultdict(list)
        return times
