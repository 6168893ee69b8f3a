"""Draft noise is a function of (seed, position of the root token, depth, beam, token).

The generator is counter-based: it has no state, so it never touches a request's own generator, no request's noise
depends on another's, and a request that is preempted and resumed at the same place sees the same noise.
The mixer is SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014) in wrapping int64 arithmetic.
"""

from __future__ import annotations

import torch

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15
_FIRST_MULTIPLIER = -4658895280553007687  # 0xBF58476D1CE4E5B9
_SECOND_MULTIPLIER = -7723592293110705685  # 0x94D049BB133111EB
_UNIFORM_BITS = 23
"""With 23 bits, (k + 0.5) / 2^23 is exact in float32 and lies strictly between 0 and 1."""


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift of int64."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shift_right(x, 30)).mul_(_FIRST_MULTIPLIER)
    x = (x ^ _shift_right(x, 27)).mul_(_SECOND_MULTIPLIER)
    return x ^ _shift_right(x, 31)


def root_keys(seeds: torch.Tensor, root_positions: torch.Tensor) -> torch.Tensor:
    """`[num_reqs]` int64 keys of one drafting round."""
    return _mix(_mix(seeds + _GOLDEN) + root_positions)


def draft_keys(roots: torch.Tensor, depth: int | torch.Tensor) -> torch.Tensor:
    """Int64 keys of a beam step: the part of the noise that all candidates of a request share.

    Args:
        roots: `[num_reqs]` with one depth, or `[num_reqs, 1]` with `[n]` depths for `[num_reqs, n]` keys.
    """
    return _mix(roots + depth)


def log_exponential(keys: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """Logarithms of standard exponential variates, float32, one per counter.

    `log w - log_exponential` is a Gumbel-perturbed log-weight: its B largest entries are a draw of B without
    replacement in proportion to w.

    Args:
        keys: `[num_reqs]` int64.
        counters: `[num_reqs, n]` int64, distinct within a row: beam * vocab_size + token.
    """
    bits = _shift_right(_mix(keys[:, None] + counters * _GOLDEN), 64 - _UNIFORM_BITS)
    uniform = (bits.float() + 0.5) * 2.0**-_UNIFORM_BITS
    return torch.log1p(uniform.neg_()).neg_().log_()
