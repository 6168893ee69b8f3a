"""These functions bootstrap intervals over prompts: of a figure, and of a paired difference.

The method is in Efron & Tibshirani, 1993, chapter 13.

A figure here is a ratio of sums over prompts: right answers by answers, nats by tokens. Prompts are what is drawn
again, with all that belongs to them, so several seeds of one prompt do not count as independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Ratio:
    """A figure's `[num_prompts]` numerators and denominators."""

    numerators: NDArray[np.float64]
    denominators: NDArray[np.float64]

    @classmethod
    def of(cls, numerators: ArrayLike, denominators: ArrayLike) -> Ratio:
        return cls(np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float))

    def value(self) -> float:
        return float(self.numerators.sum() / self.denominators.sum())

    def resampled(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """`[resamples]` values; `weights`: `[resamples, num_prompts]`, how often each prompt was drawn."""
        return (weights @ self.numerators) / (weights @ self.denominators)


def _draws(num_prompts: int, seed: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), size=RESAMPLES).astype(float)


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def interval(figure: Ratio, seed: int = 0) -> Interval:
    return _interval(figure.value(), figure.resampled(_draws(len(figure.numerators), seed)))


def paired_difference(figure: Ratio, base: Ratio, seed: int = 0) -> Interval:
    """`figure` - `base` on the same prompts in the same order."""
    if len(figure.numerators) != len(base.numerators):
        raise ValueError(f"{len(figure.numerators)} prompts cannot be paired with {len(base.numerators)}.")
    weights = _draws(len(base.numerators), seed)
    return _interval(figure.value() - base.value(), figure.resampled(weights) - base.resampled(weights))
