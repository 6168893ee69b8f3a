"""The watch over captures finds each thing that it is for, and nothing else."""

import gc

import pytest
import torch
from vllm.triton_utils import tl, triton

from tests.v2.capture import Captured, CaptureError, Watch


@triton.jit
def _double_kernel(x_ptr, out_ptr):
    i = tl.arange(0, 4)
    tl.store(out_ptr + i, tl.load(x_ptr + i) * 2)


def double(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    _double_kernel[(1,)](x, out)
    return out


X, MASK = torch.arange(4.0), torch.tensor([True, False, True, False])

FORBIDDEN = {
    "a number read on the host": lambda: float(X.sum()),
    "a branch on data": lambda: 1 if X.sum() > 3 else 2,
    "nonzero": lambda: X.nonzero(),
    "a boolean index": lambda: X[MASK],
    "an assignment by a boolean index": lambda: X.clone().__setitem__(MASK, X[:2]),
    "masked_select": lambda: X.masked_select(MASK),
    "unique": lambda: X.unique(),
    "equal": lambda: torch.equal(X, X),
    "repeats of unknown number": lambda: torch.repeat_interleave(X, torch.tensor(2).expand(4)),
    "a tensor from a list": lambda: X + torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "a copy to another device": lambda: X.to("meta"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_capture_forbids(what):
    with pytest.raises(CaptureError), Watch():
        FORBIDDEN[what]()


def test_what_a_graph_can_do_passes():
    out, index = torch.zeros(4), torch.tensor([3, 1, 0, 0])
    with Watch():
        y = (X * 2).clamp_(max=3).masked_fill(MASK, 0.0)[index]
        out.copy_(torch.where(MASK, y, torch.arange(4.0)).repeat_interleave(2, output_size=8)[::2])
        double(out, torch.empty(4))


class Owner:
    """Something whose method is captured."""

    def __init__(self) -> None:
        self.x, self.out = torch.arange(4.0), torch.zeros(4)

    def run(self) -> torch.Tensor:
        return self.out.copy_(self.x * 2)

    def launch(self) -> torch.Tensor:
        return double(self.x, self.out)


@pytest.mark.parametrize("name", ["run", "launch"])
def test_a_replay_sees_new_values_at_the_same_place(name):
    owner = Owner()
    captured = Captured(getattr(owner, name), lambda: getattr(owner, name))
    owner.x.fill_(7.0)
    assert captured.replay().tolist() == [14.0] * 4


@pytest.mark.parametrize("name", ["run", "launch"])
def test_a_tensor_that_was_replaced_since_is_found(name):
    owner = Owner()
    captured = Captured(getattr(owner, name), lambda: getattr(owner, name))
    before, owner.x = owner.x, torch.full((4,), 7.0)
    with pytest.raises(CaptureError, match=r"float32 tensor of shape \[4\]"):
        captured.replay()
    del before


def test_data_of_the_host_that_is_new_at_each_call_is_found():
    def run():
        return X + torch.from_numpy(X.numpy() + 1)

    kept = [run]
    with pytest.raises(CaptureError):
        Captured(run, lambda: kept[0]).replay()


def test_memory_that_only_the_captured_function_held_is_found():
    def closure():
        x = torch.arange(4.0)
        return lambda: x + 1

    captured = Captured(closure(), closure)
    gc.collect()
    with pytest.raises(CaptureError, match="nobody holds"):
        captured.replay()


def test_what_somebody_else_renews_may_be_another_tensor():
    owner = Owner()
    captured = Captured(owner.run, lambda: owner.run, lambda: [owner.x])
    owner.x = torch.full((4,), 7.0)
    assert captured.replay().tolist() == [14.0] * 4
