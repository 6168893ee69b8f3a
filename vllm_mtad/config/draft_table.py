"""This table says which draft goes with which target, for `--speculative-config mtad` without a draft.

It has only pairs that share tokenizer and vocabulary size, where the draft is a full-attention causal LM.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

# Target name (the last part of its hub id or path) -> hub id of the draft.
KNOWN_FAMILIES: tuple[tuple[str, str], ...] = (
    (r"(Meta-)?Llama-3(\.[13])?-(8B|70B|405B)-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
    (r"(Meta-)?Llama-3(\.[13])?-(8B|70B|405B)", "meta-llama/Llama-3.2-1B"),
    (r"Llama-3\.2-3B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
    (r"Llama-3\.2-3B", "meta-llama/Llama-3.2-1B"),
    (r"Llama-2-(7b|13b|70b)-chat-hf", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
    (r"Qwen3-(4B|8B|14B|32B)", "Qwen/Qwen3-0.6B"),
    (r"Qwen2\.5-3B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"),
    (r"Qwen2\.5-3B", "Qwen/Qwen2.5-0.5B"),
    (r"SmolLM2-1\.7B-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    (r"SmolLM2-1\.7B", "HuggingFaceTB/SmolLM2-135M"),
)


def find_draft(target: str, named: str | None) -> str:
    """Hub id or path of the draft for a target that is a hub id or a path.

    Args:
        named: `mtad_draft` in the target's config.json, if it is there: a hub id, or a path that begins with `./` or
            `../` and is relative to the target's folder. It wins over the table of known families.
    Raises:
        ValueError: if no draft is known.
    """
    if named is None:
        draft = known_draft(target)
        if draft is None:
            raise ValueError(
                f"mtad knows no draft model for the target {target!r}: name one with --spec-model"
                ' (or "model" in --speculative-config).'
            )
        return draft
    if not named.startswith(("./", "../")):
        return named
    if not Path(target).is_dir():
        raise ValueError(
            f"config.json of the target {target!r} names its draft by a path, mtad_draft={named!r}, but the target is"
            " no local folder: name the draft with --spec-model."
        )
    return os.path.normpath(Path(target) / named)


def known_draft(target: str) -> str | None:
    """The table's draft for a target's hub id or path; beside a local target, the draft's local folder."""
    name = Path(target).name
    for pattern, draft in KNOWN_FAMILIES:
        if re.fullmatch(pattern, name, re.IGNORECASE):
            beside = Path(target).parent / Path(draft).name
            return str(beside) if Path(target).is_dir() and beside.is_dir() else draft
    return None
