"""What a long run shows: a bar on a terminal, a line for each piece of work elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

T = TypeVar("T")


class Work:
    """`for piece in work.over("speed", pieces, label): ...`"""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._begin = time.monotonic()

    def over(self, part: str, pieces: Sequence[T], label) -> Iterator[T]:  # type: ignore[no-untyped-def]
        """Each of `pieces`, shown as `label(piece)` while it is worked on."""
        if not self.console.is_terminal:
            for number, piece in enumerate(pieces, start=1):
                self.say(f"{part} {number}/{len(pieces)}: {label(piece)}")
                yield piece
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(part, total=len(pieces))
            for piece in pieces:
                progress.update(task, description=f"{part}: {label(piece)}")
                yield piece
                progress.advance(task)

    def say(self, text: str) -> None:
        minutes = (time.monotonic() - self._begin) / 60
        self.console.print(f"[{minutes:5.1f} min] {text}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def closing(engines: list) -> Iterator[list]:  # type: ignore[type-arg]
    """Stops the engines in the list at the end, whatever happened."""
    from vllm_mtad.measure.engines import stop

    try:
        yield engines
    finally:
        for llm in engines:
            stop(llm)
