"""Fresh tensors that hold poison, so that reading what nobody wrote shows: on a CPU they mostly hold zeros."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch


def poison_fresh_tensors(patch: pytest.MonkeyPatch) -> None:
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        patch.setattr(owner, name, _poisoned(getattr(owner, name)))


def poison_of(dtype: torch.dtype) -> float | int:
    """NaN, True, or far from 0. The smallest integer would not do: as an index, times an even stride, it wraps to 0."""
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    if dtype == torch.bool:
        return True
    return int.from_bytes(b"\x95" * dtype.itemsize, "little", signed=dtype.is_signed)


def _poisoned(create: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(create)
    def create_and_fill(*args, **kwargs) -> torch.Tensor:
        tensor = create(*args, **kwargs)
        tensor.detach().fill_(poison_of(tensor.dtype))
        return tensor

    return create_and_fill
