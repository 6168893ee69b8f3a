"""`StepEvents` records what a model runner does in each step, and when, on the device's clock."""

from __future__ import annotations

from typing import Any


class StepEvents:
    """Watches a runner's `execute_model`, its rejection sampler, its speculator's `propose` and how that one runs the
    first pass.

    A step: `requests`, those that decode if all do and else 0; `start`, an event; `acceptance` and `drafting`, the
    events before and after; `first_pass`, with `mode` FULL (one graph), PIECEWISE (graphs between attention) or NONE
    (eager), its `tokens`, and whether the batch `has_prefill`.
    """

    def __init__(self, runner: Any, gamma: int, timed: bool) -> None:
        self._decode_tokens, self._timed = gamma + 1, timed
        self.runs_pieces = True
        """False: first passes that would run in pieces run eagerly."""
        self.steps: list[dict[str, Any]] = []
        speculator = runner.speculator
        runner.execute_model = self._mark_step(runner.execute_model)
        runner.rejection_sampler = _Callable(self._mark(runner.rejection_sampler, "acceptance"))
        speculator.propose = self._mark(speculator.propose, "drafting")
        speculator.first_pass.descriptor = self._note_first_pass(speculator.first_pass.descriptor)

    def _event(self) -> Any:
        if not self._timed:
            return None
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _mark_step(self, execute_model: Any) -> Any:
        def marked(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            tokens = list(scheduler_output.num_scheduled_tokens.values())
            is_decode = bool(tokens) and all(n == self._decode_tokens for n in tokens)
            self.steps.append({"requests": len(tokens) if is_decode else 0, "start": self._event()})
            return execute_model(scheduler_output, *args, **kwargs)

        return marked

    def _mark(self, function: Any, name: str) -> Any:
        def marked(*args: Any, **kwargs: Any) -> Any:
            before = self._event()
            result = function(*args, **kwargs)
            if self.steps:
                self.steps[-1][name] = (before, self._event())
            return result

        return marked

    def _note_first_pass(self, find: Any) -> Any:
        def noted(input_batch: Any, num_tokens: int) -> Any:
            descriptor = find(input_batch, num_tokens)
            if descriptor.cg_mode.name == "PIECEWISE" and not self.runs_pieces:
                descriptor = type(descriptor)(type(descriptor.cg_mode).NONE, num_tokens, input_batch.num_reqs)
            if self.steps:
                self.steps[-1]["first_pass"] = {
                    "mode": descriptor.cg_mode.name,
                    "tokens": num_tokens,
                    "has_prefill": bool(input_batch.has_prefill),
                }
            return descriptor

        return noted

    def take(self) -> list[dict[str, Any]]:
        """Give the steps so far, and forget them."""
        steps, self.steps = self.steps, []
        return steps


class _Callable:
    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)
