"""This module finds out what Triton would compile for a launch, on a machine without a GPU.

It goes by Triton's own rules of specialisation.

Nothing is launched: the wrappers are called with tensors on the meta device, whose addresses say how they are aligned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

WARP = 32


def use_triton_without_a_gpu() -> None:
    """vLLM puts placeholders in Triton's place where no backend of Triton's is active. To be called before vLLM's
    kernels are imported, in a process without `TRITON_INTERPRET`."""
    from triton import backends

    class Driver(backends.DriverBase):
        """Abstract: nothing makes one."""

        @classmethod
        def is_active(cls) -> bool:
            return True

    backends.backends["cpu"] = backends.Backend(compiler=backends.BaseBackend, driver=Driver)  # type: ignore[type-abstract]
    import vllm.triton_utils

    del backends.backends["cpu"]  # or two of them are active
    assert vllm.triton_utils.HAS_TRITON


@dataclass(frozen=True)
class Variant:
    """One entry of a kernel's cache. Variants of a kernel are equal if Triton's cache keys are."""

    name: str
    key: str
    kernel: Any = field(compare=False)
    signature: dict[str, str] = field(compare=False)
    constants: dict[tuple, Any] = field(compare=False)
    attributes: dict[tuple, Any] = field(compare=False)
    options: dict[str, Any] = field(compare=False)
    arguments: dict[str, Any] = field(compare=False)

    @property
    def constexprs(self) -> dict[str, Any]:
        """The constants that the kernel's author named as such."""
        return {p.name: self.arguments[p.name] for p in self.kernel.params if p.is_constexpr}

    @property
    def specialized(self) -> dict[str, str]:
        """What the variant is specialised to for each other argument: its type, or its value, and its alignment."""
        found = {}
        for index, parameter in enumerate(self.kernel.params):
            if not parameter.is_constexpr:
                value = self.constants.get((index,), self.signature[parameter.name])
                found[parameter.name] = f"{value}{' aligned' if self.attributes.get((index,)) else ''}"
        return found

    def differences(self, other: Variant) -> list[str]:
        """Names of the arguments, constexpr or not, in which the two differ."""
        own, theirs = self.constexprs | self.specialized, other.constexprs | other.specialized
        return [name for name in own if own[name] != theirs[name]]


@contextmanager
def launches_become_variants(record: Callable[[Variant], None], package: str = "vllm_mtad") -> Iterator[None]:
    """Within this context, a launch of a kernel of the package is recorded, and no kernel is launched."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import JITFunction, compute_cache_key, create_function_from_signature

    backend = make_backend(GPUTarget("cuda", 90, WARP))  # CUDA's rules are the same for all of its architectures
    binders: dict[JITFunction, Any] = {}

    def run(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        if kernel.fn.__module__.split(".")[0] != package:
            return
        if kernel not in binders:
            binders[kernel] = create_function_from_signature(kernel.signature, kernel.params, backend)
        arguments, specialization, options = binders[kernel](*args, **kwargs)
        key = compute_cache_key({}, specialization, options)
        _, signature, constants, attributes = kernel._pack_args(backend, kwargs, arguments, specialization, options)
        given = {name: value for name, value in kwargs.items() if name not in arguments}
        attributes = {path: value for path, value in attributes.items() if value}
        name = kernel.fn.__name__
        record(Variant(name, key, kernel, signature, constants, attributes, given, arguments))

    launch, JITFunction.run = JITFunction.run, run
    try:
        yield
    finally:
        JITFunction.run = launch
