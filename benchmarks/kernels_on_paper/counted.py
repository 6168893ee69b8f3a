"""`counting` counts launches and bytes of whatever runs within it.

Operators of PyTorch are observed by a dispatch mode, kernels of Triton by its interpreter, whose loads and stores are
recorded.

An operator reads its tensors and writes its results once; a view or an allocation costs nothing. Of a Triton launch the
programs of the first row (or request) run, and count for as many as there are: all rows are the same work. A program
moves what each of its loads and stores names, an address once a load; what it reads twice counts twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_FRESH = ("empty", "new_empty", "empty_like", "empty_strided")
_FREE = (*_FRESH, "detach", "lift_fresh", "set_", "_unsafe_view")
_ONLY_WRITTEN = ("copy_", "fill_", "zero_")
"""Operators that do not read what they overwrite."""


@dataclass(frozen=True)
class Launch:
    name: str
    bytes: int


class Count(TorchDispatchMode):
    """The launches, in order.

    Args:
        rows: that a batch has at most; the programs of one of them run. None: no program of Triton's runs, and its
            launches have no bytes.
    """

    def __init__(self, rows: int | None) -> None:
        super().__init__()
        self.rows, self.launches = rows, list[Launch]()
        self._is_within_triton = False
        self._moved = 0
        self._weight = 1.0
        self._grid: tuple = (1, 1, 1)

    @property
    def bytes(self) -> int:
        return sum(launch.bytes for launch in self.launches)

    def add(self, name: str, size: int) -> None:
        self.launches.append(Launch(name, size))

    # -- PyTorch --------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        results = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in _FRESH:  # where no program of ours writes, there must be numbers
            results.fill_(1)
        if not (self._is_within_triton or func.is_view or name in _FREE):
            self.add(name, _bytes_of(func, name, args, kwargs or {}, results))
        return results

    # -- Triton ---------------------------------------------------------------------------------------

    def launch(self, executor: Any, args: tuple, kwargs: dict[str, Any], call: Any) -> None:
        self._is_within_triton, self._moved = True, 0
        try:
            if self.rows is not None:
                self.shorten(executor)
                call(executor, *args, **kwargs)
        finally:
            self._is_within_triton = False
        self.add(executor.fn.__name__, self._moved)

    def shorten(self, executor: Any) -> None:
        """Let the executor run the first row's programs, which see the whole grid.

        Where there are fewer programs than rows, the first has its share of the rows, rounded up.
        """
        assert self.rows is not None
        grid = tuple(executor.grid)
        run = max(1, grid[0] // self.rows)
        weight = grid[0] / run if grid[0] >= self.rows else self.rows / -(-self.rows // grid[0])
        self._grid, self._weight = (*grid, 1, 1)[:3], weight
        executor.grid = (run, *grid[1:])

    def move(self, pointers: np.ndarray, mask: np.ndarray, size: int) -> None:
        self._moved += round(np.unique(pointers[mask]).size * size * self._weight)


def _bytes_of(func: Any, name: str, args: tuple, kwargs: dict[str, Any], results: Any) -> int:
    written = {id(t): t for t in tree_leaves(results) if isinstance(t, torch.Tensor)}
    given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    size = sum(t.nbytes for t in written.values())
    if name == "index":  # of its first tensor it reads what it returns
        return 2 * size + sum(t.nbytes for t in given[1:])
    return size + sum(t.nbytes for t in given if not (name in _ONLY_WRITTEN and id(t) in written))


@contextmanager
def counting(rows: int | None) -> Iterator[Count]:
    """Count what runs within. Needs `TRITON_INTERPRET=1`, set before Triton was imported."""
    from triton.runtime import interpreter

    count = Count(rows)
    call = interpreter.GridExecutor.__call__
    builder = interpreter.InterpreterBuilder
    load, store, set_grid_dim = builder.create_masked_load, builder.create_masked_store, builder.set_grid_dim

    def counted_call(executor: Any, *args: Any, **kwargs: Any) -> None:
        count.launch(executor, args, kwargs, call)

    def counted_load(self: Any, pointers: Any, mask: Any, *args: Any) -> Any:
        count.move(pointers.data, mask.data, _size(pointers))
        return load(self, pointers, mask, *args)

    def counted_store(self: Any, pointers: Any, value: Any, mask: Any, *args: Any) -> Any:
        count.move(pointers.data, mask.data, _size(pointers))
        return store(self, pointers, value, mask, *args)

    def _size(pointers: Any) -> int:
        return interpreter._get_np_dtype(pointers.get_element_ty()).itemsize

    def whole_grid(self: Any, *grid: int) -> None:
        set_grid_dim(self, *count._grid)

    with (
        mock.patch.object(interpreter.GridExecutor, "__call__", counted_call),
        mock.patch.object(builder, "create_masked_load", counted_load),
        mock.patch.object(builder, "create_masked_store", counted_store),
        mock.patch.object(builder, "set_grid_dim", whole_grid),
        count,
    ):
        yield count
