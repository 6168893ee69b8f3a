"""This table says which draft goes with which target, for `--speculative-config mtad` without a draft.

It has only pairs that share a tokenizer, whose draft is a causal LM of its own. Whether an engine accepts a pair is for
the checks to say (`docs/models.md`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Config = Mapping[str, Any]
"""A model's config.json."""
Shape = tuple[str, int, int, int]
"""`model_type`, `hidden_size`, `num_hidden_layers` and `vocab_size` of a text model's config.json."""


@dataclass(frozen=True)
class Family:
    """Targets with the same draft.

    `name`: what people call them. `targets`: the last part of their hub ids, without how they are quantized. `draft`:
    its hub id. `shapes`: the targets' own. `marks`: what the name of a quantized upload by someone else holds, if its
    shape alone does not say which row of that shape it is.
    """

    name: str
    targets: str
    draft: str
    shapes: tuple[Shape, ...]
    marks: str = ""


_INSTRUCT = r"instruct|chat|-it(?![a-z])"
_LLAMA_3 = tuple(("llama", *sizes, 128256) for sizes in ((4096, 32), (8192, 80), (16384, 126)))
_LLAMA_3_3B: Shape = ("llama", 3072, 28, 128256)
_QWEN25_3B: Shape = ("qwen2", 2048, 36, 151936)
_QWEN25 = (_QWEN25_3B, *(("qwen2", *sizes, 152064) for sizes in ((3584, 28), (5120, 48), (5120, 64), (8192, 80))))
_QWEN3 = tuple(("qwen3", *sizes, 151936) for sizes in ((2048, 28), (2560, 36), (4096, 36), (5120, 40), (5120, 64)))
_QWEN3_MOE = tuple(("qwen3_moe", *sizes, 151936) for sizes in ((2048, 48), (4096, 94), (6144, 62)))
_GEMMA_2 = tuple(("gemma2", *sizes, 256000) for sizes in ((3584, 42), (4608, 46)))
_GEMMA_3 = tuple(("gemma3_text", *sizes, 262208) for sizes in ((2560, 34), (3840, 48), (5376, 62)))
_SMOLLM2: tuple[Shape, ...] = (("llama", 2048, 24, 49152),)

FAMILIES = (
    Family(
        "Llama 3 to 3.3",
        r"(Meta-)?Llama-3(\.[13])?-(8B|70B|405B)-Instruct",
        "meta-llama/Llama-3.2-1B-Instruct",
        _LLAMA_3,
        _INSTRUCT,
    ),
    Family("Llama 3 to 3.3", r"(Meta-)?Llama-3(\.1)?-(8B|70B|405B)", "meta-llama/Llama-3.2-1B", _LLAMA_3),
    Family("Llama 3 to 3.3", r"Llama-3\.2-3B-Instruct", "meta-llama/Llama-3.2-1B-Instruct", (_LLAMA_3_3B,), _INSTRUCT),
    Family("Llama 3 to 3.3", r"Llama-3\.2-3B", "meta-llama/Llama-3.2-1B", (_LLAMA_3_3B,)),
    Family(
        "Llama 2",
        r"Llama-2-(7b|13b|70b)-chat(-hf)?",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        tuple(("llama", *sizes, 32000) for sizes in ((4096, 32), (5120, 40), (8192, 80))),
        r"llama-?2.*chat",
    ),
    Family(
        "Qwen2.5-Coder",
        r"Qwen2\.5-Coder-(3B|7B|14B|32B)-Instruct",
        "Qwen/Qwen2.5-Coder-0.5B-Instruct",
        _QWEN25[:-1],
        r"coder.*instruct",
    ),
    Family("Qwen2.5-Coder", r"Qwen2\.5-Coder-(3B|7B|14B|32B)", "Qwen/Qwen2.5-Coder-0.5B", _QWEN25[:-1], r"coder"),
    Family("Qwen2.5", r"Qwen2\.5-(3B|7B|14B|32B|72B)-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", _QWEN25, _INSTRUCT),
    Family("Qwen2.5", r"Qwen2\.5-(3B|7B|14B|32B|72B)", "Qwen/Qwen2.5-0.5B", _QWEN25),
    Family("Qwen3", r"Qwen3-(1\.7B|4B|8B|14B)-Base", "Qwen/Qwen3-0.6B-Base", _QWEN3[:-1], r"-base(?![a-z])"),
    Family("Qwen3", r"Qwen3-(1\.7B|8B|14B|32B|4B(-(Instruct|Thinking)-2507)?)", "Qwen/Qwen3-0.6B", _QWEN3),
    Family("Qwen3 MoE", r"Qwen3-30B-A3B-Base", "Qwen/Qwen3-0.6B-Base", _QWEN3_MOE[:1], r"-base(?![a-z])"),
    Family(
        "Qwen3 MoE",
        r"Qwen3-(30B-A3B|235B-A22B)(-(Instruct|Thinking)-2507)?|Qwen3-Coder-(30B-A3B|480B-A35B)-Instruct",
        "Qwen/Qwen3-0.6B",
        _QWEN3_MOE,
    ),
    Family("Gemma 3", r"gemma-3-(4b|12b|27b)-it", "google/gemma-3-1b-it", _GEMMA_3, _INSTRUCT),
    Family("Gemma 3", r"gemma-3-(4b|12b|27b)-pt", "google/gemma-3-1b-pt", _GEMMA_3),
    Family("Gemma 2", r"gemma-2-(9b|27b)-it", "google/gemma-2-2b-it", _GEMMA_2, _INSTRUCT),
    Family("Gemma 2", r"gemma-2-(9b|27b)", "google/gemma-2-2b", _GEMMA_2),
    Family("SmolLM2", r"SmolLM2-1\.7B-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", _SMOLLM2, _INSTRUCT),
    Family("SmolLM2", r"SmolLM2-1\.7B", "HuggingFaceTB/SmolLM2-135M", _SMOLLM2),
)
"""The first row that fits a target is its own."""

_QUANTIZED = (
    r"([-_.](fp8|fp4|nvfp4|mxfp4|fp8a16|int4|int8|w4a16|w8a8|w8a16|w4a4|awq|gptq|hqq|autoround|bnb|4bit|8bit|quantized"
    r"|dynamic|block|kv|unsloth|g32|g64|g128))*"
)
"""What uploads of a known model add to its name, in any order."""


def find_draft(target: str, config: Config) -> str:
    """Hub id or path of the draft for a target.

    Args:
        target: a hub id or a path.
        config: the target's config.json. Its `mtad_draft` wins over the table of known families: a hub id, or a path
            that begins with `./` or `../` and is relative to the target's folder.
    Raises:
        ValueError: if no draft is known.
    """
    named = config.get("mtad_draft")
    if named is None:
        draft = known_draft(target, config)
        if draft is None:
            raise ValueError(
                f"mtad knows no draft model for the target {target!r}: name one with --spec-model"
                ' (or "model" in --speculative-config).'
            )
        return draft
    if not isinstance(named, str) or not named:
        raise ValueError(
            f"config.json of the target {target!r} has mtad_draft={named!r}, which is not accepted by mtad: give a hub"
            " id, or a path from that folder, which begins with './' or '../'."
        )
    if not named.startswith(("./", "../")):
        return named
    if not Path(target).is_dir():
        raise ValueError(
            f"config.json of the target {target!r} names its draft by a path, mtad_draft={named!r}, but the target is"
            " no local folder: name the draft with --spec-model."
        )
    return os.path.normpath(Path(target) / named)


def known_draft(target: str, config: Config) -> str | None:
    """The table's draft for a target's hub id or path; beside a local target, the draft's local folder."""
    family = family_of(Path(target).name, config)
    if family is None:
        return None
    beside = Path(target).parent / Path(family.draft).name
    return str(beside) if Path(target).is_dir() and beside.is_dir() else family.draft


def other_draft(target: str, config: Config, refused: str) -> str | None:
    """A draft that is known for the target and is not the refused one, wherever that lies."""
    try:
        draft = find_draft(target, config)
    except ValueError:
        return None
    return None if Path(draft).name.lower() == Path(refused).name.lower() else draft


def family_of(name: str, config: Config) -> Family | None:
    """The row of a target: by its name or, if it is quantized, by the shape of its model.

    A fine-tune that is not quantized is not recognised: its name is its own, and its text may be too.
    """
    for family in FAMILIES:
        if re.fullmatch(f"({family.targets}){_QUANTIZED}", name, re.IGNORECASE):
            return family
    if not is_quantized(config):
        return None
    for family in FAMILIES:
        if has_shape(config, family.shapes) and re.search(family.marks, name, re.IGNORECASE):
            return family
    return None


def is_quantized(config: Config) -> bool:
    return any(of.get("quantization_config") for of in (config, _text_config(config)))


def has_shape(config: Config, shapes: tuple[Shape, ...]) -> bool:
    """Whether the text model has one of the shapes. What config.json leaves to its class's default (Gemma 3 its
    `vocab_size`) is not compared.
    """
    text = _text_config(config)
    given = [text.get(name) for name in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")]
    if None in given[:3]:
        return False
    return any(all(value in (None, own) for value, own in zip(given, shape)) for shape in shapes)


def _text_config(config: Config) -> Config:
    return config.get("text_config") or config
