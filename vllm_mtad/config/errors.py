"""`one_sentence` says what is wrong in one sentence, from errors that say it in many lines."""

from __future__ import annotations


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
