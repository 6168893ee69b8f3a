"""A `Row` holds what was measured of one way to decode, as the wishes and the report need it."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_mtad.config.options import METHOD
from vllm_mtad.tools.harness.intervals import Interval
from vllm_mtad.tools.harness.methods import DEFAULT, Method

TUNED = ("num_speculative_tokens", "beam_width", "acceptance_threshold")


@dataclass(frozen=True)
class Speed:
    """`tokens_per_second`: the median of the rounds. `ratio`, `low`, `high`: the median, smallest and largest of the
    rounds' ratios to the target alone, which decoded the same prompts with the same seeds.
    """

    tokens_per_second: float
    ratio: float
    low: float
    high: float

    @classmethod
    def of(cls, tokens_per_second: Sequence[float], base: Sequence[float]) -> Speed:
        ratios = [own / of_base for own, of_base in zip(tokens_per_second, base)]
        return cls(statistics.median(tokens_per_second), statistics.median(ratios), min(ratios), max(ratios))


@dataclass(frozen=True)
class Row:
    """`failure`: why the way could not be measured; all else is then empty.

    `speeds`: by requests in flight. `nats`: mean negative log-likelihood per token under the target at T = 1 without
    truncation; `nats_difference`: to the target alone on the same prompts, below 0 is likelier. `accuracy`: share of
    right answers, None without a checker. `repetition`: share of an answer's 4-grams that stood in it before.
    """

    method: Method
    failure: str | None = None
    mean_acceptance_length: float | None = None
    speeds: Mapping[int, Speed] = field(default_factory=dict)
    nats: float = float("nan")
    nats_difference: Interval = Interval(0.0, 0.0, 0.0)  # noqa: RUF009 (frozen)
    accuracy: float | None = None
    accuracy_difference: Interval | None = None
    repetition: float = 0.0

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.method.speculative or ())

    @property
    def is_mtad(self) -> bool:
        return self.method.family == METHOD

    @property
    def lossless(self) -> bool:
        """Whether the text has plain sampling's distribution by construction."""
        return not self.is_mtad or (self.method.sampling.temperature == 0 and self.config["greedy"] == "lossless")

    @property
    def label(self) -> str:
        return self.method.full_name


def speculative_config(method: Method, draft: str) -> dict[str, Any] | None:
    """The fields to give vLLM, without MTAD's defaults but for what was tuned; None for the target alone."""
    config = method.speculative_config(draft)
    if config is None:
        return None
    fields = {"method": config.pop("method"), "model": config.pop("model"), **config}
    return {
        name: value
        for name, value in fields.items()
        if name in TUNED or not hasattr(DEFAULT, name) or value != getattr(DEFAULT, name)
    }


def command_line(method: Method, draft: str) -> str | None:
    """`--speculative-config '...'` for a shell; None for the target alone."""
    config = speculative_config(method, draft)
    return None if config is None else f"--speculative-config {shlex.quote(json.dumps(config, ensure_ascii=False))}"
