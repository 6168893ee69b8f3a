"""A folder of results: a manifest, and raw rows as JSON lines, from which a run can be resumed."""

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
        """Keep `manifest`, behind those of earlier starts; refuses a folder that was begun with another `plan`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        starts = self.manifests()
        if starts and starts[-1]["plan"] != manifest["plan"]:
            raise ValueError(
                f"--out {self.folder} holds results of another plan ({starts[-1]['command']}): give another folder,"
                " or the same options to resume."
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

    def _lines(self, part: str) -> Iterator[str]:
        plain, packed = self.folder / f"{part}.jsonl", self.folder / f"{part}.jsonl.gz"
        if packed.exists():
            with gzip.open(packed, "rt") as lines:
                yield from lines
        if plain.exists():
            with plain.open() as lines:
                yield from lines


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as content:
        content.seek(-1, os.SEEK_END)
        return content.read(1)


def _parse(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
