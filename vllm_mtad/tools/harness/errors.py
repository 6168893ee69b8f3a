"""These errors say why a tool stops; each message is one sentence for the user."""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Something that the user gave cannot be used. Raised before any engine starts."""


class TargetError(RuntimeError):
    """The target alone cannot be run, so there is nothing to compare with."""


def check_folder_of(option: str, path: Path) -> None:
    """
    Raises:
        InputError: if there is no folder to write `path` into.
    """
    if not path.absolute().parent.is_dir():
        raise InputError(f"{option}={str(path)!r} is in a folder that is not there: make it first.")
