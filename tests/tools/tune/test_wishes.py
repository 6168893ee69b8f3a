import pytest

from tests.tools.tune.rows import EQUAL, LESS_LIKELY, LIKELIER, UNCLEAR, candidate, speeds, target, vanilla
from vllm_mtad.tools.harness.intervals import Interval
from vllm_mtad.tools.harness.methods import Sampling, draft_model
from vllm_mtad.tools.tune.rows import Row
from vllm_mtad.tools.tune.wishes import Wish, best_mtad, choose, fastest_lossless, on_front

FASTEST, LIKELIEST, ANY_SPEED = Wish("fastest"), Wish("likeliest"), Wish("likeliest", any_speed=True)


def test_fastest_takes_the_fastest_that_is_no_less_likely():
    rows = [target(), vanilla(1.3), candidate(1.5, LIKELIER), candidate(1.9, LESS_LIKELY), candidate(1.4, LIKELIER)]
    choice = choose(rows, FASTEST, 1)
    assert choice.row is rows[2]
    assert "1.50x" in choice.why
    assert not choice.cautions


def test_an_interval_that_straddles_zero_shows_nothing():
    rows = [target(), vanilla(1.3), candidate(1.9, UNCLEAR)]
    for wish in (FASTEST, LIKELIEST, Wish("budget")):
        choice = choose(rows, wish, 1)
        assert choice.row is rows[1]
        assert "none of 1 MTAD settings was shown" in choice.why
        assert "-0.100 [-0.300, +0.100]" in choice.why


@pytest.mark.parametrize(("high", "chosen"), [(-1e-9, 2), (0.0, 2), (1e-9, 1)])
def test_the_upper_end_at_zero_is_still_no_less_likely(high, chosen):
    rows = [target(), vanilla(1.3), candidate(1.5, Interval(-0.1, -0.2, high))]
    assert choose(rows, FASTEST, 1).row is rows[chosen]


def test_likelier_needs_an_upper_end_below_zero():
    rows = [target(), vanilla(1.3), candidate(1.5, Interval(0.0, 0.0, 0.0))]
    assert choose(rows, FASTEST, 1).row is rows[2]
    assert choose(rows, LIKELIEST, 1).row is rows[1]


def test_a_tie_in_speed_goes_to_the_lossless_way():
    rows = [target(), vanilla(1.5), candidate(1.5, LIKELIER)]
    choice = choose(rows, FASTEST, 1)
    assert choice.row is rows[1]
    assert "is not shown faster (1.50x" in choice.why


def test_draft_model_that_is_faster_is_recommended_instead():
    choice = choose([target(), vanilla(1.4, 2), vanilla(1.8, 4), candidate(1.5, LIKELIER)], FASTEST, 1)
    assert choice.row.label == "draft_model γ=4"
    assert "MTAD γ=4 B=4 τ=0.5, is not shown faster (1.50x" in choice.why


def test_the_target_alone_when_nothing_is_faster():
    choice = choose([target(), vanilla(0.8), candidate(0.9, LIKELIER)], FASTEST, 1)
    assert choice.row.label == "target alone"


def test_a_lossy_setting_must_be_shown_faster():
    unsteady, steady = candidate(1.9, LIKELIER, spread=0.6), candidate(1.55, LIKELIER, tau=0.7)
    choice = choose([target(), vanilla(1.45), unsteady], FASTEST, 1)
    assert choice.row.label == "draft_model γ=4"
    for figure in ("1.90x", "1.30x to 2.50x", "1.43x to 1.47x"):
        assert figure in choice.why
    assert choose([target(), vanilla(1.45), unsteady, steady], FASTEST, 1).row is steady


def test_a_round_that_is_slower_than_asked_for_is_cautioned_about():
    choice = choose([target(), candidate(1.05, LIKELIER, spread=0.1)], LIKELIEST, 1)
    assert choice.row.is_mtad
    assert "slowest round (0.95x)" in choice.cautions[0]


def test_what_a_sample_gave_does_not_make_a_lossless_way_less_likely():
    unlucky = Row(draft_model(), speeds=speeds(1.5), nats=0.7, nats_difference=LESS_LIKELY)
    assert choose([target(), unlucky, candidate(1.2, LIKELIER)], FASTEST, 1).row is unlucky


def test_likeliest_takes_the_lowest_nats_that_is_as_fast_as_the_target():
    most = Interval(-0.3, -0.35, -0.25)
    rows = [target(), vanilla(1.3), candidate(1.2, LIKELIER), candidate(0.9, most, tau=0.7)]
    choice = choose(rows, LIKELIEST, 1)
    assert choice.row is rows[2]
    assert any("draft_model γ=4 is faster (1.30x) and lossless" in caution for caution in choice.cautions)
    assert choose(rows, ANY_SPEED, 1).row is rows[3]


def test_likeliest_says_when_only_slow_settings_are_likelier():
    choice = choose([target(), candidate(0.9, LIKELIER)], LIKELIEST, 1)
    assert choice.row.label == "target alone"
    assert "reaches the 1.00x asked for" in choice.why
    assert "reaches 0.90x" in choice.why


def test_ties_in_likelihood_go_to_the_faster():
    near = Interval(LIKELIER.value - 0.0003, -0.12, -0.08)
    rows = [target(), candidate(1.1, near, tau=0.7), candidate(1.2, LIKELIER), candidate(1.15, LIKELIER, tau=0.3)]
    assert choose(rows, LIKELIEST, 1).row is rows[2]


@pytest.mark.parametrize(("slowdown", "chosen"), [(0.05, 2), (0.11, 3), (0.5, 4), (0.0, 1)])
def test_budget_is_counted_from_the_fastest_lossless_way(slowdown, chosen):
    rows = [target(), vanilla(2.0), candidate(1.92, LIKELIER), candidate(1.8, Interval(-0.2, -0.22, -0.18))]
    rows.append(candidate(1.1, Interval(-0.3, -0.32, -0.28)))
    assert choose(rows, Wish("budget", slowdown), 1).row is rows[chosen]


def test_budget_counts_from_the_target_where_draft_model_is_slower_or_failed():
    mtad = candidate(0.96, LIKELIER)
    failed = Row(draft_model(), failure="no memory")
    for other in (vanilla(0.7), failed):
        assert choose([target(), other, mtad], Wish("budget", 0.05), 1).row is mtad
        assert choose([target(), other, mtad], Wish("budget", 0.03), 1).row.label == "target alone"


def test_a_setting_shown_less_accurate_is_never_chosen():
    worse, unclear = Interval(-0.2, -0.3, -0.1), Interval(-0.02, -0.1, 0.06)
    rows = [
        target(accuracy=0.8),
        candidate(1.5, LIKELIER, accuracy=0.6, accuracy_difference=worse),
        candidate(1.2, LIKELIER, tau=0.7, accuracy=0.78, accuracy_difference=unclear),
    ]
    for wish in (FASTEST, LIKELIEST, Wish("budget")):
        choice = choose(rows, wish, 1)
        assert choice.row is rows[2]
        assert any("not shown to differ" in caution for caution in choice.cautions)
        alone = choose(rows[:2], wish, 1)
        assert alone.row is rows[0]
        assert "is shown less accurate" in alone.why


def test_nothing_measured_but_the_target():
    failed = Row(candidate(1.0, LIKELIER).method, failure="beam_width is too large")
    choice = choose([target(), Row(draft_model(), failure="no"), failed], FASTEST, 1)
    assert choice.row.label == "target alone"
    assert "no MTAD setting could be measured" in choice.why
    assert best_mtad([target(), failed], FASTEST, 1) is None


def test_each_concurrency_has_its_own_choice():
    mtad = candidate(1.5, LIKELIER, speeds=speeds(1.5) | {8: speeds(0.9)[1]})
    alone = target()
    alone = Row(alone.method, speeds=alone.speeds | {8: alone.speeds[1]}, nats=alone.nats)
    assert choose([alone, mtad], FASTEST, 1).row is mtad
    assert choose([alone, mtad], FASTEST, 8).row is alone


def test_at_temperature_zero_mtad_is_lossless():
    mtad = candidate(1.6, EQUAL, sampling=Sampling(0.0))
    choice = choose([target(), vanilla(1.4), mtad], FASTEST, 1)
    assert choice.row is mtad
    assert "greedy decoding's own text" in choice.why


def test_best_mtad_falls_back_to_the_fastest():
    rows = [target(), candidate(1.1, UNCLEAR), candidate(1.3, LESS_LIKELY), candidate(1.2, UNCLEAR)]
    assert best_mtad(rows, FASTEST, 1) is rows[2]
    rows.append(candidate(1.0, LIKELIER))
    assert best_mtad(rows, FASTEST, 1) is rows[4]


def test_the_front_puts_lossless_ways_at_plain_samplings_likelihood():
    lucky = Row(draft_model(), speeds=speeds(0.9), nats=0.3, nats_difference=Interval(-0.2, -0.4, 0.1))
    rows = [target(), lucky, candidate(0.95, LIKELIER), candidate(0.8, UNCLEAR), Row(draft_model(2), failure="no")]
    assert on_front(rows, 1) == [True, False, True, False, False]
    assert fastest_lossless(rows, 1) is rows[0]
