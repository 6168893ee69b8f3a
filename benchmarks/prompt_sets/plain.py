"""A user's own prompts, from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.prompt_sets.base import PromptSet


class Plain(PromptSet):
    name = "plain"
    stop: tuple[str, ...] = ()
    judged_by = ""

    def __init__(self, count: int, source: str | None = None, max_tokens: int = 256) -> None:
        if source is None:
            raise ValueError("plain needs a file of prompts; name it with --source.")
        self.records = read_prompts(source)[:count]
        self.prompts = [record["prompt"] for record in self.records]
        self.max_tokens = max_tokens

    def judge(self, index: int, completion: str) -> None:
        return None


def read_prompts(path: str | Path) -> list[dict[str, Any]]:
    """The prompts of a UTF-8 file, each a dict with `prompt` and whatever else its line has.

    `*.jsonl` holds an object with a text `prompt`, and perhaps a text `answer`, on each line; any other file holds a
    plain prompt on each line. Empty lines are passed over. Raises ValueError that names the file and the line.
    """
    path = Path(path).expanduser()
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ValueError(f"{path}: the prompts cannot be read ({error.strerror}).") from error
    read = _read_object if path.suffix == ".jsonl" else _read_text
    records = []
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode().rstrip("\r")
            if text.strip():
                records.append(read(text))
        except ValueError as error:  # of decoding, of JSON and of our own
            raise ValueError(f"{path}, line {number}: {error}") from error
    if not records:
        raise ValueError(f"{path} holds no prompts.")
    return records


def _read_text(line: str) -> dict[str, Any]:
    return {"prompt": line}


def _read_object(line: str) -> dict[str, Any]:
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("is not a JSON object.")
    if not isinstance(record.get("prompt"), str) or not record["prompt"]:
        raise ValueError("has no text under 'prompt'.")
    if not isinstance(record.get("answer", ""), str):
        raise ValueError("has something other than text under 'answer'.")
    return record
