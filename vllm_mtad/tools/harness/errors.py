"""These errors say why a tool stops; each message is one sentence for the user."""

from __future__ import annotations


class InputError(ValueError):
    """Something that the user gave cannot be used. Raised before any engine starts."""


class TargetError(RuntimeError):
    """The target alone cannot be run, so there is nothing to compare with."""
