"""How a refusal is said: `refuse` raises sentences, `one_sentence` makes one of errors that say it in many lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Reasons:
    """`sentences`: what is wrong, each one names a field, its value and what is accepted. `advice`: a sentence that
    comes once, after all of them; None for none.
    """

    sentences: list[str] = field(default_factory=list)
    advice: str | None = None

    def __str__(self) -> str:
        return " ".join([*self.sentences, *([self.advice] if self.advice else [])])


class RefusalError(ValueError):
    """All that speaks against a configuration, in one message; `reasons` has it by the sentence."""

    def __init__(self, reasons: Reasons) -> None:
        super().__init__(str(reasons))
        self.reasons = reasons

    def __reduce__(self) -> tuple[type[RefusalError], tuple[Reasons]]:
        return RefusalError, (self.reasons,)


_collected: ContextVar[Reasons | None] = ContextVar("_collected", default=None)


def refuse(problems: Iterable[str], advice: str | None = None) -> None:
    """
    Args:
        problems: as `Reasons.sentences`.
        advice: as `Reasons.advice`, of no use without problems.
    Raises:
        RefusalError: all of them, if there are any. Inside of `collecting` they are noted instead.
    """
    found = Reasons(list(problems), advice)
    if not found.sentences:
        return
    collected = _collected.get()
    if collected is None:
        raise RefusalError(found)
    collected.sentences += found.sentences
    collected.advice = collected.advice or advice


@contextmanager
def collecting() -> Iterator[Reasons]:
    """Yields the reasons in which `refuse` notes sentences, to find all that would be refused one after another."""
    found = Reasons()
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def refused_at_once(create: Callable[[], T]) -> T:
    """What `create` makes, if nothing in it was refused.

    Raises:
        RefusalError: all that was, with the ValueError that may have ended it. Any other exception that comes after a
            refusal is taken for its consequence, and is the RefusalError's cause.
    """
    with collecting() as found:
        try:
            made = create()
        except Exception as error:
            if not found.sentences:
                raise
            ended = _reasons_of(error)
            found.sentences += ended.sentences
            found.advice = found.advice or ended.advice
            raise RefusalError(found) from error
    refuse(found.sentences, found.advice)
    return made


def _reasons_of(error: Exception) -> Reasons:
    if isinstance(error, RefusalError):
        return error.reasons
    return Reasons([one_sentence(error)] if isinstance(error, ValueError) else [])


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
