"""The bootstrap, the paired tests and Holm's correction against literal restatements of each."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from scipy import stats

from samora_pipeline.contracts.scores import Bootstrap
from samora_pipeline.evaluation.significance import Resampler, holm, paired_test, ranking_remark, resampler

NAN = float("nan")


def settings(n: int, seed: int = 0) -> Bootstrap:
    return Bootstrap(n=n, resamples=500, seed=seed)


def test_a_seed_repeats_the_interval_and_another_does_not() -> None:
    values = np.random.default_rng(0).normal(size=(9, 2))
    patients = [f"p{i}" for i in range(9)]
    first, again, other = (resampler(patients, settings(9, seed)).intervals(values) for seed in (4, 4, 5))
    assert first == again
    assert first != other


def test_intervals_equal_a_literal_resampling_of_patients() -> None:
    values = np.array([[0.9, NAN], [0.5, 0.2], [0.7, 0.4], [0.1, 0.8], [0.3, NAN]])
    patients = ["a", "a", "b", "c", "d"]
    draws = resampler(patients, settings(4))
    overall: list[Any] = []
    per_label: list[list[Any]] = [[], []]
    for times in draws.draws:
        rows = [
            row
            for name, repeats in zip("abcd", times, strict=True)
            for _ in range(int(repeats))
            for row, patient in zip(values, patients, strict=True)
            if patient == name
        ]
        means = []
        for label in range(2):
            defined = [row[label] for row in rows if not np.isnan(row[label])]
            if defined:
                means.append(np.mean(defined))
                per_label[label].append(means[-1])
        overall.append(np.mean(means))
    mean, labels = draws.intervals(values)
    for interval, sample in zip([mean, *labels], [overall, *per_label], strict=True):
        if interval is None:
            pytest.fail("two patients or more have a score")
        assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(sample, [2.5, 97.5])))


def test_the_interval_holds_the_mean_and_narrows_with_patients() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for n in (10, 200):
        values = rng.normal(0.8, 0.1, size=(n, 1))
        interval, _ = resampler([str(i) for i in range(n)], settings(n)).intervals(values)
        if interval is None:
            pytest.fail("there are patients")
        assert interval.low < values.mean() < interval.high
        widths.append(interval.high - interval.low)
    assert widths[1] < widths[0] / 2


def test_many_scans_of_one_patient_are_one_unit() -> None:
    values = np.array([[0.1], [0.5], [0.9]])
    assert resampler(["a", "a", "a"], settings(1)).intervals(values) == (None, [None])
    interval, _ = resampler(["a", "a", "b"], settings(2)).intervals(values)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((0.3, 0.9))


def test_a_label_without_support_has_no_interval() -> None:
    draws: Resampler = resampler(["a", "b", "c"], settings(3))
    values = np.array([[0.5, NAN, 0.1], [0.6, NAN, NAN], [0.7, NAN, NAN]])
    mean, labels = draws.intervals(values)
    assert mean is not None
    assert labels[0] is not None
    assert labels[1:] == [None, None]


def test_the_t_test_equals_its_formula() -> None:
    values = np.random.default_rng(3).normal(0.02, 0.03, 12)
    test = paired_test(list(values))
    error = values.std(ddof=1) / np.sqrt(12)
    assert test.n == 12
    assert test.difference == pytest.approx(values.mean())
    assert test.t_p == pytest.approx(2 * stats.t.sf(abs(values.mean() / error), 11))
    if test.interval is None or test.bootstrap is None:
        pytest.fail("there are twelve patients")
    half = 2.200985160082949 * error  # 97.5 % quantile of t with 11 degrees of freedom, from a table
    assert (test.interval.low, test.interval.high) == pytest.approx((values.mean() - half, values.mean() + half))
    assert test.interval.low < test.bootstrap.low < test.bootstrap.high < test.interval.high


def test_wilcoxon_equals_trying_all_signs() -> None:
    values = np.random.default_rng(5).normal(0.02, 0.03, 9)
    ranks = np.argsort(np.argsort(abs(values))) + 1
    total = 9 * 10 / 2
    extreme = abs((ranks * (values > 0)).sum() - total / 2)
    sums = [sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign) for signs in product((0, 1), repeat=9)]
    expected = np.mean([abs(one - total / 2) >= extreme for one in sums])
    assert paired_test(list(values)).wilcoxon_p == pytest.approx(expected)


def test_a_p_value_and_its_interval_agree() -> None:
    rng = np.random.default_rng(8)
    for shift in (0.0, 0.02, 0.05):
        test = paired_test(list(rng.normal(shift, 0.03, 12)))
        if test.interval is None or test.t_p is None:
            pytest.fail("there are twelve patients")
        assert (test.t_p < 0.05) == (test.interval.low > 0 or test.interval.high < 0)


def test_equal_scores_have_difference_zero_and_no_p_value() -> None:
    test = paired_test([0.0] * 8)
    assert (test.n, test.difference, test.t_p, test.wilcoxon_p) == (8, 0.0, None, None)
    assert test.interval is not None
    assert (test.interval.low, test.interval.high) == (0.0, 0.0)
    # The same difference in all patients, but for the last bits.
    assert paired_test([0.3 - 0.2, 0.1, 0.7 - 0.6]).t_p is None


def test_one_patient_or_none_supports_nothing() -> None:
    assert paired_test([]).difference is None
    assert paired_test([0.25]).difference == 0.25
    assert paired_test([0.25]).interval is None


def test_holm_equals_the_closed_test() -> None:
    """Holm is the closure of Bonferroni: a hypothesis is as significant as the weakest family that holds it."""
    rng = np.random.default_rng(2)
    for size in (1, 2, 5):
        p_values = rng.uniform(0, 0.4, size)
        families = [family for count in range(1, size + 1) for family in combinations(range(size), count)]
        expected = [
            max(min(1.0, len(family) * min(p_values[i] for i in family)) for family in families if own in family)
            for own in range(size)
        ]
        assert holm(list(p_values)) == pytest.approx(expected)


def test_holm_leaves_out_what_is_not_defined() -> None:
    assert holm([0.01, None, 0.03]) == [0.02, None, 0.03]
    assert holm([None]) == [None]


def test_too_few_patients_for_a_ranking_are_said_to_be() -> None:
    assert ranking_remark(9) == "n = 9 patients cannot support a ranking"
    assert ranking_remark(1) == "n = 1 patient cannot support a ranking"
    assert ranking_remark(10) == ""
