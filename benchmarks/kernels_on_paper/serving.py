"""`serving_variants` finds the variants of each kernel that a serving process needs, whatever its batches' sizes."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence

import torch

from benchmarks.kernels_on_paper.accepted_space import META, Recorder
from benchmarks.kernels_on_paper.pieces import LIMITS, Drafting, Shape, Verification
from benchmarks.kernels_on_paper.trees import Trees
from benchmarks.kernels_on_paper.variants import Variant

FIRST = 2
"""Requests of the batches that are served first."""
SIZES = (1, 3, 4, 7, 8, 16, 17, 31, 32, 33, 63, 64, 65, 85, 86, 127, 128, 129, 255, 256, 257)
MANY = (418, 419, 420, 512, 700, 777, 1001, 1023, 1024)
"""From 419 on, at gamma = 4 and 128,256 tokens, vLLM verifies in chunks."""


class Server:
    """Serves batches of one shape: each with every kind of limits, reader of prefixes and share of drafts."""

    def __init__(self, shape: Shape) -> None:
        self.shape, self._recorder = shape, Recorder()
        self._drafting = [Drafting(shape, META, flash=flash) for flash in (False, True)]
        self._truncations = {self._drafting[0].limit(**values) for values in LIMITS.values()}
        self._verifications = [Verification(shape, META, values) for values in LIMITS.values()]
        self._trees = Trees(shape.but(num_candidates=min(2, shape.beam_width)), META)

    @property
    def variants(self) -> list[Variant]:
        """Those of all batches so far, in the order in which they were needed."""
        return self._recorder.variants

    def serve(self, num_reqs: int, depths: Iterable[int]) -> None:
        gamma = self.shape.gamma
        with self._recorder.recording():
            for drafting in self._drafting:
                drafting.attend(drafting.plan(num_reqs)(1), drafting.projections(num_reqs))
            for truncation in self._truncations:
                for depth in depths:
                    self._drafting[0].grow(self._logits, depth, num_reqs, truncation)
            self._drafting[0].choose(num_reqs, gamma)
            nodes = self._trees.num_nodes
            self._trees.verify([nodes] * num_reqs)
            self._trees.verify([nodes, *(1 + i * 7 % nodes for i in range(1, num_reqs))], num_reqs + 1)
            self._trees.verify([nodes] * (num_reqs - 1) + [0])
            for verification in self._verifications:
                for drafts in ([gamma] * num_reqs, [i * 7 % (gamma + 1) for i in range(num_reqs)]):
                    batch = verification.batch(drafts)
                    verification.verify(self._logits(len(batch.drafted)), batch)

    def _logits(self, rows: int) -> torch.Tensor:
        return torch.empty(rows, self.shape.vocab_size, dtype=self.shape.dtype, device=META)


def variants_by_size(shape: Shape, sizes: Iterable[int], depths: Iterable[int]) -> list[tuple[int, Variant]]:
    """Each variant, and the size of the first batch that needed it; `FIRST` is served first."""
    server, found, depths = Server(shape), list[tuple[int, Variant]](), tuple(depths)
    for num_reqs in (FIRST, *sizes):
        server.serve(num_reqs, depths)
        found += [(num_reqs, variant) for variant in server.variants[len(found) :]]
    return found


@functools.cache
def serving_variants() -> Mapping[int, Sequence[Variant]]:
    """All that a process needs at B = 4, by gamma: one that is usual, and the longest."""
    shapes = {gamma: Shape(gamma=gamma, max_num_reqs=max(SIZES)) for gamma in (4, 32)}
    return {g: [v for _, v in variants_by_size(shape, SIZES, range(g))] for g, shape in shapes.items()}
