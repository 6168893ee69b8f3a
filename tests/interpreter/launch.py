"""What the programs of one launch read and wrote, and whether one of them touched what another one wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch


class RaceError(AssertionError):
    """A program touched what another program of its launch wrote, or memory that is in no argument."""


class Access(NamedTuple):
    """What a program reads or writes at once: `size` bytes at each of its addresses, all within [first, end)."""

    program: int
    addresses: np.ndarray
    size: int
    first: int
    end: int


class Ranges(NamedTuple):
    """Bytes [start, end) of a program each; disjoint and in rising order."""

    starts: np.ndarray
    ends: np.ndarray
    programs: np.ndarray


@dataclass
class Launch:
    """Programs are numbered in the order of the grid, however they run. An atomic is a read and a write, for what two
    of them leave or return depends on which comes first."""

    kernel: str
    arguments: dict[str, torch.Tensor]
    grid: tuple[int, ...] = (1,)
    program: int = 0
    reads: list[Access] = field(default_factory=list)
    writes: list[Access] = field(default_factory=list)

    def __post_init__(self) -> None:
        storages = [tensor.untyped_storage() for tensor in self.arguments.values()]
        self._storages = {(storage.data_ptr(), storage.data_ptr() + storage.nbytes()) for storage in storages}

    def record(self, accesses: list[Access], pointers: np.ndarray, mask: np.ndarray, size: int) -> None:
        """An access of the program that runs, to be called before it happens: it may be of an address that is none."""
        addresses = pointers[mask]
        if not addresses.size:
            return
        access = Access(self.program, addresses, size, int(addresses.min()), int(addresses.max()) + size)
        if not any(start <= access.first and access.end <= end for start, end in self._storages):
            self._check_bounds(access)
        accesses.append(access)

    def _check_bounds(self, access: Access) -> None:
        is_inside = np.zeros(access.addresses.shape, bool)
        for start, end in self._storages:
            is_inside |= (access.addresses >= start) & (access.addresses + access.size <= end)
        if not is_inside.all():
            address = int(access.addresses[~is_inside][0])
            raise RaceError(f"{self.kernel}: program {self._name(access.program)} reaches {address:#x}, in no argument")

    def check(self) -> None:
        """Raises RaceError if a program wrote what another one read or wrote."""
        if not self.writes or np.prod(self.grid) == 1:
            return
        writes = self._disjoint_writes()
        for read in self.reads:
            if not _overlap(writes, read.first, read.end):
                continue
            # A lane overlaps the writes from its `first` to before its `last`.
            first = np.searchsorted(writes.ends, read.addresses, side="right")
            last = np.searchsorted(writes.starts, read.addresses + read.size, side="left")
            for i, j in np.unique(np.stack([first, last], axis=1)[last > first], axis=0):
                for write in range(i, j):
                    if writes.programs[write] != read.program:
                        lane = read.addresses[(first <= write) & (write < last)][0]
                        self._fail(writes, write, read.program, max(int(lane), int(writes.starts[write])), "reads")

    def _disjoint_writes(self) -> Ranges:
        by_program: dict[int, list[Access]] = {}
        for access in self.writes:
            by_program.setdefault(access.program, []).append(access)
        merged = [_merge(accesses) for accesses in by_program.values()]
        writes = Ranges(*(np.concatenate(parts) for parts in zip(*merged)))
        order = np.argsort(writes.starts)
        writes = Ranges(*(part[order] for part in writes))
        (clashes,) = np.nonzero(writes.starts[1:] < writes.ends[:-1])
        if clashes.size:
            write, other = clashes[0], clashes[0] + 1
            self._fail(writes, write, int(writes.programs[other]), int(writes.starts[other]), "writes")
        return writes

    def _fail(self, writes: Ranges, write: int, other: int, address: int, verb: str) -> None:
        raise RaceError(
            f"{self.kernel}: program {self._name(int(writes.programs[write]))} writes {self._place(address)}, which"
            f" program {self._name(other)} {verb} in the same launch (address {address:#x})"
        )

    def _name(self, program: int) -> str:
        index = [int(i) for i in np.unravel_index(program, self.grid)]
        while len(index) > 1 and self.grid[len(index) - 1] == 1:
            index.pop()
        return str(tuple(index)) if len(index) > 1 else str(index[0])

    def _place(self, address: int) -> str:
        """The address as an element of each argument that has it."""
        indices = {name: _index(tensor, address) for name, tensor in self.arguments.items()}
        places = [f"{name}{index}" for name, index in indices.items() if index is not None]
        return " = ".join(places) or "memory between the elements of its arguments"


def _merge(accesses: list[Access]) -> Ranges:
    """The bytes of one program's accesses."""
    starts = np.concatenate([access.addresses for access in accesses])
    ends = np.concatenate([access.addresses + access.size for access in accesses])
    order = np.argsort(starts)
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    is_gap = starts[1:] > ends[:-1]
    starts, ends = starts[np.append(True, is_gap)], ends[np.append(is_gap, True)]
    return Ranges(starts, ends, np.full(starts.shape, accesses[0].program))


def _overlap(ranges: Ranges, first: int, end: int) -> bool:
    i = int(np.searchsorted(ranges.ends, np.uint64(first), side="right"))
    return i < len(ranges.starts) and int(ranges.starts[i]) < end


def _index(tensor: torch.Tensor, address: int) -> list[int] | None:
    """Index of the element that has the address, None where the tensor has none."""
    offset = (address - tensor.data_ptr()) // tensor.itemsize
    index = [0] * tensor.dim()
    for dim in sorted(range(tensor.dim()), key=tensor.stride, reverse=True):
        if tensor.stride(dim):
            index[dim], offset = divmod(offset, tensor.stride(dim))
    is_inside = offset == 0 and all(0 <= i < n for i, n in zip(index, tensor.shape))
    return index if is_inside else None
