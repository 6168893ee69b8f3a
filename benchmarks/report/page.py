"""A `Page` is a Markdown page that grows section by section, with its plots in files beside it."""

from __future__ import annotations

from pathlib import Path


class Page:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blocks: list[str] = []

    def add(self, *blocks: str) -> None:
        self._blocks += [block.strip("\n") for block in blocks if block]

    def plot_file(self, name: str) -> Path:
        """Where the plot `name` belongs."""
        (self.folder / "plots").mkdir(exist_ok=True)
        return self.folder / "plots" / f"{name}.png"

    def write(self) -> Path:
        file = self.folder / "report.md"
        file.write_text("\n\n".join(self._blocks) + "\n")
        return file


def image(file: Path | None, alt: str) -> str:
    return "" if file is None else f"![{alt}](plots/{file.name})"
