"""A `Plan` says what a run measures: there are presets, and a plan for a user's own models and prompts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

SWEEPS = (
    "methods",
    "sharper",
    "ablation",
    "threshold",
    "beam_width",
    "draft_length",
    "drafting",
    "temperature",
    "bold",
)
OPEN_ENDED = ("main", "ablation", "bold")
"""Groups of the open-ended set: without the sweeps."""


@dataclass(frozen=True)
class Models:
    """`target` and `draft`: folders or hub ids; both None for the bundled pair of the prompt set."""

    target: str | None = None
    draft: str | None = None


@dataclass(frozen=True)
class Quality:
    """Answers of every method to the same prompts, with the same seeds."""

    prompt_set: str
    num_prompts: int
    groups: tuple[str, ...]
    seeds: int = 1
    more_seeds: int = 0
    """Further seeds of the group `main`."""
    source: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    """More options of `load_prompt_set`."""
    chat: bool = False
    """Prompts go through the target's chat template."""
    num_reference: int = 0
    """Prompts that the slow reference decodes too."""


@dataclass(frozen=True)
class Speed:
    """Timed rounds in which methods take turns. `size`: of `pairs.sizes.SIZES`, or None for models as they are."""

    prompt_set: str
    groups: tuple[str, ...]
    concurrency: tuple[int, ...]
    size: str | None = None
    rounds: int = 3
    together: int = 4
    """Engines that are up at once, the target alone among them."""
    least_prompts: int = 8
    """Prompts of a round; twice as many as requests in flight if that is more."""


@dataclass(frozen=True)
class Served:
    prompt_set: str
    concurrency: tuple[int, ...]
    size: str | None
    repeats: int = 2


@dataclass(frozen=True)
class Plan:
    preset: str
    models: Models = Models()
    quality: tuple[Quality, ...] = ()
    speed: tuple[Speed, ...] = ()
    steps: tuple[Speed, ...] = ()
    """Where a step's time goes: CPU only."""
    served: tuple[Served, ...] = ()
    energy: tuple[Speed, ...] = ()
    vocabulary: bool = True
    engine: dict[str, Any] = field(default_factory=dict)
    """More options of every engine."""

    def as_json(self) -> dict[str, Any]:
        """The plan as it is read back from a manifest."""
        return json.loads(json.dumps(asdict(self)))


PRESETS: dict[str, Plan] = {
    "quick": Plan(
        "quick",
        quality=(
            Quality("minisql", 150, ("main", "ablation", "few_thresholds")),
            Quality("tales", 40, ("main",)),
        ),
        speed=(Speed("minisql", ("main",), (1, 8), "50m", rounds=3),),
        steps=(Speed("minisql", ("main",), (1,), "50m", rounds=2),),
    ),
    "full": Plan(
        "full",
        quality=(
            Quality("minisql", 600, SWEEPS, seeds=1, more_seeds=3, num_reference=60),
            Quality("tales", 150, OPEN_ENDED, seeds=1, more_seeds=1, num_reference=15),
        ),
        speed=(
            Speed("minisql", ("methods",), (1,), "0.5b", together=5),
            Speed("minisql", ("methods", "ablation", "threshold", "beam_width"), (1,), "50m", together=6),
            Speed("tales", ("main", "bold"), (1,), "50m", together=6, least_prompts=4),
            Speed("minisql", ("main",), (1, 2, 4, 8, 16, 32, 64), "50m"),
        ),
        steps=(Speed("minisql", ("draft_length_timed",), (1,), "0.5b", rounds=1, together=5),),
        served=(Served("minisql", (1, 8), "50m", repeats=1),),
    ),
    "gpu": Plan(
        "gpu",
        quality=(
            Quality("minisql", 600, SWEEPS, seeds=1, more_seeds=3),
            Quality("tales", 150, SWEEPS, seeds=1, more_seeds=1),
        ),
        speed=(
            Speed("minisql", ("methods", "threshold", "draft_length"), (1,), "8b", together=3),
            Speed("tales", ("methods", "threshold", "draft_length"), (1,), "8b", together=3),
            Speed("minisql", ("main",), (1, 2, 4, 8, 16, 32, 64), "8b", together=3),
        ),
        served=(Served("minisql", (1, 8, 32), "8b"),),
        energy=(Speed("minisql", ("main",), (8,), "8b", together=1),),
    ),
}


def own_models(plan: Plan, models: Models, quality: Quality, engine: dict[str, Any]) -> Plan:
    """`plan` on a user's models and prompts: as they are, not padded."""
    return replace(
        plan,
        models=models,
        quality=(quality,),
        engine=engine,
        speed=tuple(
            replace(speed, prompt_set=quality.prompt_set, size=None)
            for speed in plan.speed
            if speed.prompt_set == plan.speed[0].prompt_set
        ),
        steps=(),
        served=tuple(replace(served, prompt_set=quality.prompt_set, size=None) for served in plan.served),
        energy=tuple(replace(energy, prompt_set=quality.prompt_set, size=None) for energy in plan.energy),
    )
