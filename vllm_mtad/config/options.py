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
        if problems := option_problems({f.name: getattr(self, f.name) for f in fields(self)}):
            raise ValueError(" ".join(problems.values()))

    @property
    def num_nodes(self) -> int:
        """Draft tokens of a request that the target verifies at most."""
        return self.num_speculative_tokens * self.num_candidates

    @classmethod
    def judged(cls, values: Mapping[str, Any]) -> tuple[MTADOptions, list[str]]:
        """The options among `values`, and the sentences that refuse some of them. What is missing, None or refused has
        its default."""
        defaults = {f.name: f.default for f in fields(cls)}
        given = {name: values[name] for name in defaults if values.get(name) is not None}
        problems = option_problems(defaults | given)
        unfit = problems
        while unfit:  # again: what is not refused may not fit to a default
            given = {name: value for name, value in given.items() if name not in unfit}
            unfit = option_problems(defaults | given)
        return cls(**given), list(problems.values())

    @property
    def log_threshold(self) -> float:
        return math.log(self.acceptance_threshold) if self.acceptance_threshold > 0 else -math.inf


def option_problems(values: Mapping[str, Any]) -> dict[str, str]:
    """Why values of `MTADOptions` are not accepted, a sentence by the field.

    Args:
        values: of all the fields.
    """
    instead = {name: _accepted_instead(name, value) for name, value in values.items()}
    beam_width, candidates, most_rows = (values[n] for n in ("beam_width", "num_candidates", "max_candidate_rows"))
    if not (instead["beam_width"] or instead["num_candidates"]) and candidates > beam_width:
        instead["num_candidates"] = f"candidates are beams, so give at most beam_width, {beam_width}"
    if not any(instead.values()) and candidates > 1 and most_rows is not None:
        gamma = values["num_speculative_tokens"]
        rows = gamma * candidates + 1
        if most_rows < rows:
            instead["max_candidate_rows"] = (
                f"a request with {candidates} candidates of {gamma} tokens has {rows} rows, so give at least as many"
            )
    return {
        name: f"speculative_config.{name}={values[name]!r} is not accepted by mtad: {other}."
        for name, other in instead.items()
        if other
    }


def _accepted_instead(name: str, value: Any) -> str | None:
    """What to give for a value that the field cannot have; None if it can."""
    if name in MODES:
        return None if value in MODES[name] else f"give {' or '.join(map(repr, MODES[name]))}"
    if name == "acceptance_threshold":
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return None if is_number and 0 <= value < 1 else "give a number in [0, 1)"
    if name == "max_candidate_rows" and value is None:
        return None
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return None if is_count else "give an integer >= 1"


OWN_FIELDS = tuple(f.name for f in fields(MTADOptions) if f.name != "num_speculative_tokens")
"""The fields that vLLM's own SpeculativeConfig does not have."""


def is_mtad(speculative_config: Any) -> bool:
    """Whether vLLM's speculative configuration (or None) asks for mtad."""
    return speculative_config is not None and speculative_config.method == METHOD
