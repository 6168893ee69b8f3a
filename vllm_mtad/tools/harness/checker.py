"""The user's own function, the checker, says whether a completion is right."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np

from vllm_mtad.config.errors import one_sentence
from vllm_mtad.tools.harness.errors import InputError
from vllm_mtad.tools.harness.prompts import Prompt

Check = Callable[[str, str | None, str], bool]
"""`check(prompt, answer, completion)`; `answer` is the prompt's in the file, or None."""


@dataclass
class Checker:
    """`failures`: what the function raised; it counts as wrong, so that no run is lost for it."""

    check: Check
    name: str
    failures: list[str] = field(default_factory=list)

    def is_right(self, prompt: Prompt, completion: str) -> bool:
        try:
            return bool(self.check(prompt.text, prompt.answer, completion))
        except Exception as error:
            self.failures.append(f"line {prompt.line}: {one_sentence(error)}")
            return False

    @property
    def complaint(self) -> str:
        """What is said where it has raised."""
        return f"The checker raised {len(self.failures)} times (counted as wrong), first for {self.failures[0]}"

    def try_out(self, prompt: Prompt) -> None:
        """Ask once about an empty completion, so that a function that cannot work is found before engines start."""
        try:
            verdict = self.check(prompt.text, prompt.answer, "")
        except Exception as error:
            raise InputError(
                f"The checker {self.name!r} raised {type(error).__name__} ({one_sentence(error)}) for an empty"
                f" completion of line {prompt.line}: it must return True or False for any completion."
            ) from error
        if not isinstance(verdict, (bool, np.bool_)):
            raise InputError(
                f"The checker {self.name!r} returned {verdict!r} for an empty completion of line {prompt.line}: it must"
                " return True or False."
            )


def load_checker(name: str) -> Checker:
    """The checker that `MODULE:FUNCTION` or `FILE.py:FUNCTION` names.

    Raises:
        InputError: if there is no such function of three arguments.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute:
        raise InputError(f"The checker {name!r} is not accepted: give MODULE:FUNCTION or FILE.py:FUNCTION.")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:  # the user's module may raise anything
        raise InputError(f"The checker {name!r}: {place!r} cannot be imported ({one_sentence(error)}).") from error
    check = getattr(module, attribute, None)
    if not callable(check):
        raise InputError(f"The checker {name!r}: {place!r} has no function {attribute!r}.")
    try:
        inspect.signature(check).bind("prompt", "answer", "completion")
    except TypeError as error:
        raise InputError(f"The checker {name!r} must take (prompt, answer, completion).") from error
    except ValueError:
        pass  # a function of C has no signature to look at; `try_out` calls it
    return Checker(check, name)


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
