"""What `benchmarks.gpu_checks.trees` gives to xformers is what our kernels get, in xformers' own function.

Its kernels need a GPU. Dense attention stands in for them: under the masks that they would be given.
"""

from dataclasses import replace

import pytest
import torch
from xformers.ops import tree_attention as xformers

from benchmarks.gpu_checks.models import TINY_TARGET
from benchmarks.gpu_checks.trees import TOLERANCE, TreeInputs, dense

CONTEXT = 50


def dense_partial(q, k, v, attn_bias, op):
    """(output, log-sum-exp) of `[1, rows, groups, heads, size]`, as memory_efficient_attention_partial."""
    assert isinstance(attn_bias, xformers.PagedBlockDiagonalPaddedKeysMask)
    logits = torch.einsum("bmghd,bnghd->bghmn", q, k) * q.shape[-1] ** -0.5
    logits = logits + attn_bias.materialize((q.shape[1], k.shape[1]))
    out = torch.einsum("bghmn,bnghd->bmghd", logits.softmax(-1), v)
    return out, logits.logsumexp(-1)


def dense_suffix(q, k, v, attn_bias, op):
    logits = torch.einsum("bmghd,bnghd->bghmn", q, k) * q.shape[-1] ** -0.5 + attn_bias
    return torch.einsum("bghmn,bnghd->bmghd", logits.softmax(-1), v), logits.logsumexp(-1)


def merge(outs, lses, output_dtype):
    weights = torch.stack(lses).softmax(0).permute(0, 1, 4, 2, 3).unsqueeze(-1)
    return (torch.stack(outs) * weights).sum(0).to(output_dtype), None


@pytest.fixture
def without_its_kernels(monkeypatch):
    monkeypatch.setattr(xformers, "select_prefix_op", lambda *args: None)
    monkeypatch.setattr(xformers, "memory_efficient_attention_partial", dense_partial)
    monkeypatch.setattr(xformers, "memory_efficient_attention_forward_requires_grad", dense_suffix)
    monkeypatch.setattr(xformers, "merge_attentions", merge)


@pytest.fixture
def inputs(device):
    return TreeInputs.random(TINY_TARGET, 3, CONTEXT, torch.float32, device)


def theirs(inputs):
    return xformers.tree_attention(**inputs.for_xformers()).flatten(0, 1).flatten(1, 2)


def largest_difference(one, other):
    return float((one - other).abs().max())


def test_our_kernels_give_what_xformers_gives(inputs, without_its_kernels):
    expected = theirs(inputs)
    assert largest_difference(inputs.ours(flash=False).attend(), expected) < 1e-5
    assert largest_difference(dense(inputs), expected) < 1e-5


def test_another_tree_or_prefix_is_seen(inputs, without_its_kernels):
    found, least = inputs.ours(flash=False).attend(), 10 * TOLERANCE[torch.float32]
    chosen_alone = replace(inputs, parents=torch.tensor([*range(4), *[0] * 12], dtype=torch.int32))
    for wrong in (
        chosen_alone,
        replace(inputs, context=CONTEXT - 1),
        replace(inputs, block_table=inputs.block_table.flip(0)),
    ):
        assert largest_difference(theirs(wrong), found) > least
