"""Changes to triton 3.9 and vLLM 0.32 with which vLLM's Triton kernels run on a CPU, in Triton's interpreter."""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import triton.language as tl
from quicker_triton import make_triton_quicker
from triton import backends
from triton.language.extra import libdevice
from triton.runtime import interpreter


def change_triton(triton: Any) -> None:
    add_cpu_backend()
    make_triton_quicker()
    _patch_language_once()
    _label_comparisons()
    _skip_overflow_checks()
    _silence_numpy()
    _implement_log1p()


def add_cpu_backend() -> None:
    """On a CPU vLLM turns Triton off, and Model Runner V2 with it, unless Triton has a backend of this name."""
    backends.backends["cpu"] = backends.Backend(compiler=backends.BaseBackend, driver=InterpreterDriver)


class InterpreterDriver(backends.DriverBase):
    """The interpreter asks it for nothing. vLLM's flash-linear-attention does, and takes the error for a CPU."""

    @classmethod
    def is_active(cls) -> bool:
        return True

    def _has_none(self, *args: Any) -> Any:
        raise RuntimeError("the interpreter compiles for no device")

    get_current_target = get_active_torch_device = get_benchmarker = map_python_to_cpp_type = _has_none


def _patch_language_once() -> None:
    """The interpreter patches all of `triton.language` at every call of a jit function, nested ones too, and undoes
    it after every launch: 1 ms a call. Here it is patched at the first launch, for good.
    """
    patch, forever = interpreter._patch_lang, SimpleNamespace(restore=lambda: None)

    @functools.cache
    def patch_language() -> SimpleNamespace:
        patch(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
        tl.range = lambda *bounds, **options: map(LoopVariable, range(*bounds))
        return forever

    interpreter._patch_lang = lambda fn: patch_language()


class LoopVariable(int):
    """A Python int with the method of a tensor that vLLM's top-k kernel calls on it."""

    def to(self, dtype: Any) -> LoopVariable:
        return self


def _label_comparisons() -> None:
    """The interpreter labels a comparison with the type of its operands. Broadcasting a scalar comparison then turns
    it into that type, which is refused as a mask ("mask has unsupported dtype"), or by `&` if it is a float.
    """
    binary_op = interpreter.InterpreterBuilder.binary_op

    def labelled_binary_op(*args: Any) -> interpreter.TensorHandle:
        result = binary_op(*args)
        if result.data.dtype == np.bool_:
            result.dtype = tl.int1
        return result

    interpreter.InterpreterBuilder.binary_op = labelled_binary_op


def _skip_overflow_checks() -> None:
    """Sums and products of int32 are repeated in int64 for an assertion that is off: a quarter of the time."""
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def _silence_numpy() -> None:
    """inf - inf is a nan without a warning on a GPU, and kernels count on it."""
    executor = interpreter.GridExecutor
    executor.__call__ = np.errstate(all="ignore")(executor.__call__)


def _implement_log1p() -> None:
    """libdevice's functions are stubs for the compiler to replace. vLLM's rejection sampler calls this one."""

    def log1p(x: tl.tensor) -> tl.tensor:
        return tl.tensor(interpreter.interpreter_builder.unary_op(x.handle, np.log1p), x.type)

    libdevice.log1p = log1p
