"""What both runners change in the attention layers of a draft model, once it is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def keep_whole_texts(layers: Iterable[Any]) -> None:
    """Let a draft's layers keep the KV of whole texts, those with a window too.

    Of a window's layers vLLM hands blocks that no token will see again to other requests. Then what was missed could
    not be read any more, and the draft's layers would be of several kinds. What such a layer attends to stays as it
    is: its implementation has the window.
    """
    for layer in layers:
        layer.sliding_window = None
