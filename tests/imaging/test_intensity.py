from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from samora_pipeline.contracts.fingerprint import IntensityStats
from samora_pipeline.contracts.plans import IntensityRule
from samora_pipeline.imaging.intensity import fits_int16, measure, normalize

GENERATOR = np.random.default_rng(1)


def volume(low: float, high: float) -> IntensityStats:
    return IntensityStats((low + high) / 2, 1.0, low, high, low, (low + high) / 2, high)


UNIT = volume(0.0, 1.0)


def test_each_rule_in_its_own_channel() -> None:
    images = GENERATOR.integers(-1000, 1000, (4, 3, 5, 6)).astype(np.int16)
    rules = (IntensityRule("window", -125.0, 275.0), IntensityRule("percentiles"), IntensityRule("range"))
    volumes = (UNIT, replace(UNIT, percentile_00_5=-900.0, percentile_99_5=800.5), volume(-1000.0, 999.0))
    found = normalize(images, rules, volumes)
    assert found.dtype == np.float32
    for channel, (low, high) in enumerate(((-125, 275), (-900, 800.5), (-1000, 999))):
        expected = (np.clip(images[:, channel].astype(float), low, high) - low) / (high - low)
        np.testing.assert_allclose(found[:, channel], expected, atol=1e-6)
    assert found.min() == 0.0
    assert found.max() == 1.0


@pytest.mark.parametrize(("low", "high"), [(-125.0, 275.0), (0.1, 0.7), (-3e4, 3e4), (1e-3, 1.1e-3)])
def test_results_never_leave_the_unit_interval(low: float, high: float) -> None:
    values = np.linspace(low - (high - low), high + (high - low), 9973).astype(np.float32).reshape(1, 1, -1)
    found = normalize(values, (IntensityRule("window", low, high),), (UNIT,))
    assert found.min() >= 0.0
    assert found.max() <= 1.0


def test_a_channel_without_contrast_becomes_zero() -> None:
    found = normalize(np.full((1, 2, 2), 7, np.int16), (IntensityRule("range"),), (volume(7.0, 7.0),))
    np.testing.assert_array_equal(found, 0)


def test_the_input_is_left_alone() -> None:
    images = np.full((1, 2, 2), 7.0, np.float32)
    normalize(images, (IntensityRule("window", 0.0, 1.0),), (UNIT,))
    assert (images == 7.0).all()


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64, np.int32])
@pytest.mark.parametrize("count", [1, 2, 1000, 5003])
def test_measuring_equals_numpy(dtype: type, count: int) -> None:
    values: npt.NDArray[Any] = GENERATOR.normal(100, 30, count).astype(dtype)
    found = measure(values)
    as_float = values.astype(np.float64)
    expected = (
        as_float.mean(),
        as_float.std(),
        as_float.min(),
        as_float.max(),
        *(np.percentile(as_float, q) for q in (0.5, 50, 99.5)),
    )
    measured = (
        found.mean,
        found.std,
        found.minimum,
        found.maximum,
        found.percentile_00_5,
        found.median,
        found.percentile_99_5,
    )
    np.testing.assert_allclose(measured, expected, rtol=1e-6)


def test_measuring_works_in_blocks_without_a_difference() -> None:
    values = GENERATOR.normal(100, 30, (1025, 1024, 1)).astype(np.float32)
    whole = np.rint(values).astype(np.float32)
    for array in (values, whole):
        found = measure(array)
        assert found.std == pytest.approx(array.std(dtype=np.float64), rel=1e-6)
        assert found.mean == pytest.approx(array.mean(dtype=np.float64), rel=1e-6)
        assert found.percentile_99_5 == pytest.approx(np.percentile(array, 99.5), rel=1e-6)
    almost = whole.copy()
    almost[-1, -1] += 0.5
    assert fits_int16(whole)
    assert not fits_int16(almost)
