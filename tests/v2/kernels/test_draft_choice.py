"""Which beams the target sees, on the device, against `algorithm.tree`."""

import pytest
import torch

from tests.v2.kernels.rounds import make_round, make_round_of_both_kinds
from vllm_mtad.algorithm.tree import draft_tree


def assert_the_algorithms_tree(batch, logits):
    drafts, trees, _ = batch.run(logits)
    chosen, steps = batch.expected(logits)
    expected = draft_tree(steps, batch.num_candidates, chosen)
    states, is_node = batch.states, expected.tokens >= 0
    assert torch.equal(drafts[is_node], expected.tokens[is_node])
    assert torch.equal(trees.parents[states][is_node], expected.parents[is_node].int())
    torch.testing.assert_close(trees.log_q[states][is_node], expected.log_q[is_node], atol=2e-5, rtol=1e-5)
    assert (trees.log_q[states][~is_node] == torch.inf).all(), "what is no node must not be accepted"
    assert ((drafts[~is_node] >= 0) & (drafts[~is_node] < batch.vocab_size)).all(), "but it is fed to the target"
    assert ((trees.parents >= 0) & (trees.parents <= torch.arange(trees.parents.shape[1], device=drafts.device))).all()
    return is_node


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize(("beam_width", "num_candidates"), [(2, 2), (4, 2), (4, 4), (6, 3)])
@pytest.mark.parametrize("gamma", [1, 3, 5])
def test_the_nodes_are_the_algorithms(device, gamma, beam_width, num_candidates, lossless):
    """Temperatures of 0.7, 1, 1.3 and 0 in one batch."""
    for seed in range(2):
        batch, logits = make_round(
            device, 6, beam_width, gamma, 61, seed=seed, num_candidates=num_candidates, lossless=lossless
        )
        is_node = assert_the_algorithms_tree(batch, logits)
        assert is_node.all() or num_candidates < beam_width, "with every beam goes its parent"


def test_greedy_requests_of_both_kinds_share_a_batch(device):
    assert_the_algorithms_tree(*make_round_of_both_kinds(device, num_candidates=2))


def test_few_tokens_with_mass_leave_places_empty(device):
    batch, logits = make_round(device, 4, 4, 3, vocab_size=40, is_warped=True, num_candidates=4)
    logits[0][:, 2:] = -torch.inf
    logits[1][:, 3:] = -torch.inf
    is_node = assert_the_algorithms_tree(batch, logits)
    assert not is_node[:, 4:6].all()


def test_a_lossless_greedy_tree_has_the_argmax_chain_first(device):
    batch, logits = make_round(device, 8, 4, 3, vocab_size=50, num_candidates=2)
    greedy = (batch.temperature[batch.states] == 0).nonzero()[:, 0]
    for rows in logits[1:]:
        rows.view(8, 4, -1)[:, 0] *= 0.05  # by weight the argmax chain, in slot 0, loses against the others
    drafts, _, _ = batch.run(logits)
    chain = torch.stack([logits[0].argmax(1), *(rows.view(8, 4, -1)[:, 0].argmax(1) for rows in logits[1:])], 1)
    assert len(greedy)
    assert torch.equal(drafts[greedy][:, :3], chain[greedy])
    assert_the_algorithms_tree(batch, logits)
    one, _, _ = batch.run(logits, num_candidates=1)
    assert torch.equal(one[:, :3], drafts[:, :3]), "with one candidate it is the same draft"
    assert (one[:, 3:] == -5).all()


def test_past_the_drafts_window_no_node_has_a_q(device):
    batch, logits = make_round(device, 2, 4, 3, vocab_size=50, num_candidates=3)
    batch.roots = torch.tensor([17, 10], device=device)
    _, trees, _ = batch.run(logits, window=18)
    known = trees.log_q[batch.states[0]].isfinite()
    assert known[:3].tolist() == [True, False, False]
    assert known[3:5].any()
    assert not known[5:].any()


def test_padding_writes_no_tree(device):
    batch, logits = make_round(device, 3, 4, 3, vocab_size=50, num_candidates=4)
    batch.states[1] = -1
    _, trees, _ = batch.run(logits)
    nobodys = torch.ones(len(batch.temperature), dtype=torch.bool, device=device)
    nobodys[batch.states[batch.states >= 0]] = False
    assert (trees.log_q[nobodys] == 99.0).all()
    assert (trees.parents[nobodys][:, 3:] == 0).all()
