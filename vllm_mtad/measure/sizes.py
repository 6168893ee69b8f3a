"""A pair at the cost of larger models: padded so that each computes what it did (`pair.widen`)."""

from __future__ import annotations

from pathlib import Path

from vllm_mtad.pair import Pair
from vllm_mtad.pair.widen import SHAPES, widen

SIZES = {"50m": ("50m", "10m"), "0.5b": ("0.5b", "50m"), "8b": ("8b", "1b")}
"""Shapes of the target and of the draft."""


def pair_at(size: str, pair: Pair, folder: Path) -> Pair:
    """`pair` at a size of `SIZES`, written to `folder` unless it is there."""
    wide = Pair(folder / size / "target", folder / size / "draft")
    for source, path, shape in zip((pair.target, pair.draft), (wide.target, wide.draft), SIZES[size]):
        if not (path / "model.safetensors.index.json").exists():
            widen(source, path, SHAPES[shape])
    return wide
