"""The bundled pair: a small text-to-SQL target and a smaller draft with the same tokenizer.

`minisql` generates the task, `tokenizer` and `train` made the models, `evaluate` measures them.
"""

from __future__ import annotations

from pathlib import Path

PAIR_MARKER = "minisql-v1"
"""Value of `mtad_pair` in config.json: how the bundled pair is recognised."""

_WEIGHTS = Path(__file__).parent / "weights"


def target_path() -> Path:
    """Folder of the target model."""
    return _WEIGHTS / "target"


def draft_path() -> Path:
    """Folder of the draft model."""
    return _WEIGHTS / "draft"
