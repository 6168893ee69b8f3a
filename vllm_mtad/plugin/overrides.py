"""What of vLLM's classes MTAD's own override must still be there, with the same parameters."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

_CHANGED_ON_PURPOSE = ("__init__", "__repr__")
"""vLLM's constructors are met by the `__new__` seams (`contract_table.OF_SEAMS`)."""


def overrides(runner: str | None) -> Iterator[tuple[str, Callable, Callable | None]]:
    """(name, ours, vLLM's) of each method that a class of ours overrides; None for vLLM's where it should, marked with
    `typing_extensions.override`, and vLLM's classes have no such method.

    Args:
        runner: "v1" or "v2": classes of the other runner are left out. None: no runner's.
    """
    for cls in classes(runner):
        parents = [base for base in cls.__mro__[1:] if _is_of_vllm(base)]
        for name, own in vars(cls).items():
            if not inspect.isfunction(own) or name in _CHANGED_ON_PURPOSE:
                continue
            parent = next((vars(base)[name] for base in parents if name in vars(base)), None)
            if inspect.isfunction(parent) or (parent is None and hasattr(own, "__override__")):
                yield f"{cls.__module__}.{cls.__name__}.{name}", own, parent


def why_unlike(ours: Callable, theirs: Callable) -> str | None:
    """How the parameters differ in names, order or defaults. Ours may take more, with defaults, and may gather what it
    hands on.
    """
    own, parents = (list(inspect.signature(f).parameters.values()) for f in (ours, theirs))
    gathers = any(p.kind is p.VAR_POSITIONAL for p in own)
    plain = [p for p in own if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    expected = parents[: len(plain)] if gathers else parents
    same = [(p.name, p.default) for p in plain[: len(expected)]] == [(p.name, p.default) for p in expected]
    if same and all(p.default is not p.empty for p in plain[len(expected) :]):
        return None
    return f"vLLM's takes {inspect.signature(theirs)}, ours {inspect.signature(ours)}"


def broken_overrides(runner: str | None) -> Iterator[str]:
    for name, own, parent in overrides(runner):
        if parent is None:
            yield f"{name} overrides what is not there"
        elif (why := why_unlike(own, parent)) is not None:
            yield f"{name} does not fit what it overrides ({why})"


def classes(runner: str | None) -> Iterator[type]:
    """Every class of ours that derives from one of vLLM's."""
    packages = ["vllm_mtad.config", "vllm_mtad.plugin", *([f"vllm_mtad.runners.{runner}"] if runner else [])]
    for package in packages:
        root = importlib.import_module(package)
        for info in pkgutil.walk_packages(root.__path__, f"{package}."):
            module = importlib.import_module(info.name)
            for found in vars(module).values():
                if inspect.isclass(found) and found.__module__ == module.__name__ and _derives(found):
                    yield found


def _derives(cls: type) -> bool:
    return any(_is_of_vllm(base) for base in cls.__mro__)


def _is_of_vllm(cls: Any) -> bool:
    return cls.__module__.split(".")[0] == "vllm"
