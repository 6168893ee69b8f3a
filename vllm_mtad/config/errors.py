"""How a refusal is said: `refuse` raises sentences, `one_sentence` makes one of errors that say it in many lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_collected: ContextVar[list[str] | None] = ContextVar("_collected", default=None)


def refuse(problems: Iterable[str]) -> None:
    """
    Args:
        problems: what is wrong, each one sentence that names a field, its value and what is accepted.
    Raises:
        ValueError: all of them, if there are any. Inside of `collecting` they are noted instead.
    """
    found, collected = list(problems), _collected.get()
    if collected is not None:
        collected += found
    elif found:
        raise ValueError(" ".join(found))


@contextmanager
def collecting() -> Iterator[list[str]]:
    """Yields the list in which `refuse` notes sentences, to find all that would be refused one after another."""
    found: list[str] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def one_sentence(error: Exception) -> str:
    """The first line of the first complaint, where pydantic would add the whole input; an error that says nothing gives
    its name.
    """
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    first = error.errors()[0]
    if first["type"] == "value_error":
        return one_sentence(first["ctx"]["error"])
    name = ".".join(str(part) for part in first["loc"])
    return f"{name}={first['input']!r} is not accepted: {first['msg']}."
