"""The race finder itself: kernels that race fail under it, kernels that do not pass, and order and poison show."""

import os
from pathlib import Path

import pytest
import torch
from vllm.triton_utils import tl, triton

from tests.v2.conftest import FINDING_RACES

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs Triton's interpreter: python -m tests.interpreter", allow_module_level=True)

from triton.runtime.errors import InterpreterError

from tests.interpreter.launch import RaceError
from tests.interpreter.poison import poison_of
from tests.interpreter.races import SEED_VARIABLE, finding_races

N = 12
SEEDS = pytest.mark.parametrize("seed", range(4))


@triton.jit
def _two_write_one_place_kernel(out_ptr, same_value: tl.constexpr):
    program = tl.program_id(0)
    tl.store(out_ptr + program // 2, 7 if same_value else program)


@triton.jit
def _blocks_overlap_by_one_kernel(out_ptr):
    tl.store(out_ptr + tl.program_id(0) * 3 + tl.arange(0, 4), tl.zeros([4], tl.int32))


@triton.jit
def _halves_overlap_kernel(out_ptr):
    """Eight bytes at every fourth."""
    tl.store((out_ptr + tl.program_id(0)).to(tl.pointer_type(tl.int64)), 0)


@triton.jit
def _add_one_to_the_neighbour_kernel(x_ptr):
    program = tl.program_id(0)
    tl.store(x_ptr + program, tl.load(x_ptr + program + 1) + 1)


@triton.jit
def _take_a_ticket_kernel(counter_ptr, ticket_ptr):
    tl.store(ticket_ptr + tl.program_id(0), tl.atomic_add(counter_ptr, 1))


@triton.jit
def _write_by_last_axis_kernel(out_ptr):
    tl.store(out_ptr + tl.program_id(2), 0)


@triton.jit
def _own_rows_kernel(x_ptr, out_ptr):
    """Three lanes are a program's own, the fourth is masked and the next one's. All read all of x."""
    lane = tl.arange(0, 4)
    at = tl.program_id(0) * 3 + lane
    total = tl.sum(tl.load(x_ptr + lane), axis=0)
    tl.store(out_ptr + at, at + total, mask=lane < 3)
    tl.store(out_ptr + at, tl.load(out_ptr + at, mask=lane < 3, other=0) * 2, mask=lane < 3)


@triton.jit
def _copy_kernel(x_ptr, out_ptr):
    at = tl.program_id(0)
    tl.store(out_ptr + at, tl.load(x_ptr + at))


@triton.jit
def _gather_kernel(index_ptr, x_ptr, out_ptr, stride):
    at = tl.program_id(0)
    tl.store(out_ptr + at, tl.load(x_ptr + tl.load(index_ptr + at) * stride))


def zeros(n: int = 2 * N) -> torch.Tensor:
    return torch.zeros(n, dtype=torch.int32)


@triton.jit
def _add_one_to_its_own_kernel(x_ptr):
    at = x_ptr + tl.program_id(0)
    tl.store(at, tl.load(at) + 1)


def test_a_kernel_that_reads_its_own_output_fails_when_it_is_repeated():
    x = zeros()
    with (
        finding_races(repeated="tests"),
        pytest.raises(RaceError, match="_add_one_to_its_own_kernel leaves another x_ptr"),
    ):
        _add_one_to_its_own_kernel[(N,)](x)
    with finding_races():
        _add_one_to_its_own_kernel[(N,)](x)
    assert x[:N].eq(3).all()


def test_a_kernel_that_only_writes_may_be_repeated():
    out = zeros()
    with finding_races(repeated="tests") as finder:
        _copy_kernel[(N,)](torch.arange(2 * N, dtype=torch.int32), out)
        _copy_kernel[(N,)](torch.arange(2 * N, dtype=torch.int32), out)
    assert finder.checked_launches == 3, "the first of them twice"
    assert out[:N].tolist() == list(range(N))


@SEEDS
@pytest.mark.parametrize("same_value", [False, True])
def test_two_programs_that_write_one_place_race_even_with_the_same_value(seed, same_value):
    out = zeros()
    message = (
        rf"_two_write_one_place_kernel: program \d writes out_ptr\[0\], which program \d writes .*{out.data_ptr():#x}"
    )
    with finding_races(seed), pytest.raises(RaceError, match=message):
        _two_write_one_place_kernel[(N,)](out, same_value=same_value)


@SEEDS
@pytest.mark.parametrize(("kernel", "place"), [(_blocks_overlap_by_one_kernel, "[3]"), (_halves_overlap_kernel, "[1]")])
def test_writes_race_where_they_overlap_in_part(seed, kernel, place):
    with finding_races(seed), pytest.raises(RaceError, match=r"program 0 writes.* program 1 writes") as error:
        kernel[(N,)](zeros(4 * N))
    assert f"out_ptr{place}" in str(error.value)


@SEEDS
def test_a_program_that_reads_what_another_one_writes_races(seed):
    with finding_races(seed), pytest.raises(RaceError, match=r"program (\d+) writes x_ptr\[\1\], .* \d+ reads"):
        _add_one_to_the_neighbour_kernel[(N,)](zeros())


def test_atomics_on_one_place_race():
    with finding_races(), pytest.raises(RaceError, match=r"writes counter_ptr\[0\], which .* writes"):
        _take_a_ticket_kernel[(N,)](zeros(1), zeros())


def test_the_message_names_programs_and_elements_in_all_their_dimensions():
    out = torch.zeros(3, 8, dtype=torch.int32)[:, 2:4]
    with finding_races(), pytest.raises(RaceError, match=r"program \(\d, \d, 0\) writes out_ptr\[0, 0\]"):
        _write_by_last_axis_kernel[(2, 3, 2)](out)


def test_a_place_that_two_arguments_have_is_named_by_both():
    x = zeros(N)
    with finding_races(), pytest.raises(RaceError, match=r"x_ptr\[(\d+)\] = out_ptr\[\d+\], .* reads"):
        _copy_kernel[(N - 1,)](x[1:], x)


@SEEDS
def test_own_writes_and_shared_reads_and_masked_lanes_do_not_race(seed):
    x, out = torch.arange(4, dtype=torch.int32), zeros(3 * N)
    with finding_races(seed) as finder:
        _own_rows_kernel[(N,)](x, out)
        _own_rows_kernel[(N,)](x, out)  # another launch may write the same places
    assert torch.equal(out, (torch.arange(3 * N, dtype=torch.int32) + 6) * 2)
    assert finder.checked_launches == 2


def test_a_program_alone_does_not_race():
    with finding_races():
        _two_write_one_place_kernel[(1,)](zeros(), same_value=False)
        _add_one_to_the_neighbour_kernel[(1,)](zeros())


def tickets(seed: int | None = None, test: str = "") -> list[int]:
    tickets = zeros(N)
    with finding_races(seed, checked=()) as finder:
        finder.draw_orders_of(test)
        _take_a_ticket_kernel[(N,)](zeros(1), tickets)
    return tickets.tolist()


def test_programs_run_in_an_order_that_the_seed_and_the_test_give():
    orders = [tickets(0), tickets(1), tickets(0, "of another test")]
    assert all(sorted(order) == list(range(N)) for order in orders)
    assert len({*map(tuple, orders)} | {tuple(range(N))}) == 4
    assert orders == [tickets(0), tickets(1), tickets(0, "of another test")]


def test_the_environment_gives_the_seed(monkeypatch):
    monkeypatch.setenv(SEED_VARIABLE, "1")
    assert tickets() == tickets(1)


@SEEDS
def test_a_result_that_depends_on_the_order_shows(seed):
    in_grid_order, in_random_order = zeros(N + 1), zeros(N + 1)
    _add_one_to_the_neighbour_kernel[(N,)](in_grid_order)
    assert in_grid_order.tolist() == [1] * N + [0]
    with finding_races(seed, checked=()):
        _add_one_to_the_neighbour_kernel[(N,)](in_random_order)
    assert not torch.equal(in_random_order, in_grid_order)


def test_kernels_of_other_packages_are_not_checked():
    with finding_races(checked=("vllm_mtad",)) as finder:
        _two_write_one_place_kernel[(N,)](zeros(), same_value=False)
    assert finder.checked_launches == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32, torch.int64, torch.uint8, torch.bool])
def test_reading_what_nobody_wrote_shows(dtype):
    poison = torch.full((N,), poison_of(dtype), dtype=dtype)
    with finding_races():
        for x in (
            torch.empty(N, dtype=dtype),
            torch.empty_like(zeros(N), dtype=dtype),
            zeros(1).new_empty(N, dtype=dtype),
        ):
            out = torch.zeros(N, dtype=dtype)
            _copy_kernel[(N,)](x, out)
            torch.testing.assert_close(out, poison, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("stride", [1, 2, 64])
def test_an_index_that_nobody_wrote_is_refused_before_it_is_followed(dtype, stride):
    with (
        finding_races(),
        pytest.raises(InterpreterError, match=r"_gather_kernel: program .* reaches .* in no argument"),
    ):
        _gather_kernel[(N,)](torch.empty(N, dtype=dtype), zeros(), zeros(), stride)


def test_one_element_past_the_end_is_refused():
    with finding_races(), pytest.raises(InterpreterError, match=r"program 11 reaches .* in no argument"):
        _add_one_to_the_neighbour_kernel[(N,)](zeros(N))


def test_nothing_is_left_behind():
    empty, out = torch.empty, zeros()
    with finding_races():
        assert torch.empty is not empty
    assert torch.empty is empty
    _two_write_one_place_kernel[(N,)](out, same_value=False)
    assert out[: N // 2].tolist() == list(range(1, N, 2)), "the later program's value, in the order of the grid"


def test_the_modules_that_look_for_races_exist():
    assert all((Path(__file__).parent / name).is_file() for name in FINDING_RACES)
