"""Acceptance over trees on the device, against `algorithm.acceptance`, which brute force holds."""

import math

import pytest
import torch

from vllm_mtad.algorithm.acceptance import accepted_node
from vllm_mtad.algorithm.tree import DraftTree, node_depths
from vllm_mtad.runners.v2.kernels.acceptance import RowStatistics, joint_acceptance, target_statistics
from vllm_mtad.runners.v2.trees import DraftTrees

VOCAB_SIZE = 29


class TreeStep:
    """Trees of a batch, at random places; request i has state `states[i]` and rows for its first `num_nodes[i]`."""

    def __init__(self, device, num_nodes, gamma, num_candidates, seed=0):
        generator = torch.Generator().manual_seed(seed)
        depths = node_depths(gamma, num_candidates)
        num_reqs, slots, nodes = len(num_nodes), len(num_nodes) + 2, len(depths)
        self.num_nodes, self.states = torch.tensor(num_nodes), torch.randperm(slots, generator=generator)[:num_reqs]
        parents = torch.zeros(slots, nodes, dtype=torch.long)
        for node, depth in enumerate(depths):
            rows = [row + 1 for row, other in enumerate(depths[:node]) if other == depth - 1] or [0]
            parents[:, node] = torch.tensor(rows)[torch.randint(0, len(rows), (slots,), generator=generator)]
        parents[:, :gamma] = torch.arange(gamma)
        self.trees = DraftTrees.allocate(slots, gamma, num_candidates, device)
        self.trees.parents.copy_(parents)
        self.trees.log_q.copy_(-torch.rand(slots, nodes, generator=generator) * 6)
        self.tokens = torch.randint(0, VOCAB_SIZE, (slots, nodes), generator=generator)
        self.tokens[torch.rand(slots, nodes, generator=generator) < 0.1] = -1
        self.first_rows = torch.cat([torch.zeros(1, dtype=torch.long), (self.num_nodes + 1).cumsum(0)])
        self.logits = torch.randn(int(self.first_rows[-1]), VOCAB_SIZE, generator=generator) * 1.5
        self.temperature = torch.ones(slots)

    def kept(self, tau=0.5, max_nodes=None, **options):
        """(kept rows, sampled, num_sampled) by request of the batch."""
        device, rows = self.trees.log_q.device, len(self.logits)
        states, first_rows = self.states.to(device), self.first_rows.int().to(device)
        drafts = torch.full((rows,), 5)
        for i, first in enumerate(self.first_rows[:-1].tolist()):
            n = int(self.num_nodes[i])
            drafts[first + 1 : first + 1 + n] = self.tokens[self.states[i], :n]
        logits, temperature = self.logits.to(device), self.temperature.to(device)
        row_states = states.repeat_interleave((self.num_nodes + 1).to(device))
        statistics = RowStatistics.allocate(rows, VOCAB_SIZE, device, block=16)
        seeds = torch.zeros(len(temperature), dtype=torch.long, device=device)
        positions = torch.arange(rows, device=device)
        target_statistics(logits, row_states, positions, temperature, seeds, statistics)
        sampled = torch.full((len(states), self.trees.log_q.shape[1] + 1), 77, device=device)
        num_sampled = torch.zeros(len(states), dtype=torch.int32, device=device)
        self.trees.kept.fill_(99)
        most = self.trees.log_q.shape[1] if max_nodes is None else max_nodes
        joint_acceptance(
            logits,
            drafts.to(device),
            self.trees,
            first_rows,
            torch.full_like(first_rows[1:], most),
            states,
            (temperature == 0).int(),
            torch.full((len(temperature),), math.log(tau), dtype=torch.float64, device=device),
            statistics,
            sampled,
            num_sampled,
            **{"per_token": False, **options},
        )
        untouched = torch.ones(len(temperature), dtype=torch.bool)
        untouched[self.states] = False
        assert (self.trees.kept.cpu()[untouched] == 99).all()
        return self.trees.kept.cpu()[self.states], sampled.cpu(), num_sampled.cpu()

    def tree(self):
        own = [tensor.cpu()[self.states] for tensor in (self.tokens, self.trees.log_q, self.trees.parents.long())]
        return DraftTree(*own, self.trees.gamma)

    def expected(self, tau=0.5, per_token=False, candidate_test="own"):
        tree = self.tree()
        log_p = torch.full(tree.tokens.shape, -torch.inf)
        for i, first in enumerate(self.first_rows[:-1].tolist()):
            for node in range(int(self.num_nodes[i])):
                if (token := int(tree.tokens[i, node])) >= 0:
                    row = self.logits[first + int(tree.parents[i, node])]
                    log_p[i, node] = row.log_softmax(0)[token]
                    if self.temperature[self.states[i]] == 0:
                        log_p[i, node] = 0.0 if int(row.argmax()) == token else -torch.inf
        mode = "per_token" if per_token else "joint"
        return accepted_node(tree, log_p, self.num_nodes, math.log(tau), mode, candidate_test)

    def check(self, **options):
        kept, sampled, num_sampled = self.kept(**options)
        expected = self.expected(**options)
        assert torch.equal(kept, expected.int())
        tree = self.tree()
        for i, row in enumerate(kept.tolist()):
            path = [int(tree.tokens[i, at - 1]) for at in tree.path(i, row)]
            assert sampled[i, : len(path)].tolist() == path
            assert num_sampled[i] == len(path) + 1
            assert 0 <= int(sampled[i, len(path)]) < VOCAB_SIZE
            assert (sampled[i, len(path) + 1 :] == -1).all()
        return kept


@pytest.mark.parametrize("candidate_test", ["own", "reference"])
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize(("gamma", "num_candidates"), [(1, 4), (3, 2), (4, 4), (5, 3)])
def test_keeps_the_node_that_the_algorithm_keeps(device, gamma, num_candidates, per_token, candidate_test):
    most, seen = gamma * num_candidates, set()
    for seed in range(4):
        step = TreeStep(device, [most, 0, most - 1, most, gamma, 1, most, most], gamma, num_candidates, seed)
        seen |= set(step.check(per_token=per_token, candidate_test=candidate_test).tolist())
    assert any(row > gamma for row in seen)
    assert 0 in seen


def test_the_extra_token_is_from_the_kept_nodes_row(device):
    step = TreeStep(device, [8, 8], 2, 4)
    step.tokens.clamp_(min=0)
    step.temperature.zero_()
    step.trees.log_q.zero_()
    tree = step.tree()
    for i, node in enumerate((3, 6)):  # of depth 1 and 2, neither the chosen draft's
        first = int(step.first_rows[i])
        for row in tree.path(i, node + 1):
            step.logits[first + int(tree.parents[i, row - 1]), int(tree.tokens[i, row - 1])] = 50.0
        step.tokens[step.states[i], :2] = (int(tree.tokens[i, node]) + 1) % VOCAB_SIZE
    kept, sampled, num_sampled = step.kept()
    assert kept.tolist() == step.expected().tolist()
    assert kept.min() > 2
    for i, row in enumerate(kept.tolist()):
        assert sampled[i, num_sampled[i] - 1] == step.logits[int(step.first_rows[i]) + row].argmax()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_bars_a_node_and_all_below_it(device, bad):
    for seed in range(4):
        step = TreeStep(device, [12] * 4, 3, 4, seed)
        step.trees.log_q.fill_(-9.0)
        step.trees.log_q[:, 1] = bad
        step.check()


def test_a_request_that_is_verified_as_a_chain_keeps_what_its_chosen_draft_would(device):
    step = TreeStep(device, [16] * 6, 4, 4)
    everything = step.kept()[0]
    chain, _, _ = step.kept(max_nodes=4)
    step.num_nodes.fill_(4)
    step.logits = torch.cat([step.logits[first : first + 5] for first in step.first_rows[:-1].tolist()])
    step.first_rows = torch.arange(7) * 5
    assert torch.equal(chain, step.check())
    assert not torch.equal(chain, everything)


def test_the_tally_counts_drafts_what_they_kept_and_how_often_another_won(device):
    step = TreeStep(device, [8, 0, 7, 8, 4, 8, 8, 8], 2, 4)
    step.tokens[step.states[3]] = -1  # placeholders
    _, _, num_sampled = step.kept()
    kept, _, _ = step.kept()
    has_draft = (step.num_nodes > 0) & (step.tokens[step.states, 0] >= 0)
    assert has_draft.sum() == 6
    expected = torch.stack([has_draft, has_draft * (num_sampled - 1), has_draft & (kept > 2)], 1) * 2
    assert torch.equal(step.trees.tally.cpu()[step.states], expected.long())
    assert int(step.trees.tally.sum()) == int(expected.sum()), "other requests' figures are their own"
    assert expected[:, 2].any()
