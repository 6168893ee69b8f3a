"""A `Contract` says what must stand at a place of vLLM's source; `contract_table` has all of them."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Contract:
    """`parameters`: of the function, in order; None: any. `runner`: the model runner that relies on it; None: each.
    `may_be_absent`: a release that was tested has no such name.
    """

    module: str
    name: str
    lines: tuple[str, ...]
    parameters: tuple[str, ...] | None = None
    runner: Literal["v1", "v2"] | None = None
    may_be_absent: bool = False

    def why_broken(self) -> str | None:
        """What does not hold in the installed vLLM, None if all holds."""
        try:
            original = inspect.unwrap(find(self.module, self.name))
            source = inspect.getsource(original)
        except (ImportError, AttributeError, OSError, TypeError) as error:
            if self.may_be_absent and isinstance(error, AttributeError):
                return None
            return f"{self.module}.{self.name} is not there ({error})"
        parameters = tuple(inspect.signature(original).parameters)
        if self.parameters is not None and parameters != self.parameters:
            return f"{self.module}.{self.name} takes {', '.join(parameters)}, not {', '.join(self.parameters)}"
        missing = next((line for line in self.lines if line not in source), None)
        return None if missing is None else f"{self.module}.{self.name} has no longer the line {missing!r}"


def find(module: str, name: str) -> Any:
    """What `name`, with dots, is in a module."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found
