"""A target and its draft."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """Two models, each a folder or a hub id."""

    target: Path | str
    draft: Path | str
