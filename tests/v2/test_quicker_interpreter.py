"""What `tests/interpreter/site/quicker_triton.py` remembers is what Triton itself works out."""

import functools
import inspect
import itertools
import math

import numpy as np
import pytest
import torch

if torch.cuda.is_available():
    pytest.skip("kernels are compiled here, not interpreted", allow_module_level=True)

import triton.language as tl
from triton.language import core
from triton.language.semantic import IncompatibleTypeErrorImpl, TritonSemantic
from triton.runtime import interpreter

SCALARS = [tl.int1, tl.int8, tl.int32, tl.int64, tl.uint8, tl.uint32, tl.float16, tl.bfloat16, tl.float32, tl.float64]
SHAPES = [[], [1], [8], [4, 8], [1, 8], [4, 1], [1, 1], [2, 4, 8]]


def outcome(function, *arguments):
    """What a call gives, or the error that it ends with."""
    try:
        return function(*arguments)
    except (TypeError, ValueError, IncompatibleTypeErrorImpl) as error:
        return type(error), str(error)


def tensor_of(shape):
    values = np.arange(np.prod(shape, dtype=int), dtype=np.int32).reshape(shape or [1])
    return core.tensor(
        interpreter.TensorHandle(values, tl.int32), tl.block_type(tl.int32, shape) if shape else tl.int32
    )


def test_two_operands_are_computed_in_tritons_type():
    own = TritonSemantic.computation_type_impl
    tritons = inspect.unwrap(own)
    assert own is not tritons
    semantic = interpreter.interpreter_semantic
    for asked in itertools.product(SCALARS, (False, True), SCALARS, (False, True), (False, True)):
        for _ in range(2):
            assert outcome(own, semantic, *asked) == outcome(tritons, semantic, *asked), asked


def test_tensors_are_broadcast_as_triton_does_it():
    own = TritonSemantic.broadcast_impl_value
    tritons = inspect.unwrap(own)
    assert own is not tritons
    for shapes in itertools.product(SHAPES, SHAPES):
        operands = [tensor_of(shape) for shape in shapes]
        got, expected = (outcome(way, interpreter.interpreter_semantic, *operands) for way in (own, tritons))
        if isinstance(expected[0], type):
            assert got == expected
            continue
        for one, other in zip(got, expected):
            assert one.type == other.type
            assert np.array_equal(one.handle.data, other.handle.data)
            assert one.handle.data.shape == other.handle.data.shape


NUMBERS = [0, 1, -3, 255, 2**40, True, 0.0, -0.0, 1.0, 0.1, math.inf, math.nan]
OPERANDS = [(dtype, shape) for dtype in SCALARS for shape in ([], [8], [4, 8])]
FLAGS = [((), {}), ((True, True), {}), ((False, False, True, True), {}), ((), {"div_or_mod": True})]
"""As Triton's operators give them: for sums, for quotients, for whole quotients."""


def operand_of(dtype, shape):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape or [1]).astype(interpreter._get_np_dtype(dtype))
    return core.tensor(interpreter.TensorHandle(values, dtype), tl.block_type(dtype, shape) if shape else dtype)


def assert_operands_are_tritons(left, right):
    """Asked twice: what is remembered must be as good as what is worked out."""
    own = TritonSemantic.binary_op_type_checking_impl
    tritons = inspect.unwrap(own)
    assert own is not tritons
    for (flags, named), _ in itertools.product(FLAGS, range(2)):
        asked = interpreter.interpreter_semantic, left, right, *flags
        got, expected = (outcome(functools.partial(way, **named), *asked) for way in (own, tritons))
        if isinstance(expected[0], type):
            assert got == expected
            continue
        for one, other in zip(got, expected, strict=True):
            assert one.type == other.type
            assert one.handle.dtype == other.handle.dtype
            assert one.handle.data.dtype == other.handle.data.dtype
            assert one.handle.data.shape == other.handle.data.shape
            assert one.handle.data.tobytes() == other.handle.data.tobytes()  # so that 0.0 is not -0.0


@pytest.mark.parametrize("dtype", SCALARS, ids=str)
def test_two_tensors_become_tritons_operands(dtype):
    for shape, other in itertools.product(([], [8], [4, 8]), OPERANDS):
        assert_operands_are_tritons(operand_of(dtype, shape), operand_of(*other))


@pytest.mark.parametrize("dtype", SCALARS, ids=str)
def test_a_number_beside_a_tensor_becomes_tritons_operand(dtype):
    for shape, number in itertools.product(([], [8], [4, 8]), NUMBERS):
        assert_operands_are_tritons(operand_of(dtype, shape), number)
        assert_operands_are_tritons(number, operand_of(dtype, shape))


def test_a_pointer_and_an_offset_become_tritons_operands():
    pointer = core.tensor(interpreter.TensorHandle(np.array([64], np.uint64), tl.int64), tl.pointer_type(tl.float32))
    for offset in (3, operand_of(tl.int32, []), operand_of(tl.int32, [8])):
        assert_operands_are_tritons(pointer, offset)
        assert_operands_are_tritons(offset, pointer)


def test_a_remembered_constant_cannot_be_changed():
    _, constant = TritonSemantic.binary_op_type_checking_impl(
        interpreter.interpreter_semantic, operand_of(tl.int32, [8]), 7
    )
    with pytest.raises(ValueError, match="read-only"):
        constant.handle.data[0] = 8


@pytest.mark.parametrize("shape", [[16], [4, 8], [core.constexpr(4), 8]])
def test_a_tensor_knows_its_shape(shape):
    for _ in range(2):
        block = tl.block_type(tl.float32, shape)
        values = core.tensor(None, block)
        sizes = [core._unwrap_if_constexpr(size) for size in shape]
        assert [size.value for size in values.shape] == list(block.shape) == sizes
        assert values.numel.value == block.numel == np.prod(sizes)
        assert block != tl.block_type(tl.int32, shape)


@pytest.mark.parametrize("shape", [[16.0], [12], [0], []])
def test_what_is_no_shape_is_refused_as_triton_does(shape):
    tl.block_type(tl.float32, [16])
    own = core.block_type.__init__
    block = object.__new__(core.block_type)
    refused = outcome(own, block, tl.float32, shape)
    assert refused == outcome(inspect.unwrap(own), block, tl.float32, shape)
    assert refused[0] in (TypeError, ValueError)


@pytest.mark.parametrize("scalar", SCALARS, ids=str)
def test_numpy_has_tritons_types(scalar):
    own = interpreter._get_np_dtype
    for dtype in (
        scalar,
        tl.block_type(scalar, [8]),
        tl.pointer_type(scalar),
        tl.block_type(tl.pointer_type(scalar), [8]),
    ):
        for _ in range(2):
            assert own(dtype) == inspect.unwrap(own)(dtype)
