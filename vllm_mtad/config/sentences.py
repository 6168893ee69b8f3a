"""What is wrong, in one sentence, from errors that say it in many lines."""

from __future__ import annotations

from pydantic import ValidationError


def one_sentence(error: Exception) -> str:
    """The first line of the first complaint; pydantic would add the whole input."""
    if not isinstance(error, ValidationError):
        return str(error).strip().splitlines()[0]
    first = error.errors()[0]
    if first["type"] == "value_error":
        return one_sentence(first["ctx"]["error"])
    name = ".".join(str(part) for part in first["loc"])
    return f"{name}={first['input']!r} is not accepted: {first['msg']}."
