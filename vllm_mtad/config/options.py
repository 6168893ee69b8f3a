"""`MTADOptions` holds MTAD's own options; a value that is not accepted raises a ValueError that says what is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

from vllm_mtad.algorithm.modes import AcceptanceMode, CandidateTest, DraftSampling, GreedyMode

MODES: dict[str, tuple[str, ...]] = {
    "draft_sampling": get_args(DraftSampling),
    "greedy": get_args(GreedyMode),
    "acceptance": get_args(AcceptanceMode),
    "candidate_test": get_args(CandidateTest),
}
METHOD = "mtad"


@dataclass(frozen=True)
class MTADOptions:
    num_speculative_tokens: int = 4
    beam_width: int = 4
    acceptance_threshold: float = 0.5
    draft_sampling: DraftSampling = "beam_sample"
    greedy: GreedyMode = "lossless"
    acceptance: AcceptanceMode = "joint"
    num_candidates: int = 1
    candidate_test: CandidateTest = "own"
    max_candidate_rows: int | None = None
    """The target's rows of a step up to which several candidates are verified; None leaves it to the device
    (`candidate_schedule.with_candidate_rows`).
    """

    def __post_init__(self) -> None:
        for name in ("num_speculative_tokens", "beam_width", "num_candidates", "max_candidate_rows"):
            value = getattr(self, name)
            if name == "max_candidate_rows" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"speculative_config.{name}={value!r} is not accepted by mtad: give an integer >= 1.")
        tau = self.acceptance_threshold
        if isinstance(tau, bool) or not isinstance(tau, (int, float)) or not 0 <= tau < 1:
            raise ValueError(
                f"speculative_config.acceptance_threshold={tau!r} is not accepted by mtad: give a number in [0, 1)."
            )
        for name, accepted in MODES.items():
            if (value := getattr(self, name)) not in accepted:
                choices = " or ".join(repr(mode) for mode in accepted)
                raise ValueError(f"speculative_config.{name}={value!r} is not accepted by mtad: give {choices}.")

        if self.num_candidates > self.beam_width:
            raise ValueError(
                f"speculative_config.num_candidates={self.num_candidates} is not accepted by mtad: candidates are"
                f" beams, so give at most beam_width, {self.beam_width}."
            )
        most_rows = self.max_candidate_rows
        if self.num_candidates > 1 and most_rows is not None and most_rows <= self.num_nodes:
            raise ValueError(
                f"speculative_config.max_candidate_rows={most_rows} is not accepted by mtad: a request"
                f" with {self.num_candidates} candidates of {self.num_speculative_tokens} tokens has"
                f" {self.num_nodes + 1} rows, so give at least as many."
            )

    @property
    def num_nodes(self) -> int:
        """Draft tokens of a request that the target verifies at most."""
        return self.num_speculative_tokens * self.num_candidates

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> MTADOptions:
        """The options among `values`; a missing or None value takes the default."""
        given = {f.name: values[f.name] for f in fields(cls) if values.get(f.name) is not None}
        return cls(**given)

    @property
    def log_threshold(self) -> float:
        return math.log(self.acceptance_threshold) if self.acceptance_threshold > 0 else -math.inf


OWN_FIELDS = tuple(f.name for f in fields(MTADOptions) if f.name != "num_speculative_tokens")
"""The fields that vLLM's own SpeculativeConfig does not have."""


def is_mtad(speculative_config: Any) -> bool:
    """Whether vLLM's speculative configuration (or None) asks for mtad."""
    return speculative_config is not None and speculative_config.method == METHOD
