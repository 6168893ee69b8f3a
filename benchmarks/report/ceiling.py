"""This module says what the models' own forward passes allow, and how much of it is reached.

It reads the rows of `steps`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.report.results import BASE, Results
from benchmarks.report.tables import table


@dataclass(frozen=True)
class Step:
    """A step of one method with one request in flight; times in ms per target call.

    `efficiency`: tokens per target call, over all answers of the quality part where there are any (thousands of calls),
    else over the timed ones.
    """

    method: str
    efficiency: float
    whole: float
    target_forward: float
    draft_forward: float
    parts: dict[str, float]

    @property
    def reached(self) -> float:
        """Tokens per ms."""
        return self.efficiency / self.whole

    @property
    def ceiling(self) -> float:
        """Tokens per ms if all but the forward passes cost nothing."""
        return self.efficiency / (self.target_forward + self.draft_forward)


def steps_of(results: Results, prompt_set: str) -> dict[str, Step]:
    """The steps of a prompt set, by method. A step's cost hangs on the shapes and not on the text: a set without timed
    steps takes those of another, with its own tokens per call.
    """
    answers, found = results.answers.get(prompt_set, {}), {}
    rows = results.store.rows("steps")
    own = [row for row in rows if row["prompt_set"] == prompt_set]
    for row in own or rows:
        parts, name = row["parts_ms"], row["method"]
        over_all = answers[name].mean_acceptance_length if name in answers else None
        if not own and name not in answers:
            continue
        efficiency = over_all.value if over_all else row["mean_acceptance_length"]
        found[name] = Step(
            name, efficiency, row["step_ms"], parts["target forward"], parts.get("draft forward", 0.0), parts
        )
    return found


def step_table(steps: dict[str, Step]) -> str:
    """Where a step's time goes."""
    header = ["method", "acceptance length", "whole step, ms", "target's pass", "draft's passes", "rest of drafting"]
    header += ["acceptance", "everything else", "tok/s", "at the ceiling", "reached"]
    rows = []
    for name, step in steps.items():
        drafting = step.parts.get("drafting", 0.0)
        acceptance = step.parts.get("acceptance", 0.0)
        other = step.whole - step.target_forward - drafting - acceptance
        rows.append(
            [
                name,
                f"{step.efficiency:.2f}",
                f"{step.whole:.1f}",
                f"{step.target_forward:.1f}",
                f"{step.draft_forward:.1f}",
                f"{drafting - step.draft_forward:.1f}",
                f"{acceptance:.1f}",
                f"{other:.1f}",
                f"{1e3 * step.reached:.1f}",
                f"{1e3 * step.ceiling:.1f}",
                f"{step.reached / step.ceiling:.0%}",
            ]
        )
    return table(header, rows)


def best(steps: dict[str, Step], family: str) -> Step | None:
    """The fastest draft length of a family, by what was reached."""
    own = [step for name, step in steps.items() if name.split(" ")[0] == family]
    return max(own, key=lambda step: step.reached, default=None)


def verdict(steps: dict[str, Step]) -> dict[str, Any] | None:
    """MTAD against vanilla speculative decoding, each at its best draft length: the ratio that the ceilings allow, the
    one that was reached, and the share.
    """
    mtad, vanilla = best(steps, "MTAD"), best(steps, "draft_model")
    if mtad is None or vanilla is None:
        return None
    allowed, reached = mtad.ceiling / vanilla.ceiling, mtad.reached / vanilla.reached
    base = steps.get(BASE)
    return {
        "mtad": mtad.method,
        "vanilla": vanilla.method,
        "allowed": allowed,
        "reached": reached,
        "share": reached / allowed,
        "over_target": mtad.reached / base.reached if base else None,
    }
