"""A `Pair` is a target model and its draft model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """Two models, each a folder or a hub id."""

    target: Path | str
    draft: Path | str
