"""This is a slow reference of MTAD on Hugging Face models, written from the specification alone.

It recomputes every prefix from nothing, keeps beams as Python tuples and shares no code with the engine's
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
    num_candidates: int = 1
    candidate_test: Literal["own", "reference"] = "own"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


@dataclass
class ReferenceOutput:
    tokens: list[int]
    accepted: list[int] = field(default_factory=list)
    """eta of each iteration that had a draft."""
    rows: list[int] = field(default_factory=list)
    """Rows that the target scored in each of these: the newest token's and one a node."""
    skipped_a_failure: int = 0
    """Iterations in which a longer prefix passed after a shorter one had failed."""
    other_won: int = 0
    """Iterations whose accepted tokens are not the chosen draft's."""
    smallest_margin: float = math.inf
    """How close any decision was to a tie, in nats; below 1e-5 an engine may rightly differ."""


@dataclass(frozen=True)
class _Beam:
    tokens: tuple[int, ...]
    log_q: tuple[float, ...]

    @property
    def weight(self) -> float:
        return sum(self.log_q)

    def first(self, depth: int) -> _Beam:
        return _Beam(self.tokens[:depth], self.log_q[:depth])


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
            depth = 0 if len(out.tokens) in extra_token_only_at else self.settings.num_speculative_tokens
            rows = depth * self.settings.num_candidates
            if max_model_len is not None:  # the engine schedules no draft token past the last position
                rows = max(0, min(rows, max_model_len - 1 - len(text)))
            if draft_max_model_len is not None:  # the draft model sees at most so many tokens
                depth = max(0, min(depth, draft_max_model_len - len(text) + 1))
            new = self._iterate(text, rows, depth, out)
            for token in new:
                out.tokens.append(token)
                if token == eos_token_id or len(out.tokens) == limit:
                    return out
        return out

    def _iterate(self, text: list[int], rows: int, depth: int, out: ReferenceOutput) -> list[int]:
        """New tokens: the accepted ones and one more. The target has room for `rows` nodes, of at most `depth`."""
        nodes: list[_Beam] = []
        chosen = _Beam((), ())
        if rows and depth:
            levels = self._draft(text, out)
            chosen = self._choose(text, levels[-1], out)
            nodes = [node for node in self._tree(levels, chosen)[:rows] if len(node.tokens) <= depth]
        logits = self._rows_of_paths(text, [node.tokens for node in nodes])
        p = {path: self._warp(row) for path, row in logits.items()}
        accepted = self._accept(nodes, chosen, p, out)
        if nodes:
            out.accepted.append(len(accepted))
            out.rows.append(1 + len(nodes))
            out.other_won += accepted != chosen.tokens[: len(accepted)]
        return [*accepted, self._extra(p[accepted], logits[accepted], out)]

    # -- step 1 and 2: draft jointly, choose one, and others beside it --------------------------------

    def _draft(self, text: list[int], out: ReferenceOutput) -> list[list[_Beam]]:
        """The live beams of every depth."""
        levels, beams = [], [_Beam((), ())]
        always = self._argmax_chain(text) if self._is_lossless_tree else ()
        for depth in range(1, self.settings.num_speculative_tokens + 1):
            rows = self._rows(self.draft, [[*text, *beam.tokens] for beam in beams])
            children = [
                _Beam((*beam.tokens, token), (*beam.log_q, value))
                for beam, logits in zip(beams, rows)
                for token, value in sorted(self._q(logits[-1]).items())
            ]
            beams = self._keep(children, always[:depth], out)
            levels.append(beams)
        return levels

    @property
    def _is_lossless_tree(self) -> bool:
        s = self.settings
        return s.temperature < GREEDY and s.greedy == "lossless" and s.num_candidates > 1

    def _argmax_chain(self, text: list[int]) -> tuple[int, ...]:
        chain: tuple[int, ...] = ()
        while len(chain) < self.settings.num_speculative_tokens:
            chain = (*chain, int(self._rows(self.draft, [[*text, *chain]])[0][-1].argmax()))
        return chain

    def _keep(self, children: list[_Beam], always: tuple[int, ...], out: ReferenceOutput) -> list[_Beam]:
        """The beams among `children`; the one whose tokens are `always`, if there is one, has a slot for sure."""
        width, mode = self.settings.beam_width, self.settings.draft_sampling
        if mode == "beam_search" or self.settings.temperature < GREEDY:
            sure = [child for child in children if child.tokens == always]
            rest = [child for child in children if child.tokens != always]
            self._note_margin([child.weight for child in rest], width - len(sure), out)
            return [*sure, *sorted(rest, key=lambda child: -child.weight)][:width]
        kept: list[_Beam] = []
        pool = list(children)
        for _ in range(width):
            if not pool:
                break
            top = max(child.weight for child in pool)
            at = self.rng.choices(range(len(pool)), [math.exp(child.weight - top) for child in pool])[0]
            kept.append(pool[at] if mode == "with_replacement" else pool.pop(at))
        return kept

    def _choose(self, text: list[int], beams: list[_Beam], out: ReferenceOutput) -> _Beam:
        if self._is_lossless_tree:
            return beams[0]  # the draft model's argmax chain
        self._note_margin([beam.weight for beam in beams], 1, out)
        return max(beams, key=lambda beam: beam.weight)

    def _tree(self, levels: list[list[_Beam]], chosen: _Beam) -> list[_Beam]:
        """The nodes that go to the target: the chosen draft's, then the others depth by depth."""
        others: list[_Beam] = []
        sent: set[tuple[int, ...]] = {()}
        for depth, beams in enumerate(levels, start=1):
            on_chain = chosen.first(depth)
            may_go = {beam.tokens: beam for beam in beams if beam.tokens[:-1] in sent}
            may_go.pop(on_chain.tokens)
            ranked = sorted(may_go.values(), key=lambda beam: -beam.weight)
            others += ranked[: self.settings.num_candidates - 1]
            sent = {on_chain.tokens, *(beam.tokens for beam in ranked[: self.settings.num_candidates - 1])}
        return [*(chosen.first(depth) for depth in range(1, len(levels) + 1)), *others]

    # -- step 4: joint acceptance; step 5: one more token ---------------------------------------------

    def _accept(
        self, nodes: list[_Beam], chosen: _Beam, p: dict[tuple[int, ...], dict[int, float]], out: ReferenceOutput
    ) -> tuple[int, ...]:
        """The tokens of the deepest node that passes; of several there, of the one that the target likes best."""
        threshold = self.settings.acceptance_threshold
        log_threshold = math.log(threshold) if threshold else -math.inf
        joint_p: dict[tuple[int, ...], float] = {(): 0.0}
        passed: dict[tuple[int, ...], bool] = {(): True}
        for node in nodes:
            parent = node.tokens[:-1]
            own_p = p[parent].get(node.tokens[-1], -math.inf)
            if parent not in joint_p or own_p == -math.inf:
                continue
            against = node if self.settings.candidate_test == "own" else chosen.first(len(node.tokens))
            if self.settings.acceptance == "per_token":
                if not passed[parent]:
                    continue
                ratio = own_p - against.log_q[-1]
            else:
                ratio = joint_p[parent] + own_p - against.weight
            joint_p[node.tokens] = joint_p[parent] + own_p
            passed[node.tokens] = ratio > log_threshold
            out.smallest_margin = min(out.smallest_margin, abs(ratio - log_threshold))
        deepest = max(len(path) for path in passed if passed[path])
        best = max(
            (path for path in passed if passed[path] and len(path) == deepest),
            key=lambda path: joint_p[path],  # of equal ones the first: the chosen draft's
        )
        self._note_margin([joint_p[path] for path in passed if passed[path] and len(path) == deepest], 1, out)
        out.skipped_a_failure += not all(passed[best[:depth]] for depth in range(deepest))
        return best

    def _extra(self, row: dict[int, float], logits: torch.Tensor, out: ReferenceOutput) -> int:
        if self.settings.temperature < GREEDY:
            self._note_margin(logits.tolist(), 1, out)
            return int(logits.argmax())
        return self.rng.choices(list(row), [math.exp(v) for v in row.values()])[0]

    # -- models and warping ---------------------------------------------------------------------------

    @torch.inference_mode()
    def _rows(self, model: CausalLM, texts: list[list[int]]) -> list[torch.Tensor]:
        """Logits `[len(text), vocab]` of each text; padded at the end, where a causal model does not look."""
        ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
        logits = model(input_ids=ids).logits
        return [logits[row, : len(text)].double() for row, text in enumerate(texts)]

    def _rows_of_paths(self, text: list[int], paths: list[tuple[int, ...]]) -> dict[tuple[int, ...], torch.Tensor]:
        """The target's logits after the text and each path, and after the text alone: a plain pass over each path."""
        longest: list[tuple[int, ...]] = []
        for path in sorted([(), *paths], key=len, reverse=True):
            if not any(other[: len(path)] == path for other in longest):
                longest.append(path)
        found: dict[tuple[int, ...], torch.Tensor] = {}
        for path, rows in zip(longest, self._rows(self.target, [[*text, *path] for path in longest])):
            found |= {path[:depth]: rows[len(text) - 1 + depth] for depth in range(len(path) + 1)}
        return found

    def _q(self, logits: torch.Tensor) -> dict[int, float]:
        """A lossless tree is drafted by beam search at T = 1; everything else is warped as the target is."""
        if self._is_lossless_tree:
            return dict(enumerate(logits.log_softmax(0).tolist()))
        return self._warp(logits)

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
