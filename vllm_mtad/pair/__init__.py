"""The bundled pairs: each a small target and a smaller draft with the same tokenizer, for one generated task.

`minisql` and `tales` generate the tasks, `tokenizer` and `train` made the models, `evaluate` measures those of MiniSQL,
`widen` gives a model the cost of a larger one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Pair:
    """Folders of two models."""

    target: Path
    draft: Path


MINISQL, TALES = (Pair(_WEIGHTS / task / "target", _WEIGHTS / task / "draft") for task in ("minisql", "tales"))
BUNDLED = {"minisql-v1": MINISQL, "tales-v1": TALES}
"""By the value of `mtad_pair` in config.json, which says that a model is the target or draft of that pair."""
