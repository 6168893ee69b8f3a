"""`whole_space` records the launches of every kernel over what the configuration accepts.

See `vllm_mtad.config.engine_checks`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from benchmarks.kernels_on_paper.pieces import (
    LIMITS,
    Drafting,
    Shape,
    Verification,
    on_an_h100,
    standing_in_for_flash_attention,
)
from benchmarks.kernels_on_paper.trees import Trees
from benchmarks.kernels_on_paper.variants import Variant, launches_become_variants
from vllm_mtad.config.engine_checks import widest_beams

WIDTHS = (1, 2, 4, 8, 16)
LENGTHS = (1, 2, 3, 4, 5, 8, 12, 16, 32)
"""Draft lengths: all powers of two, and some between them; others differ from these in masks alone."""
CANDIDATES = (2, 3, 4, 8, 16)
HEADS = {1: (8, 8), 4: (32, 8), 7: (28, 4), 8: (64, 8)}
"""Query and KV heads by their ratio, which alone decides a program's tile."""
META = torch.device("meta")
REQUESTS = 3
"""A number that Triton specialises nothing to."""
SELECTION, CHOICE = "_beam_selection_kernel", "_draft_choice_kernel"


class Recorder:
    """The distinct variants that calls of the engine's own code would launch, in order."""

    def __init__(self) -> None:
        self._variants: dict[Variant, None] = {}
        self._kept: Collection[str] | None = None

    @property
    def variants(self) -> list[Variant]:
        return list(self._variants)

    def _record(self, variant: Variant) -> None:
        if self._kept is None or variant.name in self._kept:
            self._variants.setdefault(variant)

    def beams(
        self,
        shape: Shape,
        depths: Iterable[int],
        limits: Iterable[dict[str, Any]] = tuple(LIMITS.values()),
        kept: Collection[str] | None = None,
        num_reqs: int = REQUESTS,
        **options: Any,
    ) -> None:
        """Beam steps of these depths under each of `limits`, and the choice. `kept`: names of kernels to record."""
        with self.recording(kept):
            drafting, depths = Drafting(shape, META, **options), tuple(depths)
            for values in limits:
                truncation = drafting.limit(**values)
                for depth in depths:
                    drafting.grow(lambda rows: _logits(shape, rows), depth, num_reqs, truncation)
            drafting.choose(num_reqs, shape.gamma * shape.num_candidates)

    def attention(self, shape: Shape, num_reqs: int = REQUESTS, *, flash: bool = False) -> None:
        """One layer's attention of a pass, and what a round plans for it."""
        with self.recording():
            drafting = Drafting(shape, META, flash=flash)
            drafting.attend(drafting.plan(num_reqs)(1), drafting.projections(num_reqs))

    def verification(self, shape: Shape, limits: dict[str, Any], num_reqs: int = REQUESTS, **options: Any) -> None:
        with self.recording():
            verification = Verification(shape, META, limits, **options)
            batch = verification.batch([shape.gamma * shape.num_candidates] * num_reqs)
            verification.verify(_logits(shape, len(batch.drafted)), batch)

    def trees(self, shape: Shape, num_reqs: int = REQUESTS) -> None:
        """What the target does for several candidates; prefixes are read by our kernel."""
        with self.recording():
            Trees(shape, META).verify([shape.gamma * shape.num_candidates] * num_reqs)

    def recording(self, kept: Collection[str] | None = None) -> ExitStack:
        """Within this context, launches are recorded: of all kernels, or of those that `kept` names."""
        self._kept = kept
        stack = ExitStack()
        stack.enter_context(launches_become_variants(self._record))
        stack.enter_context(on_an_h100())
        stack.enter_context(standing_in_for_flash_attention())
        return stack


def _logits(shape: Shape, rows: int) -> torch.Tensor:
    return torch.empty(rows, shape.vocab_size, dtype=shape.dtype, device=META)


@functools.cache
def whole_space() -> Sequence[Variant]:
    """All variants that differ in code: by a kernel's tiles, types, modes, and whether a step is the first."""
    recorder, small = Recorder(), Shape(max_num_reqs=8)
    for width in WIDTHS:
        longest = small.but(beam_width=width, gamma=LENGTHS[-1])
        for dtype in (torch.bfloat16, torch.float32):
            recorder.beams(longest.but(dtype=dtype), (0, longest.gamma - 1))
        recorder.beams(longest, (0, longest.gamma - 1), [{}], draft_sampling="beam_search", greedy="joint")
        for gamma in LENGTHS:
            recorder.beams(longest.but(gamma=gamma), {0, gamma - 1}, [{}], {SELECTION, CHOICE})
        for heads in HEADS.values():
            for head_size in (64, 128):
                _attention(
                    recorder, longest.but(gamma=4, num_heads=heads[0], num_kv_heads=heads[1], head_size=head_size)
                )
    for head_size in (80, 96):
        recorder.attention(small.but(head_size=head_size))
        recorder.attention(small.but(head_size=head_size, beam_width=16, num_heads=64))
    for heads in ((32, 8), (128, 8)):  # the widest of larger heads, and of more of them
        large = small.but(num_heads=heads[0], num_kv_heads=heads[1], head_size=256)
        recorder.attention(large.but(beam_width=widest_beams(*heads, 256, 2)))
    recorder.attention(small.but(num_heads=128, num_kv_heads=8, head_size=128, beam_width=widest_beams(128, 8, 128, 2)))
    for head_size in (16, 32):  # of which as many go together as of 64
        few = small.but(num_heads=64, num_kv_heads=4, head_size=head_size)
        recorder.attention(few.but(beam_width=widest_beams(64, 4, head_size, 2)))
        recorder.trees(few.but(beam_width=16, gamma=16, num_candidates=16))
    for page_size in (32, 48, 64, 128, 256):
        recorder.attention(small.but(page_size=page_size))
    for gamma in LENGTHS:  # of these the suffix kernel knows the strides alone
        recorder.attention(small.but(gamma=gamma))
    for window, soft_cap, has_sinks in itertools.product((None, 1024), (None, 50.0), (False, True)):
        for head_size in (64, 128, 256):
            other = small.but(head_size=head_size, window=window, soft_cap=soft_cap, has_sinks=has_sinks)
            recorder.attention(other)
            recorder.trees(other.but(num_candidates=4))
    _verifications(recorder, small)
    for gamma in LENGTHS:
        for candidates in CANDIDATES:
            _candidates(recorder, small.but(gamma=gamma, beam_width=16, num_candidates=candidates))
    for heads in HEADS.values():
        for head_size in (64, 128):
            many = small.but(num_heads=heads[0], num_kv_heads=heads[1], head_size=head_size, num_candidates=4)
            recorder.trees(many)
            recorder.trees(many.but(dtype=torch.float32))
    return recorder.variants


def _candidates(recorder: Recorder, shape: Shape) -> None:
    recorder.beams(shape, (), [], {SELECTION, CHOICE})
    recorder.beams(shape, {0, shape.gamma - 1}, [{}], {SELECTION})
    recorder.verification(shape, {})
    recorder.verification(shape, {}, candidate_test="reference")
    recorder.trees(shape)


def _attention(recorder: Recorder, shape: Shape) -> None:
    """With both readers of prefixes. FlashAttention has no float32, whose tiles are larger, and slow to compile."""
    recorder.attention(shape)
    recorder.attention(shape, flash=True)
    group = shape.num_heads // shape.num_kv_heads
    if group in (1, 8) and shape.beam_width <= _widest_float32_beams(shape):
        recorder.attention(shape.but(dtype=torch.float32))


def _widest_float32_beams(shape: Shape) -> int:
    return widest_beams(shape.num_heads, shape.num_kv_heads, shape.head_size, torch.float32.itemsize)


def _verifications(recorder: Recorder, shape: Shape) -> None:
    for gamma in LENGTHS:
        recorder.verification(shape.but(gamma=gamma), {})
    for limits in ({}, {"top_p": 0.9}):
        recorder.verification(shape, limits, acceptance="per_token", greedy="joint")
        recorder.verification(shape.but(dtype=torch.float32), limits, use_fp64=True)


def corners() -> list[Variant]:
    """The variants of the whole space that need least and most of a program."""
    recorder, small = Recorder(), Shape(max_num_reqs=8)
    least = small.but(beam_width=1, gamma=1, num_heads=8)
    most = small.but(beam_width=WIDTHS[-1], gamma=LENGTHS[-1], num_heads=64, head_size=128)
    recorder.beams(least, (0,), [{}])
    recorder.beams(most.but(vocab_size=151_936), (LENGTHS[-1] - 1,))
    for shape in (least, most, most.but(dtype=torch.float32, beam_width=_widest_float32_beams(most))):
        recorder.attention(shape)
    recorder.attention(most.but(num_heads=32, head_size=256, beam_width=widest_beams(32, 8, 256, 2)))
    for shape in (
        most.but(head_size=64),
        most.but(num_heads=32, head_size=256, beam_width=widest_beams(32, 8, 256, 2)),
    ):
        recorder.attention(shape.but(window=1024, soft_cap=50.0, has_sinks=True))
    recorder.attention(most.but(window=1024))
    recorder.verification(least, {})
    recorder.verification(most.but(dtype=torch.float32), {}, use_fp64=True, acceptance="per_token")
    for shape in (least.but(beam_width=2, num_candidates=2), most.but(num_candidates=16)):
        recorder.verification(shape, {}, candidate_test="reference")
        recorder.trees(shape)
    recorder.trees(most.but(num_candidates=4, dtype=torch.float32))
    recorder.trees(most.but(num_candidates=16, window=1024, soft_cap=50.0, has_sinks=True))
    return recorder.variants
