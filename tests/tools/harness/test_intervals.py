import numpy as np
import pytest
from scipy import stats

from vllm_mtad.tools.harness.intervals import Ratio, interval, paired_difference


def test_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=600)
    found = interval(Ratio.of(values, np.ones(600)))
    low, high = stats.norm.interval(0.95, values.mean(), values.std() / 600**0.5)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)


def test_pairing_removes_what_the_prompts_have_in_common():
    generator = np.random.default_rng(2)
    shared, ones = generator.normal(0, 10, size=300), np.ones(300)
    better = Ratio.of(shared + 0.5 + generator.normal(0, 0.3, size=300), ones)
    base = Ratio.of(shared, ones)
    assert paired_difference(better, base).excludes_zero
    assert interval(better).low < interval(base).high


def test_no_difference_covers_zero_about_as_often_as_it_should():
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        a, b = (Ratio.of(generator.poisson(4, size=80), generator.integers(5, 9, size=80)) for _ in range(2))
        covered += not paired_difference(a, b).excludes_zero
    assert covered / 200 > 0.89


def test_a_ratio_is_of_sums_not_the_mean_of_ratios():
    assert Ratio.of([1, 9], [1, 99]).value() == pytest.approx(0.1)


def test_other_prompts_are_not_paired():
    with pytest.raises(ValueError, match="3 prompts cannot be paired with 2"):
        paired_difference(Ratio.of([1, 2, 3], [1, 1, 1]), Ratio.of([1, 2], [1, 1]))


def test_prompts_that_are_all_alike_leave_no_doubt():
    found = interval(Ratio.of([3] * 10, [4] * 10))
    assert (found.low, found.high) == pytest.approx((0.75, 0.75))
