"""One seam serves every class that vLLM instantiates by name: for mtad the instance is of this plugin's subclass."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def subclass_for_mtad(own: str, is_mtad: Callable[..., bool]) -> Callable[[Callable], Callable]:
    """A replacement of a vLLM class's `__new__`.

    Args:
        own: our subclass, as "module:Class"; imported when it is first needed.
        is_mtad: whether the constructor's arguments ask for mtad.
    """

    def replacement(new: Callable) -> Callable:
        def new_by_method(cls: type, *args: Any, **kwargs: Any) -> Any:
            if is_mtad(*args, **kwargs):
                module, _, name = own.partition(":")
                subclass = getattr(importlib.import_module(module), name)
                if issubclass(subclass, cls):  # or another subclass of vLLM's was asked for
                    cls = subclass
            return object.__new__(cls)

        return new_by_method

    return replacement
