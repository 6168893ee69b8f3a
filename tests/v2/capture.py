"""What a CUDA graph may not do, found on a CPU: what would be captured is called, and what it does is watched.

A graph repeats its kernels on the addresses that they had at capture. So while it is captured nothing may wait for the
device or bring data from the host, and at each replay the memory that it reads must be there still: held by somebody,
and what the function would read if it were called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense: "reads a number on the host",
    aten.nonzero: "has a shape that depends on data",
    aten.masked_select: "has a shape that depends on data",
    aten._unique2: "has a shape that depends on data",
    aten.equal: "reads a number on the host",
    aten.lift_fresh: "brings data from the host",
}


class CaptureError(AssertionError):
    """Something that a CUDA graph cannot do, or would do on memory that is not what it was."""


class Watch(TorchDispatchMode):
    """Raises CaptureError at what a capture forbids, and collects the memory that is used and was not made inside.

    Args:
        allowed: addresses of storages that may be used; None allows all.
    """

    def __init__(self, allowed: Iterable[int] | None = None) -> None:
        super().__init__()
        self.outside: dict[int, StorageWeakRef] = {}
        self._allowed = None if allowed is None else set(allowed)
        self._made: dict[int, torch.Tensor] = {}  # held, so that no address is given out twice

    def __enter__(self) -> Watch:
        self._launch = launch = GridExecutor.__call__

        def watched_launch(executor: Any, *args: Any, **kwargs: Any) -> Any:
            self._use("a kernel", (args, kwargs))
            return launch(executor, *args, **kwargs)

        GridExecutor.__call__ = watched_launch
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        GridExecutor.__call__ = self._launch
        super().__exit__(*exception)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet in WAITS:
            raise CaptureError(f"{packet} {WAITS[packet]}")
        if packet in (aten.index, aten.index_put, aten.index_put_) and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in args[1]
        ):
            raise CaptureError(f"{packet} with a boolean index has a shape that depends on data")
        if func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
            raise CaptureError(f"{packet} without output_size has a shape that depends on data")
        if packet in (aten._to_copy, aten.copy_):
            self._check_devices(packet, args, kwargs)
        self._use(str(packet), (args, kwargs))
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            if (address := _address(tensor)) not in self.outside:
                self._made[address] = tensor
        return result

    def _check_devices(self, packet: Any, args: Any, kwargs: Any) -> None:
        devices = {tensor.device for tensor in _tensors(args)} | {torch.device(kwargs.get("device") or args[0].device)}
        if len(devices) > 1:
            raise CaptureError(f"{packet} copies between devices")

    def _use(self, user: str, arguments: Any) -> None:
        for tensor in _tensors(arguments):
            address = _address(tensor)
            if not address or address in self._made:
                continue
            if self._allowed is not None and address not in self._allowed:
                raise CaptureError(
                    f"{user} uses a {tensor.dtype} tensor of shape {list(tensor.shape)}, which is neither made inside"
                    " nor the memory that was captured"
                )
            self.outside.setdefault(address, StorageWeakRef(tensor.untyped_storage()))


class Captured:
    """A function as a graph has it. `replay` calls it, and fails where a graph would go wrong.

    Args:
        function: what is captured.
        again: makes the function that a replay calls. What only `function` holds is gone by then, as it is for a graph.
        renewed: gives tensors that somebody else renews in place on a GPU, and puts others in their place here.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        again: Callable[[], Callable[[], Any]],
        renewed: Callable[[], Iterable[torch.Tensor]] = tuple,
    ) -> None:
        with Watch() as watch:
            function()
        exempt = {_address(tensor) for tensor in renewed()}
        self._outside = {at: storage for at, storage in watch.outside.items() if at not in exempt}
        del function
        self._function, self._renewed = again(), renewed

    def replay(self) -> Any:
        if any(storage.expired() for storage in self._outside.values()):
            raise CaptureError("the graph reads memory that nobody holds any more")
        with Watch(allowed=self._outside.keys() | {_address(tensor) for tensor in self._renewed()}):
            return self._function()


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
