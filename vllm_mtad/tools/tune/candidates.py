"""These functions say what the tuner tries, and in which order.

vLLM's draft_model is measured at every γ, so that MTAD is compared with the best of it. MTAD is searched in two
stages: first every (γ, B) at one middle τ; then, for each wish and each number of requests in flight, the other τ at
the (γ, B) that served best so far. With the default grid these are 1 + 3 engines for the baselines, 6 for the first
stage, 3 for each (γ, B) of the second and about 3 that are timed again at the end. A (γ, B) that would serve only at
another τ is missed: `--full-grid` tries all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from vllm_mtad.config.options import MTADOptions
from vllm_mtad.tools.harness.methods import DEFAULT, Method, Sampling, draft_model, mtad, target_alone
from vllm_mtad.tools.tune.rows import Row
from vllm_mtad.tools.tune.wishes import Wish, best_mtad


@dataclass(frozen=True)
class Grid:
    num_speculative_tokens: tuple[int, ...] = (2, 4, 6)
    beam_widths: tuple[int, ...] = (1, 4)
    thresholds: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7)

    @property
    def middle_threshold(self) -> float:
        """The τ of the first stage: the default if it is there."""
        if DEFAULT.acceptance_threshold in self.thresholds:
            return DEFAULT.acceptance_threshold
        return sorted(self.thresholds)[len(self.thresholds) // 2]


def baselines(grid: Grid, sampling: Sampling) -> list[Method]:
    """The target alone, then vLLM's draft_model at every γ."""
    return [target_alone(sampling), *(draft_model(gamma, sampling) for gamma in grid.num_speculative_tokens)]


def first_stage(grid: Grid, sampling: Sampling, full_grid: bool = False) -> list[Method]:
    """MTAD at every (γ, B) and the middle τ, or at every τ."""
    thresholds = grid.thresholds if full_grid else (grid.middle_threshold,)
    return [
        mtad(MTADOptions(gamma, beam_width, tau), sampling)
        for gamma, beam_width, tau in product(grid.num_speculative_tokens, grid.beam_widths, thresholds)
    ]


def second_stage(
    grid: Grid, sampling: Sampling, rows: Sequence[Row], wishes: Sequence[Wish], concurrency: Sequence[int]
) -> list[Method]:
    """The other τ at the (γ, B) among the first stage's `rows` that serve the wishes best; none if MTAD never ran."""
    best = (best_mtad(rows, wish, in_flight) for wish in wishes for in_flight in concurrency)
    pairs = dict.fromkeys(
        (row.config["num_speculative_tokens"], row.config["beam_width"]) for row in best if row is not None
    )
    others = [tau for tau in grid.thresholds if tau != grid.middle_threshold]
    return [mtad(MTADOptions(gamma, beam_width, tau), sampling) for (gamma, beam_width), tau in product(pairs, others)]
