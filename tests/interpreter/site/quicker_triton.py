"""Triton's language without what it works out again at every operation, which is half of the time.

The values are the same; only shapes, which nobody changes, and constants, which nobody can, are shared.
"""

from __future__ import annotations

import builtins
import functools
import math
from typing import Any

import numpy as np
from triton.language import core
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter


def make_triton_quicker() -> None:
    core.block_type.__init__ = _block_type_with_a_shared_shape(core.block_type.__init__)
    core.tensor.__init__ = _tensor_with_a_shared_shape
    core.dtype.__eq__ = _equal_if_the_same(core.dtype.__eq__)
    core._unwrap_if_constexpr = _unwrapped_at_once(core._unwrap_if_constexpr)
    interpreter._get_np_dtype = _numpy_types_by_name(interpreter._get_np_dtype)
    interpreter._patch_attr = _patch_attr
    TritonSemantic.computation_type_impl = _known_types(TritonSemantic.computation_type_impl)
    TritonSemantic.broadcast_impl_value = _broadcast_if_needed(TritonSemantic.broadcast_impl_value)
    TritonSemantic.binary_op_type_checking_impl = _known_operands(TritonSemantic.binary_op_type_checking_impl)


def _block_type_with_a_shared_shape(init: Any) -> Any:
    """Its shape is checked and counted once."""
    known: dict[Any, dict[str, Any]] = {}

    @functools.wraps(init)
    def initialize(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = builtins.tuple([size.value if type(size) is core.constexpr else size for size in shape])
        asked = sizes, builtins.tuple(map(type, sizes))  # 16.0 equals 16, and is no size
        if asked not in known:
            init(self, element_ty, shape)
            known[asked] = {"shape": self.shape, "numel": self.numel}
        self.__dict__ |= known[asked]
        self.element_ty = element_ty
        self.name = f"<{sizes}, {element_ty.name}>"

    return initialize


def _tensor_with_a_shared_shape(self: Any, handle: Any, type: Any) -> None:
    self.handle, self.type, self.dtype = handle, type, type.scalar
    sizes = type.shape if type.is_block() else _NO_SIZES
    shared = sizes.__dict__
    if "constexprs" not in shared:
        shared["constexprs"] = core.tuple([core.constexpr(size) for size in sizes]), core.constexpr(math.prod(sizes))
    self.shape, self.numel = shared["constexprs"]


_NO_SIZES = core.tuple([])


def _equal_if_the_same(equal: Any) -> Any:
    return functools.wraps(equal)(lambda self, other: self is other or equal(self, other))


def _known_types(computation_type: Any) -> Any:
    """The type that two operands are computed in, by their names."""
    known: dict[tuple[Any, ...], Any] = {}

    @functools.wraps(computation_type)
    def computation_type_impl(self: Any, a: Any, a_is_scalar: bool, b: Any, b_is_scalar: bool, divides: bool) -> Any:
        asked = a.name, a_is_scalar, b.name, b_is_scalar, divides
        if asked not in known:
            known[asked] = computation_type(self, a, a_is_scalar, b, b_is_scalar, divides)
        return known[asked]

    return computation_type_impl


def _broadcast_if_needed(broadcast: Any) -> Any:
    """Two tensors of one shape, or two scalars, stay as they are."""

    @functools.wraps(broadcast)
    def broadcast_impl_value(self: Any, left: Any, right: Any) -> Any:
        return (left, right) if left.shape is right.shape else broadcast(self, left, right)

    return broadcast_impl_value


def _known_operands(check: Any) -> Any:
    """Two tensors that are alike stay as they are. A number beside a tensor becomes a constant of its shape once."""
    constants: dict[Any, Any] = {}

    @functools.wraps(check)
    def binary_op_type_checking_impl(self: Any, left: Any, right: Any, *flags: bool, **named: bool) -> tuple[Any, Any]:
        if type(left) is type(right) is core.tensor:
            are_alike = left.dtype is right.dtype and left.shape is right.shape and left.dtype.name in _COMPUTED_IN
            return (left, right) if are_alike else check(self, left, right, *flags, **named)
        tensor, number = (left, right) if type(left) is core.tensor else (right, left)
        if type(tensor) is not core.tensor or type(number) not in (int, float):
            return check(self, left, right, *flags, **named)
        value = number if type(number) is int else number.hex()  # 0.0 equals -0.0, and nan does not equal itself
        asked = tensor.type.name, value, number is left, flags, *named.items()
        if asked not in constants:
            checked = check(self, left, right, *flags, **named)
            if checked[number is left] is not tensor:  # it was cast
                return checked
            constants[asked] = checked[number is right]
            constants[asked].handle.data.flags.writeable = False
        constant = constants[asked]
        return (constant, tensor) if number is left else (tensor, constant)

    return binary_op_type_checking_impl


_COMPUTED_IN = {"int32", "int64", "uint32", "uint64", "fp32", "fp64"}
"""Names of types in which two tensors of the same are computed, whatever is done with them."""


def _unwrapped_at_once(unwrap: Any) -> Any:
    """What is no container is looked at once."""
    containers = (builtins.list, builtins.tuple, core.tuple)

    @functools.wraps(unwrap)
    def unwrap_if_constexpr(value: Any) -> Any:
        if isinstance(value, core.constexpr):
            return value.value
        return unwrap(value) if isinstance(value, containers) else value

    return unwrap_if_constexpr


def _numpy_types_by_name(get_np_dtype: Any) -> Any:
    known: dict[str, np.dtype] = {}

    @functools.wraps(get_np_dtype)
    def get(dtype: Any) -> np.dtype:
        name = dtype.scalar.name
        if name not in known:
            known[name] = get_np_dtype(dtype)
        return known[name]

    return get


def _patch_attr(obj: Any, name: str, member: Any, builder: Any, scope: Any) -> None:
    """A builtin is called with the interpreter's semantic, and not asked first whether it was given one."""
    function = getattr(member, "__wrapped__", member)

    def with_semantic(*args: Any, **kwargs: Any) -> Any:
        kwargs["_semantic"] = interpreter.interpreter_semantic
        return function(*args, **kwargs)

    scope.set_attr(obj, name, with_semantic)
