"""Warping against vLLM's own processors, applied in vLLM's order."""

import pytest
import torch
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

from vllm_mtad.algorithm.warp import WarpedRows, WarpParameters, warp

VOCAB = 300


def vllm_order(logits, temperature, top_k, top_p, min_p):
    """`Sampler.sample` of vLLM: temperature, min-p (MinPLogitsProcessor.apply), then top-k and top-p."""
    logits = logits / temperature[:, None]
    probs = logits.softmax(1)
    logits = logits.masked_fill(probs < probs.amax(1, keepdim=True) * min_p[:, None], -torch.inf)
    k = torch.where((top_k <= 0) | (top_k >= VOCAB), VOCAB, top_k)
    return apply_top_k_top_p_pytorch(logits.clone(), k, top_p).log_softmax(1)


def dense(rows: WarpedRows) -> torch.Tensor:
    if rows.token_ids is None:
        return rows.log_probs
    return torch.full((len(rows.log_probs), VOCAB), -torch.inf).scatter_(1, rows.token_ids, rows.log_probs)


CASES = {
    "temperature only": {"top_k": [0] * 4, "top_p": [1.0] * 4, "min_p": [0.0] * 4},
    "the paper's: top-k and top-p": {"top_k": [10] * 4, "top_p": [0.9] * 4, "min_p": [0.0] * 4},
    "different top-k": {"top_k": [1, 3, 50, 299], "top_p": [1.0] * 4, "min_p": [0.0] * 4},
    "top-k on some rows": {"top_k": [5, 0, 17, VOCAB + 9], "top_p": [1.0] * 4, "min_p": [0.0] * 4},
    "top-p only": {"top_k": [0] * 4, "top_p": [0.5, 0.9, 0.1, 0.99], "min_p": [0.0] * 4},
    "top-p on some rows": {"top_k": [0] * 4, "top_p": [0.5, 1.0, 0.3, 1.0], "min_p": [0.0] * 4},
    "top-k here, top-p there": {"top_k": [4, 0, 0, 90], "top_p": [1.0, 0.8, 1.0, 0.7], "min_p": [0.0] * 4},
    "min-p before the others": {"top_k": [20, 0, 5, 0], "top_p": [0.95, 1.0, 0.8, 0.6], "min_p": [0.05, 0.2, 0.0, 0.5]},
    "min-p only": {"top_k": [0] * 4, "top_p": [1.0] * 4, "min_p": [0.3, 0.0, 0.01, 1.0]},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("spread", [0.3, 3.0], ids=["flat", "peaked"])
def test_follows_vllms_order(case, spread):
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(1)) * spread
    temperature = torch.tensor([1.0, 0.7, 1.3, 0.5])
    top_k, top_p, min_p = (torch.tensor(case[name]) for name in ("top_k", "top_p", "min_p"))
    parameters = WarpParameters.build(temperature, VOCAB, top_k, top_p, min_p)
    got, expected = dense(warp(logits.clone(), parameters)), vllm_order(logits, temperature, top_k, top_p, min_p)
    assert torch.equal(got == -torch.inf, expected == -torch.inf)
    kept = expected > -torch.inf
    torch.testing.assert_close(got[kept], expected[kept], atol=1e-4, rtol=1e-4)


def test_truncated_rows_hold_candidates_only():
    parameters = WarpParameters.build(torch.ones(2), VOCAB, torch.tensor([10, 5]), torch.tensor([0.9, 1.0]))
    assert warp(torch.randn(2, VOCAB), parameters).log_probs.shape == (2, 10)


def test_greedy_rows_are_one_hot_at_the_first_maximum():
    logits = torch.zeros(3, VOCAB)
    logits[:, [40, 200]] = 1.0
    for temperature, top_k in (([0.0] * 3, [0] * 3), ([0.0, 1.0, 0.0], [0, 0, 0]), ([0.0, 1.0, 0.0], [0, 7, 0])):
        rows = warp(logits.clone(), WarpParameters.build(torch.tensor(temperature), VOCAB, torch.tensor(top_k)))
        for row, t in enumerate(temperature):
            if t == 0:
                assert (dense(rows)[row] > -torch.inf).nonzero().flatten().tolist() == [40]
                assert rows.log_prob_of(torch.tensor([40] * 3))[row] == 0
                assert rows.log_prob_of(torch.tensor([200] * 3))[row] == -torch.inf


def test_greedy_as_joint_takes_cold_rows_at_temperature_one_untruncated():
    logits = torch.randn(2, VOCAB)
    parameters = WarpParameters.build(
        torch.tensor([0.0, 0.5]), VOCAB, torch.tensor([3, 3]), torch.tensor([0.5, 1.0]), torch.tensor([0.9, 0.0]),
        greedy_as_joint=True,
    )  # fmt: skip
    rows = warp(logits.clone(), parameters)
    torch.testing.assert_close(dense(rows)[0], logits[0].log_softmax(0), atol=1e-5, rtol=1e-5)
    assert (dense(rows)[1] > -torch.inf).sum() == 3


def test_log_prob_of_ids_without_mass_or_below_zero():
    full = WarpedRows(torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log())
    some = WarpedRows(torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log(), torch.tensor([[4, 9], [9, 4]]))
    assert full.log_prob_of(torch.tensor([-1, 1])).tolist() == [-torch.inf, -torch.inf]
    assert some.log_prob_of(torch.tensor([-1, 4])).tolist() == [-torch.inf, -torch.inf]
    assert some.log_prob_of(torch.tensor([9, 7]))[0] == torch.tensor(0.5).log()


@pytest.mark.parametrize("others", [None, "untruncated", "top-k"])
def test_a_nucleus_of_a_large_vocabulary_is_a_share_of_all_its_mass(others):
    """Found in a head of the row that holds more than top_p, but not all, of the mass."""
    vocab, top_p = 20_000, 0.9
    logits = torch.randn(2, vocab, generator=torch.Generator().manual_seed(0)) * 2.5
    p = torch.tensor([top_p, 1.0 if others else top_p])
    k = torch.tensor([0, 40 if others == "top-k" else 0])
    rows = warp(logits.clone(), WarpParameters.build(torch.ones(2), vocab, k, p))
    assert others == "untruncated" or rows.log_probs.shape[1] < vocab
    expected = apply_top_k_top_p_pytorch(logits.clone(), torch.where(k > 0, k, vocab), p) > -torch.inf
    assert (rows.log_probs > -torch.inf).sum(1).tolist() == expected.sum(1).tolist()


def test_ties_at_the_top_k_cut_do_not_depend_on_the_other_rows():
    logits = torch.tensor([[3.0, 2.0, 1.0, 1.0, 1.0, 0.0], [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]])
    alone = warp(logits[:1].clone(), WarpParameters.build(torch.ones(1), 6, torch.tensor([3])))
    mixed = warp(logits.clone(), WarpParameters.build(torch.ones(2), 6, torch.tensor([3, 0])))
    assert (alone.log_probs > -torch.inf).sum() == (mixed.log_probs[0] > -torch.inf).sum() == 3


def test_nucleus_is_found_past_the_first_look():
    """A flat row needs more candidates than the first selection holds."""
    vocab = 2000
    logits = torch.randn(1, vocab) * 0.01
    rows = warp(logits.clone(), WarpParameters.build(torch.ones(1), vocab, top_p=torch.tensor([0.9])))
    assert 1700 < (rows.log_probs > -torch.inf).sum() < 1900


def test_the_likeliest_are_all_that_are_as_likely_as_the_last_of_them():
    log_probs = torch.tensor([[0.1, 0.3, 0.2, 0.2, 0.2], [0.5, 0.1, 0.25, 0.1, 0.05]]).log()
    likeliest = WarpedRows(log_probs).likeliest(2)
    assert likeliest.log_probs.shape == (2, 4)
    assert sorted(likeliest.token_ids[0].tolist()) == [1, 2, 3, 4]
    assert set(likeliest.token_ids[1, :2].tolist()) == {0, 2}
    named = WarpedRows(log_probs, torch.arange(5).expand(2, -1) + 40).likeliest(1)
    assert named.token_ids[:, 0].tolist() == [41, 40]
    everything = WarpedRows(log_probs)
    assert everything.likeliest(5) is everything


def test_nan_leaves_as_many_candidates_as_were_asked_for():
    assert WarpedRows(torch.full((2, 9), torch.nan)).likeliest(3).log_probs.shape == (2, 3)
