"""A mode of Triton's interpreter in which races between the programs of a launch show.

The interpreter runs programs one after another in the order of the grid; a kernel that counts on that works there, and
not on a GPU. In this mode they run in a random order, fresh tensors hold poison (`poison`), and our own kernels fail if
a program touches what another one writes, or memory outside of its arguments (`launch`). In each test the first launch
of each of the plugin's kernels is repeated on its own output, in another order: it must leave what it left.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from triton.runtime import interpreter

from tests.interpreter.launch import Launch, RaceError
from tests.interpreter.poison import poison_fresh_tensors

SEED_VARIABLE = "MTAD_TEST_SEED"
OUR_PACKAGES = ("vllm_mtad", "tests")
COUNTING = {"_joint_acceptance_kernel": "tally_ptr"}
"""Arguments to which a kernel adds; a repetition has what they held before."""


class RaceFinder:
    """The order of programs, and the launch that is under way.

    Args:
        seed: of the orders; by default the environment's, or 0.
        checked: packages whose kernels are checked. The programs of all kernels run in a random order.
        repeated: the package whose kernels' launches are repeated.

    Attributes:
        checked_launches: how many were checked.
        is_repeating: whether the first launch of each kernel is repeated.
    """

    def __init__(self, seed: int | None, checked: tuple[str, ...], repeated: str) -> None:
        self.seed = int(os.environ.get(SEED_VARIABLE, "0")) if seed is None else seed
        self.checked_launches = 0
        self.is_repeating = True
        self._checked, self._repeated = checked, repeated
        self._launch: Launch | None = None
        self.draw_orders_of("")

    def draw_orders_of(self, test: str) -> None:
        """A test has its own orders, whichever tests ran before."""
        self._generator = np.random.default_rng([self.seed, zlib.crc32(test.encode())])
        self._were_repeated: set[str] = set()

    def repeats(self, kernel: Callable) -> bool:
        """Whether to repeat this launch."""
        if not self.is_repeating or kernel.__module__.split(".")[0] != self._repeated:
            return False
        if kernel.__name__ in self._were_repeated:
            return False
        self._were_repeated.add(kernel.__name__)
        return True

    def start(self, kernel: Callable, arguments: dict[str, Any]) -> None:
        self._launch = None
        if kernel.__module__.split(".")[0] in self._checked:
            tensors = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
            self._launch = Launch(kernel.__name__, tensors)

    def set_grid(self, grid: tuple[int, ...]) -> None:
        self._order = self._generator.permutation(int(np.prod(grid)))
        if self._launch:
            self._launch.grid = grid

    def next_program(self, index: tuple[int, ...], grid: tuple[int, ...]) -> tuple[int, ...]:
        """The program to run in the place of the one that the interpreter would run."""
        program = int(self._order[np.ravel_multi_index(index, grid)])
        if self._launch:
            self._launch.program = program
        return tuple(int(i) for i in np.unravel_index(program, grid))

    def record(self, pointers: Any, mask: Any, *, reads: bool = False, writes: bool = False) -> None:
        """`pointers` and `mask` are the interpreter's handles."""
        if launch := self._launch:
            size = interpreter._get_np_dtype(pointers.get_element_ty()).itemsize
            for accesses in [launch.reads] * reads + [launch.writes] * writes:
                launch.record(accesses, pointers.data, mask.data, size)

    def finish(self) -> None:
        if launch := self._launch:
            self._launch = None
            self.checked_launches += 1
            launch.check()


class RandomOrderExecutor(interpreter.GridExecutor):
    """Tells the finder of a launch. Its arguments are those on the host, whose addresses programs see."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        if not interpreter.interpreter_builder.finder.repeats(self.fn):
            self._launch(*args, **kwargs)
            return
        tensors = {n: t for n, t in (dict(zip(self.arg_names, args)) | kwargs).items() if isinstance(t, torch.Tensor)}
        counts = tensors.get(COUNTING.get(self.fn.__name__, ""))
        before = None if counts is None else counts.clone()
        self._launch(*args, **kwargs)
        after = {name: tensor.clone() for name, tensor in tensors.items()}
        if counts is not None:
            counts.copy_(before)
        self._launch(*args, **kwargs)
        for name, tensor in tensors.items():
            if not _same_bytes(tensor, after[name]):
                raise RaceError(f"{self.fn.__name__} leaves another {name} when its launch is repeated")

    def _launch(self, *args: Any, **kwargs: Any) -> None:
        super().__call__(*args, **kwargs)
        interpreter.interpreter_builder.finder.finish()

    def _init_args_hst(self, args: tuple, kwargs: dict[str, Any]) -> tuple[list, dict[str, Any]]:
        args, kwargs = super()._init_args_hst(args, kwargs)
        interpreter.interpreter_builder.finder.start(self.fn, dict(zip(self.arg_names, args)) | kwargs)
        return args, kwargs


class RecordingBuilder(interpreter.InterpreterBuilder):
    """Tells the finder of what a program does. All other loads and stores come to the two masked ones."""

    finder: RaceFinder

    def set_grid_dim(self, *grid: int) -> None:
        super().set_grid_dim(*grid)
        self.finder.set_grid(grid)

    def set_grid_idx(self, *index: int) -> None:
        super().set_grid_idx(*self.finder.next_program(index, self.grid_dim))

    def create_masked_load(self, ptrs: Any, mask: Any, *args: Any) -> Any:
        self.finder.record(ptrs, mask, reads=True)
        return super().create_masked_load(ptrs, mask, *args)

    def create_masked_store(self, ptrs: Any, value: Any, mask: Any, *args: Any) -> Any:
        self.finder.record(ptrs, mask, writes=True)
        return super().create_masked_store(ptrs, value, mask, *args)

    def create_atomic_rmw(self, op: Any, ptr: Any, val: Any, mask: Any, *args: Any) -> Any:
        self.finder.record(ptr, mask, reads=True, writes=True)
        return super().create_atomic_rmw(op, ptr, val, mask, *args)

    def create_atomic_cas(self, ptr: Any, *args: Any) -> Any:
        mask = interpreter.TensorHandle(np.ones_like(ptr.data, dtype=bool), interpreter.tl.int1)
        self.finder.record(ptr, mask, reads=True, writes=True)
        return super().create_atomic_cas(ptr, *args)


def _same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(*(tensor.contiguous().view(torch.uint8) for tensor in (one, other)))


@contextmanager
def finding_races(
    seed: int | None = None, checked: tuple[str, ...] = OUR_PACKAGES, repeated: str = "vllm_mtad"
) -> Iterator[RaceFinder]:
    finder = RaceFinder(seed, checked, repeated)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "GridExecutor", RandomOrderExecutor)
        patch.setattr(interpreter.interpreter_builder, "__class__", RecordingBuilder)
        patch.setattr(interpreter.interpreter_builder, "finder", finder, raising=False)
        poison_fresh_tensors(patch)
        yield finder
