"""`ModelStateAround`: what stands in place of a ModelState of the V2 runner's, and adds to some of its methods."""

from __future__ import annotations

from typing import Any


class ModelStateAround:
    """All that a subclass does not have is the inner state's, to read and to set: vLLM's runner sets some of it."""

    def __init__(self, state: Any, **own: Any) -> None:
        """
        Args:
            state: vLLM's, or another around it.
            own: attributes of the subclass.
        """
        vars(self).update(own, _state=state)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._state, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._state, name)
