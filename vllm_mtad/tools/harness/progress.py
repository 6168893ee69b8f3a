"""A long run shows a bar on a terminal, and a line for each piece of work elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

T = TypeVar("T")
Bar = Callable[[str, int], Callable[[], None]]
"""Starts a bar of a description and a total, and gives what advances it."""
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


def console_of_width(width: int) -> Console:
    """The terminal as wide as it is; elsewhere, `width` columns."""
    console = Console()
    return console if console.is_terminal else Console(width=width)


@contextmanager
def bars(console: Console | None = None) -> Iterator[Bar]:
    """Bars that stay; without a terminal they are printed once, at the end."""
    with Progress(*_COLUMNS, console=console or Console(stderr=True)) as progress:

        def bar(description: str, total: int) -> Callable[[], None]:
            return partial(progress.advance, progress.add_task(description, total=total))

        yield bar


class Work:
    """Shows the progress of pieces of work: `for piece in work.over("speed", pieces, label): ...`"""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._begin = time.monotonic()

    def over(self, part: str, pieces: Sequence[T], label: Callable[[T], str]) -> Iterator[T]:
        """Each of `pieces`, shown as `label(piece)` while it is worked on."""
        if not self.console.is_terminal:
            for number, piece in enumerate(pieces, start=1):
                self.say(f"{part} {number}/{len(pieces)}: {label(piece)}")
                yield piece
            return
        with Progress(*_COLUMNS, console=self.console, transient=True) as progress:
            task = progress.add_task(part, total=len(pieces))
            for piece in pieces:
                progress.update(task, description=f"{part}: {label(piece)}")
                yield piece
                progress.advance(task)

    def say(self, text: str) -> None:
        minutes = (time.monotonic() - self._begin) / 60
        self.console.print(f"[{minutes:5.1f} min] {text}", markup=False, highlight=False, soft_wrap=True)
