"""The bootstrap: repeatable, by patient, and equal to a literal resampling."""

from __future__ import annotations

import numpy as np
import pytest

from samora_pipeline.contracts.scores import Bootstrap
from samora_pipeline.evaluation.significance import Resampler, resampler

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
    overall, per_label = [], [[], []]
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
