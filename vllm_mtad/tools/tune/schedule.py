"""`recommend` says how many tokens to draft at which batch size, from speeds at a few.

Speculation pays while a step costs what reading the weights costs, and costs where it is bound by computing; so drafts
get shorter, or are left out, as the batch grows. The user's own prompts say where.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from vllm_mtad.config.candidate_schedule import Schedule

OFF = 0
"""A draft length: the target alone."""
MARGIN = 0.03
"""Another draft length is taken up only if it is faster by this share, or noise would decide."""


def recommend(ratios: Mapping[int, Mapping[int, float]], max_num_seqs: int) -> Schedule:
    """
    Args:
        ratios: by requests in flight, by draft length: speed, as a ratio to the target alone, which is `OFF`.
        max_num_seqs: where the schedule ends.
    Returns:
        Entries without a gap from 1 to `max_num_seqs`. A batch between two that were measured counts as the one whose
        size is nearer in ratio.
    """
    levels = sorted(ratios)
    lengths = list(_lengths([ratios[level] for level in levels]))
    ends = [math.isqrt(level * following) for level, following in pairwise(levels)]
    found: Schedule = []
    for length, end in zip(lengths, [*ends, max(max_num_seqs, levels[-1])]):
        first = found[-1][1] + 1 if found else 1
        if found and found[-1][2] == length:
            found[-1] = (found[-1][0], end, length)
        elif end >= first:
            found.append((first, end, length))
    return found


def slower_than_the_target(ratios: Mapping[int, float]) -> str | None:
    """A caution about what is recommended; `ratios`: its speed to the target alone, by requests in flight."""
    found = [f"{ratio:.2f}x at {n}" for n, ratio in ratios.items() if ratio < 1 - MARGIN]
    return f"Measured itself, it was slower than the target alone: {', '.join(found)} in flight." if found else None


def _lengths(ratios: Sequence[Mapping[int, float]]) -> Sequence[int]:
    """The draft length at each level, from small batches to large ones, beginning with none."""
    found, current = [], OFF
    for at_level in ratios:
        best = max(at_level, key=lambda length: (at_level[length], -length))
        if current not in at_level or at_level[best] > (1 + MARGIN) * at_level[current]:
            current = best
        found.append(current)
    return found
