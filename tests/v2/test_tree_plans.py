"""A plan of trees stays where a captured graph reads it."""

from types import SimpleNamespace

import torch

from vllm_mtad.runners.v2.tree_verification import TreeVerification


class Reader:
    """Gives another tensor each time, as FlashAttention's scheduler does."""

    def __init__(self, keeps_plan: bool) -> None:
        self.keeps_plan, self.calls = keeps_plan, 0

    def plan(self, prefixes):
        self.calls += 1
        return torch.full((4 * len(prefixes.lens),), self.calls, dtype=torch.int32)


def plans_of(reader, sizes):
    verification = SimpleNamespace(_plans={})
    return [
        TreeVerification._plan(verification, reader, SimpleNamespace(lens=torch.zeros(n), page_size=16)) for n in sizes
    ]


def test_a_batch_of_the_same_size_finds_its_plan_renewed_in_place():
    first, other, again = plans_of(Reader(keeps_plan=False), (3, 5, 3))
    assert again.data_ptr() == first.data_ptr() != other.data_ptr()
    assert first.eq(3).all()
    assert other.eq(2).all()


def test_a_reader_that_keeps_its_plan_is_left_alone():
    first, again = plans_of(Reader(keeps_plan=True), (3, 3))
    assert first.data_ptr() != again.data_ptr()
