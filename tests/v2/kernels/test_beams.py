"""A beam step of the kernels against `algorithm.beams`, which shares no code with them."""

import pytest
import torch

from tests.v2.kernels.rounds import Limits, Round, make_round, make_round_of_both_kinds


def assert_equal(batch: Round, logits: list[torch.Tensor]) -> None:
    drafts, trees, on_device = batch.run(logits)
    chosen, steps = batch.expected(logits)
    expected = [rows[torch.arange(len(chosen)), chosen] for rows in (steps[-1].tokens, steps[-1].log_q)]
    real = batch.states >= 0
    for depth, (got, wanted) in enumerate(zip(on_device, steps)):
        is_live = wanted.scores > -torch.inf
        torch.testing.assert_close(got.scores[real], wanted.scores, atol=2e-5, rtol=1e-5)
        tokens = got.tokens[real][:, :, : depth + 1].long()
        assert torch.equal(tokens[is_live], wanted.tokens[is_live])
        newest = got.ancestry[real][:, :, depth]
        assert torch.equal(newest, torch.arange(batch.beam_width, device=newest.device).expand_as(newest).int())
        if depth:
            parents = got.ancestry[real][:, :, depth - 1].long()
            assert torch.equal(parents[is_live], wanted.parents[is_live])
    assert torch.equal(drafts[real], expected[0])
    torch.testing.assert_close(trees.log_q[batch.states[real]], expected[1], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("beam_width", [1, 2, 4, 8])
@pytest.mark.parametrize("gamma", [1, 2, 3, 4, 5])
def test_draws_the_same_beams_as_the_algorithm(device, beam_width, gamma):
    """Temperatures of 0.7, 1, 1.3 and 0 (one-hot, one live beam) in one batch."""
    assert_equal(*make_round(device, 5, beam_width, gamma, vocab_size=97))


@pytest.mark.parametrize("options", [{"draw": False}, {"lossless": False}, {"draw": False, "lossless": False}])
def test_beam_search_and_joint_greedy(device, options):
    assert_equal(*make_round(device, 6, 4, 3, vocab_size=61, **options))


def test_greedy_requests_of_both_kinds_share_a_batch(device):
    assert_equal(*make_round_of_both_kinds(device))


@pytest.mark.parametrize("vocab_size", [5, 64, 1000, 1027])
def test_vocabularies_of_any_size_in_blocks(device, vocab_size):
    assert_equal(*make_round(device, 3, 4, 3, vocab_size, block=256))


def test_bfloat16_logits(device):
    assert_equal(*make_round(device, 3, 4, 2, vocab_size=300, dtype=torch.bfloat16))


def test_strided_logits(device):
    batch, logits = make_round(device, 3, 4, 3, vocab_size=100)
    wide = [torch.full((len(rows), 171), torch.nan, device=device) for rows in logits]
    for target, rows in zip(wide, logits):
        target[:, :100] = rows
    assert_equal(batch, [target[:, :100] for target in wide])


TOP_K = [1, 7, 10, 64, 2, 3]


def limits(device, slots, vocab_size, top_p=1.0, min_p=0.0):
    """Every second state has limits; the others ask for none."""
    cut = torch.arange(slots) % 2 == 0
    top_k = torch.where(cut, torch.tensor(TOP_K * 3)[:slots], vocab_size).int()
    top_p, min_p = torch.where(cut, top_p, 1.0).float(), torch.where(cut, min_p, 0.0).float()
    return Limits(top_k.to(device), top_p.to(device), min_p.to(device))


@pytest.mark.parametrize("beam_width", [1, 4, 8])
@pytest.mark.parametrize(("top_p", "min_p"), [(1.0, 0.0), (0.9, 0.0), (0.5, 0.0), (1.0, 0.1), (0.8, 0.05)])
def test_a_small_top_k_is_cut_and_drawn_in_one_pass(device, beam_width, top_p, min_p):
    """Requests with and without limits in one batch; several vocabulary blocks."""
    batch, logits = make_round(device, 6, beam_width, 3, vocab_size=300, block=128)
    batch.limits = limits(device, len(batch.temperature), 300, top_p, min_p)
    assert_equal(batch, logits)


@pytest.mark.parametrize("options", [{"draw": False}, {"lossless": False}, {"vocab_size": 40}, {"vocab_size": 5}])
def test_a_small_top_k_with(device, options):
    batch, logits = make_round(device, 6, 4, 3, **({"vocab_size": 200} | options))
    batch.limits = limits(device, len(batch.temperature), batch.vocab_size, 0.9)
    assert_equal(batch, logits)


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_of_equal_logits_at_the_cut_those_of_lower_token_ids_stay(device, top_p):
    """Logits of few values: every cut goes through many that are equal."""
    batch, logits = make_round(device, 6, 4, 2, vocab_size=300, block=64)
    batch.limits = limits(device, len(batch.temperature), 300, top_p)
    assert_equal(batch, [rows.round() for rows in logits])


def test_a_row_of_nan_has_no_children_with_a_small_top_k_either(device):
    batch, logits = make_round(device, 6, 4, 2, vocab_size=50)
    batch.limits = limits(device, len(batch.temperature), 50, 0.9)
    batch.limits.top_k.clamp_(max=10)
    logits[1].view(6, 4, -1)[:, 1, 7] = torch.nan
    _, _, steps = batch.run(logits)
    live = steps[1].scores > -torch.inf
    assert live.any(1).all()
    assert not (steps[1].ancestry[:, :, 0] == 1)[live].any()


def test_pairs_without_mass_leave_dead_slots_which_the_next_step_refills(device):
    """At first 2 tokens have mass, for 4 slots; then 3 tokens a live beam."""
    batch, logits = make_round(device, 4, 4, 3, vocab_size=40, is_warped=True)
    logits[0][:, 2:] = -torch.inf
    logits[1][:, 3:] = -torch.inf
    assert_equal(batch, logits)
    _, _, steps = batch.run(logits)
    sampling = batch.temperature[batch.states] > 0
    assert (steps[0].scores[sampling] > -torch.inf).sum(1).tolist() == [2] * int(sampling.sum())
    assert (steps[1].scores[sampling] > -torch.inf).all()


def test_ties_go_to_the_lower_beam_then_to_the_lower_token(device):
    batch, _ = make_round(device, 2, 4, 2, vocab_size=600, draw=False, lossless=False, block=256)
    logits = [torch.zeros(2, 600, device=device), torch.zeros(8, 600, device=device)]
    _, _, steps = batch.run(logits)
    assert steps[0].tokens[:, :, 0].tolist() == [[0, 1, 2, 3]] * 2
    assert steps[1].tokens[:, :, 1].tolist() == [[0, 1, 2, 3]] * 2
    assert steps[1].ancestry[:, :, 0].tolist() == [[0, 0, 0, 0]] * 2


def test_padding_changes_nothing_and_writes_no_log_q(device):
    batch, logits = make_round(device, 3, 4, 3, vocab_size=50)
    alone_drafts, alone, _ = batch.run(logits)
    padded = Round(**(vars(batch) | {"states": torch.cat([batch.states, torch.full((2,), -1, device=device)])}))
    padded.roots = torch.cat([batch.roots, torch.full((2,), -1, device=device)])
    garbage = [torch.cat([rows, torch.full((2 * len(rows) // 3, 50), torch.nan, device=device)]) for rows in logits]
    drafts, trees, steps = padded.run(garbage)
    assert torch.equal(drafts[:3], alone_drafts)
    assert torch.equal(trees.log_q, alone.log_q), "the states of padding are nobody's"
    assert steps[-1].tokens[3:].abs().sum() == 0, "padding must feed a token that exists"


def test_a_row_of_nan_has_no_children(device):
    """A beam whose draft model overflowed must not take the others' slots."""
    batch, logits = make_round(device, 3, 4, 2, vocab_size=50, is_warped=True)
    logits[1].view(3, 4, -1)[:, 1, 7] = torch.nan
    _, _, steps = batch.run(logits)
    assert steps[1].scores.isfinite()[batch.temperature[batch.states] > 0].all()
    assert not (steps[1].ancestry[:, :, 0] == 1).any()


def test_a_shorter_draft_leaves_the_other_columns_alone(device):
    batch, logits = make_round(device, 3, 2, 4, vocab_size=50)
    drafts, trees, _ = batch.run(logits[:2])
    assert (drafts[:, 2:] == -5).all()
    assert (trees.log_q[batch.states][:, 2:] == 99.0).all()
    chosen, steps = batch.expected(logits[:2])
    assert torch.equal(drafts[:, :2], steps[-1].tokens[torch.arange(len(chosen)), chosen])


def test_past_the_drafts_window_q_is_unknown(device):
    batch, logits = make_round(device, 2, 4, 3, vocab_size=50)
    batch.roots = torch.tensor([10, 17], device=device)
    _, trees, _ = batch.run(logits, window=18)
    assert trees.log_q[batch.states[0]].isfinite().all()
    assert trees.log_q[batch.states[1]].isfinite().tolist() == [True, False, False]


@pytest.mark.launched_once
def test_inclusion_frequencies_are_those_of_sampling_without_replacement(device):
    """1500 requests that differ in their seed draw 2 of 4 tokens; the expectation is the exact enumeration."""
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    n = 1500
    batch = Round(
        torch.arange(n, device=device),
        torch.zeros(n, dtype=torch.int64, device=device),
        torch.ones(n, device=device),
        torch.arange(n, device=device) * 7919,
        beam_width=2,
        gamma=1,
        vocab_size=4,
    )
    _, _, steps = batch.run([probs.log().expand(n, 4).contiguous().to(device)])
    counts = torch.bincount(steps[0].tokens.flatten(), minlength=4).cpu() / n
    exact = [
        p + sum(float(o) * float(p) / (1 - float(o)) for j, o in enumerate(probs) if j != i)
        for i, p in enumerate(probs)
    ]
    deviation = (counts - torch.tensor(exact)).abs() / (torch.tensor(exact) * (1 - torch.tensor(exact)) / n).sqrt()
    assert deviation.max() < 4
