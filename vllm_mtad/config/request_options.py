"""`RequestOptions` are what a single request asks of mtad.

A request brings them in `SamplingParams.extra_args`, or as the server's `vllm_xargs`. Requests that ask for different
things share a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_mtad.algorithm.modes import GreedyMode
from vllm_mtad.config.options import METHOD, MODES, MTADOptions

THRESHOLD = f"{METHOD}_acceptance_threshold"
GREEDY = f"{METHOD}_greedy"
NAMES = (METHOD, THRESHOLD, GREEDY)
_BOOLEANS = {"true": True, "false": False}


class RequestOptionError(ValueError):
    """One sentence about an option of a request; `name` and `value` are the option's."""

    def __init__(self, name: str, value: Any, accepted: str) -> None:
        super().__init__(f"extra_args[{name!r}]={value!r} is not accepted by mtad: {accepted}.")
        self.name, self.value = name, value


@dataclass(frozen=True)
class RequestOptions:
    """`uses_drafts`: False decodes the request as the target alone would. `acceptance_threshold`, `greedy`: instead of
    the engine's; None for that.
    """

    uses_drafts: bool = True
    acceptance_threshold: float | None = None
    greedy: GreedyMode | None = None

    @classmethod
    def of(cls, extra_args: Mapping[str, Any] | None) -> RequestOptions:
        """
        Raises:
            RequestOptionError: for a name that begins with `mtad` and is none of `NAMES`, or a value that is not
                accepted.
        """
        own = {name: value for name, value in (extra_args or {}).items() if name.startswith(METHOD)}
        for name, value in own.items():
            if name not in NAMES:
                raise RequestOptionError(name, value, f"give some of {', '.join(NAMES)}")
        return cls(_as_bool(own.get(METHOD, True)), _as_threshold(own.get(THRESHOLD)), _as_greedy(own.get(GREEDY)))

    def log_threshold(self, options: MTADOptions) -> float:
        """Log tau, where `options` are the engine's; without drafts +inf, which no joint ratio exceeds."""
        if not self.uses_drafts:
            return math.inf
        tau = self.acceptance_threshold
        if tau is None:
            return options.log_threshold
        return math.log(tau) if tau > 0 else -math.inf

    def is_joint_greedy(self, options: MTADOptions) -> bool:
        """Whether the request, at temperature 0, is decoded jointly; never without drafts."""
        return self.uses_drafts and (self.greedy or options.greedy) == "joint"


def _as_bool(value: Any) -> bool:
    """The server's `vllm_xargs` turn false into 0."""
    if isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    raise RequestOptionError(METHOD, value, "give true or false")


def _as_threshold(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise RequestOptionError(THRESHOLD, value, "give a number in [0, 1)")
    return float(value)


def _as_greedy(value: Any) -> GreedyMode | None:
    if value is None or value in MODES["greedy"]:
        return value
    raise RequestOptionError(GREEDY, value, f"give {' or '.join(map(repr, MODES['greedy']))}")
