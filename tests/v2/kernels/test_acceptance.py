"""Acceptance on the device against `algorithm.acceptance`, and the extra token against its distribution."""

import math

import pytest
import torch
from scipy import stats

from vllm_mtad.algorithm.acceptance import accepted_length
from vllm_mtad.runners.v2.kernels.acceptance import RowStatistics, joint_acceptance, target_statistics
from vllm_mtad.runners.v2.trees import DraftTrees


def log_thresholds(taus):
    """float64; None, of a request without drafts, is more than any ratio."""
    logs = [math.inf if tau is None else math.log(tau) if tau else -math.inf for tau in taus]
    return torch.tensor(logs, dtype=torch.float64)


class Step:
    """Ragged drafts of a batch; request i has state `states[i]`."""

    def __init__(self, device, num_drafts, gamma=4, vocab_size=97, seed=0, dtype=torch.float32, temperature=None):
        generator = torch.Generator().manual_seed(seed)
        num_reqs, slots = len(num_drafts), len(num_drafts) + 2
        counts = torch.tensor(num_drafts)
        self.gamma, self.num_drafts = gamma, counts
        self.states = torch.randperm(slots, generator=generator)[:num_reqs].to(device)
        self.first_rows = torch.cat([torch.zeros(1, dtype=torch.int64), (counts + 1).cumsum(0)]).int().to(device)
        rows = int(self.first_rows[-1])
        self.logits = (torch.randn(rows, vocab_size, generator=generator) * 2).to(device, dtype)
        self.drafts = torch.randint(0, vocab_size, (rows,), generator=generator).to(device)
        self.trees = DraftTrees.allocate(slots, gamma, 1, device)
        self.log_q = self.trees.log_q
        self.log_q.copy_(-torch.rand(slots, gamma, generator=generator) * 6)
        by_slot = (
            torch.ones(slots)
            if temperature is None
            else torch.tensor(temperature)[torch.arange(slots) % len(temperature)]
        )
        self.temperature = by_slot.to(device)
        self.seeds = torch.arange(slots, device=device) * 977
        self.row_states = self.states.repeat_interleave((counts + 1).to(device))
        self.positions = torch.arange(rows, device=device) + 11

    def run(self, tau=0.3, per_token=False, lossless=True, block=None, use_fp64=False, taus=None):
        """`taus`: by request in the batch, instead of one `tau`; None in it keeps nothing."""
        device = self.logits.device
        thresholds = torch.full((len(self.temperature),), torch.nan, dtype=torch.float64, device=device)
        thresholds[self.states.long()] = log_thresholds([tau] * len(self.states) if taus is None else taus).to(device)
        statistics = RowStatistics.allocate(
            len(self.logits) + 3, self.logits.shape[1], device, use_fp64=use_fp64, block=block
        )
        target_statistics(self.logits, self.row_states, self.positions, self.temperature, self.seeds, statistics)
        sampled = torch.full((len(self.states), self.gamma + 1), 77, device=device)
        num_sampled = torch.zeros(len(self.states), dtype=torch.int32, device=device)
        all_nodes = torch.full_like(self.first_rows[1:], self.gamma)
        joint_acceptance(
            self.logits,
            self.drafts,
            self.trees,
            self.first_rows,
            all_nodes,
            self.states,
            self.is_lossless(lossless).int(),
            thresholds,
            statistics,
            sampled,
            num_sampled,
            per_token=per_token,
        )
        return sampled, num_sampled

    def is_lossless(self, lossless):
        """bool by request state; `lossless`: how requests at temperature 0 are decoded, for all or by state."""
        return (self.temperature == 0) & lossless

    def expected_accepted(self, tau=0.3, per_token=False, lossless=True, taus=None):
        log_p = torch.full((len(self.states), self.gamma), -torch.inf)
        for i, first in enumerate(self.first_rows[:-1].tolist()):
            for j in range(int(self.num_drafts[i])):
                token, row = int(self.drafts[first + j + 1]), self.logits[first + j].float().cpu()
                if token < 0:
                    break
                log_p[i, j] = row.log_softmax(0)[token]
                if self.is_lossless(lossless)[self.states[i]]:
                    log_p[i, j] = 0.0 if int(row.argmax()) == token else -torch.inf
        thresholds = log_thresholds([tau] * len(self.states) if taus is None else taus)
        mode = "per_token" if per_token else "joint"
        return accepted_length(log_p, self.log_q[self.states].cpu(), self.num_drafts, thresholds, mode)

    def check(self, **options):
        block, use_fp64 = options.pop("block", None), options.pop("use_fp64", False)
        sampled, num_sampled = self.run(**options, block=block, use_fp64=use_fp64)
        accepted = self.expected_accepted(**options)
        assert torch.equal(num_sampled.cpu() - 1, accepted.int())
        for i, n in enumerate(accepted.tolist()):
            first = int(self.first_rows[i])
            assert torch.equal(sampled[i, :n], self.drafts[first + 1 : first + 1 + n])
            assert 0 <= int(sampled[i, n]) < self.logits.shape[1]
            assert (sampled[i, n + 1 :] == -1).all()
        return accepted


RAGGED = [4, 0, 3, 1, 4, 2, 4, 4]


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("tau", [0.0, 0.1, 0.5, 0.9])
def test_accepts_what_the_algorithm_accepts(device, tau, per_token):
    seen = set()
    for seed in range(6):
        step = Step(device, RAGGED, seed=seed, temperature=[1.0, 0.0, 0.8])
        seen |= set(step.check(tau=tau, per_token=per_token).tolist())
    assert len(seen) > 2


def test_each_request_has_its_own_threshold(device):
    step = Step(device, [4] * 5, temperature=[1.0])
    kept = step.check(taus=[0.0, 0.05, 0.5, 0.999, None])
    assert kept[0] == 4
    assert kept[4] == 0
    for per_token in (False, True):
        mixed = step.check(taus=[0.9, None, 0.0, 0.05, 0.5], per_token=per_token)
        alone = [step.check(tau=tau, per_token=per_token)[i] for i, tau in enumerate((0.9, 0.9, 0.0, 0.05, 0.5))]
        assert mixed.tolist() == [int(alone[0]), 0, *map(int, alone[2:])]


def test_accepts_the_longest_prefix_that_passes_not_the_one_before_the_first_failure(device):
    step = Step(device, [3])
    step.logits.zero_()
    log_p = -math.log(97)
    step.log_q[step.states[0], :3] = torch.tensor([log_p + 5, log_p - 3, log_p - 3])  # ratios -5, -2, +1
    step.drafts[:] = 9
    _, num_sampled = step.run(tau=0.5)
    assert num_sampled.tolist() == [4]
    _, num_sampled = step.run(tau=0.5, per_token=True)
    assert num_sampled.tolist() == [1]


@pytest.mark.parametrize("vocab_size", [3, 256, 1000])
def test_vocabularies_of_any_size_in_blocks(device, vocab_size):
    Step(device, RAGGED, vocab_size=vocab_size).check(block=128)


@pytest.mark.parametrize("gamma", [1, 2, 3, 5])
def test_draft_lengths(device, gamma):
    Step(device, [gamma, gamma, 0, gamma], gamma=gamma).check()


def test_bfloat16_logits_and_fp64_noise(device):
    Step(device, RAGGED, dtype=torch.bfloat16).check()
    Step(device, RAGGED).check(use_fp64=True)


def test_greedy_rows_are_one_hot_if_lossless_and_softmax_if_joint(device):
    step = Step(device, [4] * 6, temperature=[0.0])
    for i in (0, 3):  # drafts that are the argmax
        first = int(step.first_rows[i])
        step.drafts[first + 1 : first + 5] = step.logits[first : first + 4].argmax(1)
    step.log_q.fill_(0.0)
    assert step.check(lossless=True)[[0, 3]].tolist() == [4, 4]
    step.log_q.fill_(-9.0)
    assert step.check(lossless=False).tolist() == [4] * 6
    sampled, num_sampled = step.run(lossless=False)
    last = step.first_rows[1:].long() - 1
    assert torch.equal(sampled.gather(1, num_sampled[:, None].long() - 1)[:, 0], step.logits[last].argmax(1))


def test_greedy_requests_of_both_kinds_share_a_batch(device):
    step = Step(device, [4] * 6, temperature=[0.0])
    step.log_q.fill_(-9.0)
    lossless = torch.arange(len(step.temperature), device=device) % 2 == 0
    accepted = step.check(lossless=lossless)
    assert torch.equal(accepted == 4, ~lossless[step.states.long()].cpu())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["log_q", "logits"])
def test_what_is_not_finite_fails_that_prefix_and_every_longer_one(device, bad, where):
    if where == "logits" and bad > 0:
        return  # +inf and NaN poison a whole row; only -inf is a mask
    for tau in (0.0, 0.5):
        step = Step(device, [4, 4, 4])
        step.log_q.fill_(-9.0)
        for i in range(3):
            row = int(step.first_rows[i]) + i
            if where == "log_q":
                step.log_q[step.states[i], i] = bad
            else:
                step.logits[row, step.drafts[row + 1]] = bad
        assert step.check(tau=tau).tolist() == [0, 1, 2]


@pytest.mark.parametrize("tau", [0.3, 0.5, 0.7])
def test_a_ratio_that_equals_tau_fails(device, tau):
    """Over a vocabulary of one token log p is 0, so the log ratio is what log q says."""
    step = Step(device, [1], vocab_size=1)
    step.log_q[:] = -torch.tensor(math.log(tau), dtype=torch.float32)
    _, num_sampled = step.run(tau=tau)
    passes = float(-step.log_q[0, 0].double()) > math.log(tau)
    assert num_sampled.tolist() == [1 + passes]


def test_a_placeholder_ends_the_window(device):
    step = Step(device, [4, 4])
    step.log_q.fill_(-9.0)
    step.drafts[int(step.first_rows[1]) + 2] = -1
    assert step.check().tolist() == [4, 1]


def test_a_request_that_accepts_nothing_gets_the_token_of_plain_sampling(device):
    from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample

    step = Step(device, [3] * 8, temperature=[1.0, 0.0])
    step.log_q.fill_(9.0)
    step.drafts.fill_(0)
    sampled, num_sampled = step.run(tau=0.9)
    assert num_sampled.tolist() == [1] * 8
    first = step.first_rows[:-1].long()
    plain = gumbel_sample(
        step.logits[first], step.states, step.temperature, step.seeds, step.positions[first],
        apply_temperature=False, is_drafting=False,
    )  # fmt: skip
    assert torch.equal(sampled[:, 0], plain)


@pytest.mark.launched_once
def test_the_extra_token_follows_the_targets_row(device):
    """Chi-square over 1500 requests that differ in their seed; the row after one accepted token counts."""
    n, vocab_size = 1500, 6
    probs = torch.tensor([0.4, 0.25, 0.2, 0.1, 0.05, 0.0])
    step = Step(device, [1] * n, gamma=1, vocab_size=vocab_size)
    step.logits[0::2] = 0.0
    step.logits[1::2] = probs.log().to(device)
    step.log_q.fill_(-9.0)
    sampled, num_sampled = step.run()
    assert (num_sampled == 2).all()
    counts = torch.bincount(sampled[:, 1].cpu(), minlength=vocab_size)
    assert counts[5] == 0
    assert stats.chisquare(counts[:5].numpy(), (probs[:5] * n).numpy()).pvalue > 1e-4
