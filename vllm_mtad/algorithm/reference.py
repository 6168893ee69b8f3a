"""A slow reference of MTAD on Hugging Face models, written from the specification alone.

It recomputes every prefix from nothing, keeps beams as Python lists and shares no code with the engine's
path, so that the two can be held against each other. Sampling here uses a plain generator: with
`draft_sampling="beam_search"` or greedy decoding it is deterministic.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, Protocol

import torch

GREEDY = 1e-5


class CausalLM(Protocol):
    def __call__(self, input_ids: torch.Tensor) -> Any: ...


@dataclass(frozen=True)
class ReferenceSettings:
    num_speculative_tokens: int = 4
    beam_width: int = 4
    acceptance_threshold: float = 0.5
    draft_sampling: Literal["beam_sample", "beam_search", "with_replacement"] = "beam_sample"
    """with_replacement: what the authors' published runs do."""
    greedy: Literal["lossless", "joint"] = "lossless"
    acceptance: Literal["joint", "per_token"] = "joint"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


@dataclass
class ReferenceOutput:
    tokens: list[int]
    accepted: list[int] = field(default_factory=list)
    """eta of each iteration that had a draft."""
    skipped_a_failure: int = 0
    """Iterations in which a longer prefix passed after a shorter one had failed."""
    smallest_margin: float = math.inf
    """How close any decision was to a tie, in nats; below 1e-5 an engine may rightly differ."""


@dataclass
class _Beam:
    tokens: list[int]
    log_q: list[float]

    @property
    def weight(self) -> float:
        return sum(self.log_q)


class ReferenceDecoder:
    """`generate` decodes one prompt; `extra_token_only_at` names output lengths at which no draft is made."""

    def __init__(self, target: CausalLM, draft: CausalLM, settings: ReferenceSettings, seed: int = 0) -> None:
        self.target, self.draft, self.settings = target, draft, settings
        self.rng = random.Random(seed)

    def generate(
        self,
        prompt: list[int],
        max_tokens: int,
        eos_token_id: int | None = None,
        max_model_len: int | None = None,
        draft_max_model_len: int | None = None,
        extra_token_only_at: frozenset[int] = frozenset({0}),
    ) -> ReferenceOutput:
        """The first token comes from the prefill and has no draft, as in an engine (length 0 is in the set)."""
        out = ReferenceOutput([])
        limit = max_tokens if max_model_len is None else min(max_tokens, max_model_len - len(prompt))
        while len(out.tokens) < limit:
            text = [*prompt, *out.tokens]
            length = 0 if len(out.tokens) in extra_token_only_at else self.settings.num_speculative_tokens
            if max_model_len is not None:  # the engine schedules no draft token past the last position
                length = max(0, min(length, max_model_len - 1 - len(text)))
            if draft_max_model_len is not None:  # the draft model sees at most so many tokens
                length = max(0, min(length, draft_max_model_len - len(text) + 1))
            new = self._iterate(text, length, out)
            for token in new:
                out.tokens.append(token)
                if token == eos_token_id or len(out.tokens) == limit:
                    return out
        return out

    def _iterate(self, text: list[int], length: int, out: ReferenceOutput) -> list[int]:
        drafted, log_q = self._draft(text, out) if length else ([], [])
        drafted, log_q = drafted[:length], log_q[:length]
        rows = self._rows(self.target, text + drafted)[len(text) - 1 :]
        p_rows = [self._warp(row) for row in rows]
        log_p = [p_rows[i].get(token, -math.inf) for i, token in enumerate(drafted)]
        accepted = self._accept(log_p, log_q, out)
        if drafted:
            out.accepted.append(accepted)
        return [*drafted[:accepted], self._extra(p_rows[accepted], rows[accepted], out)]

    # -- step 1 and 2: draft jointly, choose one ------------------------------------------------------

    def _draft(self, text: list[int], out: ReferenceOutput) -> tuple[list[int], list[float]]:
        beams = [_Beam([], [])]
        for _ in range(self.settings.num_speculative_tokens):
            children = [
                _Beam([*beam.tokens, token], [*beam.log_q, value])
                for beam in beams
                for token, value in sorted(self._warp(self._rows(self.draft, text + beam.tokens)[-1]).items())
            ]
            beams = self._keep(children, out)
        best = max(beams, key=lambda beam: beam.weight)
        self._note_margin([beam.weight for beam in beams], 1, out)
        return best.tokens, best.log_q

    def _keep(self, children: list[_Beam], out: ReferenceOutput) -> list[_Beam]:
        width, mode = self.settings.beam_width, self.settings.draft_sampling
        if mode == "beam_search" or self.settings.temperature < GREEDY:
            self._note_margin([child.weight for child in children], width, out)
            return sorted(children, key=lambda child: -child.weight)[:width]
        kept: list[_Beam] = []
        pool = list(children)
        for _ in range(width):
            if not pool:
                break
            top = max(child.weight for child in pool)
            at = self.rng.choices(range(len(pool)), [math.exp(child.weight - top) for child in pool])[0]
            kept.append(pool[at] if mode == "with_replacement" else pool.pop(at))
        return kept

    # -- step 4: joint acceptance; step 5: one more token ---------------------------------------------

    def _accept(self, log_p: list[float], log_q: list[float], out: ReferenceOutput) -> int:
        threshold = self.settings.acceptance_threshold
        log_threshold = math.log(threshold) if threshold else -math.inf
        accepted, ratio, failed = 0, 0.0, False
        for i, (p, q) in enumerate(zip(log_p, log_q), start=1):
            if p == -math.inf:
                break
            ratio = p - q if self.settings.acceptance == "per_token" else ratio + p - q
            out.smallest_margin = min(out.smallest_margin, abs(ratio - log_threshold))
            if ratio > log_threshold:
                out.skipped_a_failure += failed
                accepted, failed = i, False
            elif self.settings.acceptance == "per_token":
                break
            else:
                failed = True
        return accepted

    def _extra(self, row: dict[int, float], logits: torch.Tensor, out: ReferenceOutput) -> int:
        if self.settings.temperature < GREEDY:
            self._note_margin(logits.tolist(), 1, out)
            return int(logits.argmax())
        return self.rng.choices(list(row), [math.exp(v) for v in row.values()])[0]

    # -- models and warping ---------------------------------------------------------------------------

    @torch.inference_mode()
    def _rows(self, model: CausalLM, text: list[int]) -> torch.Tensor:
        return model(input_ids=torch.tensor([text])).logits[0].double()

    def _warp(self, logits: torch.Tensor) -> dict[int, float]:
        """Token id -> log-probability of the tokens that have mass."""
        s = self.settings
        if s.temperature < GREEDY:
            if s.greedy == "lossless":
                return {int(logits.argmax()): 0.0}
            return dict(enumerate(logits.log_softmax(0).tolist()))
        mass = dict(enumerate((logits / s.temperature).softmax(0).tolist()))
        largest = max(mass.values())
        mass = {t: m for t, m in mass.items() if m >= s.min_p * largest and m > 0}
        ranked = sorted(mass, key=lambda t: -mass[t])
        ranked = ranked[: s.top_k] if s.top_k else ranked
        total, reached = sum(mass[t] for t in ranked), 0.0
        kept: list[int] = []
        for token in ranked:
            if kept and reached >= s.top_p * total:
                break
            kept.append(token)
            reached += mass[token]
        return {t: math.log(mass[t] / reached) for t in kept}

    @staticmethod
    def _note_margin(values: list[float], count: int, out: ReferenceOutput) -> None:
        ranked = sorted(values, reverse=True)
        if len(ranked) > count:
            for higher, lower in pairwise(ranked[: count + 1]):
                out.smallest_margin = min(out.smallest_margin, higher - lower)


def hugging_face_model(path: str) -> Callable:
    """A float32 causal LM from a folder or a hub id."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
