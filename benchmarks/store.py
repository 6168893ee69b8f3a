"""A `Store` is a folder of results: a manifest, and raw rows as JSON lines, from which a run can be resumed."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


class Store:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, manifest: dict[str, Any]) -> None:
        """Keep `manifest`, behind those of earlier starts; refuses a folder that holds answers of other models, or to
        other prompts, than its `plan` asks for.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        starts = self.manifests()
        for start in starts:
            if not _fit_together(start["plan"], manifest["plan"]):
                raise ValueError(
                    f"--out {self.folder} holds results of other models or prompts ({start['command']}): give another"
                    " folder, or the same options to resume."
                )
        (self.folder / MANIFEST).write_text(json.dumps([*starts, manifest], indent=1, ensure_ascii=False) + "\n")

    def manifests(self) -> list[dict[str, Any]]:
        file = self.folder / MANIFEST
        return json.loads(file.read_text()) if file.exists() else []

    def add(self, part: str, row: dict[str, Any]) -> None:
        """Append one row in one write: what was interrupted leaves no row, or a last line that is not JSON."""
        file = self.folder / f"{part}.jsonl"
        torn = file.exists() and file.stat().st_size > 0 and _last_byte(file) != b"\n"
        with file.open("a") as lines:
            lines.write(("\n" if torn else "") + json.dumps(row, ensure_ascii=False) + "\n")

    def rows(self, part: str) -> list[dict[str, Any]]:
        """Whole rows of PART.jsonl, or of PART.jsonl.gz where results were packed to be kept."""
        return [row for line in self._lines(part) if (row := _parse(line)) is not None]

    def pack(self, part: str) -> None:
        """All rows of a part into PART.jsonl.gz, to be kept."""
        rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows(part))
        (self.folder / f"{part}.jsonl.gz").write_bytes(gzip.compress(rows.encode(), mtime=0))
        (self.folder / f"{part}.jsonl").unlink(missing_ok=True)

    def _lines(self, part: str) -> Iterator[str]:
        plain, packed = self.folder / f"{part}.jsonl", self.folder / f"{part}.jsonl.gz"
        if packed.exists():
            with gzip.open(packed, "rt") as lines:
                yield from lines
        if plain.exists():
            with plain.open() as lines:
                yield from lines


def _fit_together(plan: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether rows of both may stand in one folder: the same models, and the same prompts of a set that both have."""

    def prompts(of: dict[str, Any]) -> dict[str, Any]:
        names = ("num_prompts", "source", "options", "chat")
        return {part["prompt_set"]: [part[name] for name in names] for part in of["quality"]}

    ours, theirs = prompts(plan), prompts(other)
    return plan["models"] == other["models"] and all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as content:
        content.seek(-1, os.SEEK_END)
        return content.read(1)


def _parse(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
