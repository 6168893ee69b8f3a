"""Running commands as a person would, for as long as a busy machine may take."""

from __future__ import annotations

import subprocess
from typing import Any

LIMIT_S = 1800


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """What a command printed, and how it ended."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=LIMIT_S, **options)
