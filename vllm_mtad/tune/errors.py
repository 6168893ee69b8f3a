"""Why the tuner stops; each message is one sentence for the user."""

from __future__ import annotations

from vllm_mtad.config.sentences import one_sentence


class InputError(ValueError):
    """Something that the user gave cannot be used. Raised before any engine starts."""


class TargetError(RuntimeError):
    """The target alone cannot be run, so there is nothing to compare with."""


def reason(error: Exception) -> str:
    """The first line of what is wrong, or the error's name if it says nothing."""
    return one_sentence(error) if str(error).strip() else type(error).__name__
