"""`read_prompts` reads a user's prompts: text with one prompt a line, or JSONL with `prompt` and perhaps `answer`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_mtad.tools.harness.errors import InputError

MIN_PROMPTS = 2
"""Fewer cannot be drawn again for an interval."""


@dataclass(frozen=True)
class Prompt:
    """`answer`: what a checker compares a completion with; `line`: of the file, from 1."""

    text: str
    answer: str | None
    line: int


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file, in its order; blank lines are skipped.

    A file named `*.jsonl` holds one JSON object a line; any other is plain text.

    Raises:
        InputError: naming the file and, where there is one, the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise InputError(f"The prompts of {str(path)!r} cannot be read ({why}): give a text or .jsonl file.") from error
    numbered = ((number, line.rstrip("\r")) for number, line in enumerate(lines, start=1) if line.strip())
    prompts = list(_from_json(path, numbered) if path.suffix == ".jsonl" else _from_text(path, numbered))
    if len(prompts) < MIN_PROMPTS:
        raise InputError(f"{str(path)!r} holds {len(prompts)} prompts: give at least {MIN_PROMPTS}.")
    return prompts


def _from_text(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[Prompt]:
    for number, line in lines:
        if line.lstrip().startswith("{") and '"prompt"' in line:
            raise InputError(f"{path}, line {number} looks like JSON: give the file a name that ends in .jsonl.")
        yield Prompt(line, None, number)


def _from_json(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[Prompt]:
    for number, line in lines:
        where = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where} is not JSON ({error.msg}): give one object a line.") from error
        if not isinstance(value, dict):
            raise InputError(f'{where} is not a JSON object: give {{"prompt": "...", "answer": "..."}}.')
        text, answer = value.get("prompt"), value.get("answer")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: prompt={text!r} is not accepted: give a text that is not empty.")
        if answer is not None and not isinstance(answer, str):
            raise InputError(f"{where}: answer={answer!r} is not accepted: give a text, or leave it out.")
        yield Prompt(text, answer, number)


def tokenized(tokenizer: Any, texts: Sequence[str], chat: bool) -> list[list[int]]:
    """Each text's tokens, as vLLM has them for a prompt that is text; or, with `chat`, as a user's message in the
    tokenizer's chat template.
    """
    if not chat:
        return [list(tokenizer(text).input_ids) for text in texts]
    return [
        list(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
            )["input_ids"]
        )
        for text in texts
    ]
