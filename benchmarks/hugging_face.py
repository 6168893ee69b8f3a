"""`TargetLikelihood` says how likely the target finds a text, with Hugging Face in float32.

It is independent of the engine that wrote the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


class TargetLikelihood:
    """Scores texts under the target's own distribution, T = 1 without truncation, and remembers the scores."""

    def __init__(self, model: Any, batch_tokens: int = 4096) -> None:
        """`model`: a Hugging Face causal LM; `batch_tokens`: of one forward pass, padding included."""
        self.model, self.batch_tokens = model, batch_tokens
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}

    @classmethod
    def of(cls, target: Path | str) -> TargetLikelihood:
        """From a folder or hub id; on the GPU if there is one."""
        from vllm_mtad.algorithm.reference import hugging_face_model

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(hugging_face_model(str(target)).to(device))  # type: ignore[attr-defined]

    def negative_log_likelihoods(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
    ) -> list[float]:
        """For each answer given its prompt, in nats: the sum over the answer's tokens, end-of-sequence included."""
        asked = [(tuple(prompt), tuple(answer)) for prompt, answer in zip(prompts, answers)]
        new = sorted({pair for pair in asked if pair not in self._known and pair[1]}, key=lambda p: len(p[0] + p[1]))
        batch: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        for pair in new:
            if batch and (len(batch) + 1) * len(pair[0] + pair[1]) > self.batch_tokens:
                self._score(batch)
                batch = []
            batch.append(pair)
        if batch:
            self._score(batch)
        return [self._known.get(pair, 0.0) for pair in asked]

    @torch.inference_mode()
    def _score(self, batch: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
        """Score a batch, padded at the end, where a causal model does not look."""
        length = max(len(prompt + answer) for prompt, answer in batch)
        ids = torch.zeros(len(batch), length, dtype=torch.int64)
        for row, (prompt, answer) in enumerate(batch):
            ids[row, : len(prompt + answer)] = torch.tensor(prompt + answer)
        logits = self.model(input_ids=ids.to(getattr(self.model, "device", "cpu"))).logits
        for row, (prompt, answer) in enumerate(batch):
            rows = logits[row, len(prompt) - 1 : len(prompt) + len(answer) - 1].double().log_softmax(-1).cpu()
            self._known[prompt, answer] = -rows.gather(1, torch.tensor(answer)[:, None]).sum().item()
