"""These functions count how the parts of a drafting round ran, where they are dispatched."""

from __future__ import annotations

from collections import Counter
from typing import Any


def count_replays(manager: Any) -> None:
    """`manager.replays` counts from now on how often a graph manager replays a full graph."""
    run, manager.replays = manager.run_fullgraph, 0

    def run_and_count(descriptor: Any) -> Any:
        manager.replays += 1
        return run(descriptor)

    manager.run_fullgraph = run_and_count


def count_first_passes(speculator: Any) -> None:
    """`speculator.first_passes` counts from now on how first passes run: FULL, PIECEWISE or NONE (eager)."""
    find, speculator.first_passes = speculator.first_pass.descriptor, Counter()

    def find_and_count(*args: Any) -> Any:
        descriptor = find(*args)
        speculator.first_passes[descriptor.cg_mode.name] += 1
        return descriptor

    speculator.first_pass.descriptor = find_and_count
