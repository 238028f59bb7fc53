"""Which slices come into a pool, and how many of each scan."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from samora_pipeline.slices.pool import PoolScan, allot, content_digest, showing_slices, spread, thinned
from samora_pipeline.slices.store import StoredSlices
from tests.slices.test_datasets import GEOMETRY, PLANS, store, why


def test_air_and_constant_slices_show_nothing(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = np.full((5, 1, 64, 64), -1000, dtype=np.int16)
    images[1] += generator.normal(0, 20, (1, 64, 64)).astype(np.int16)  # air with noise
    images[2, :, 30:34, 30:34] = 60  # 16 of 4096 pixels: a tube
    images[3, :, 16:48, 16:48] = 60  # a body
    images[4] = 60  # constant
    store(tmp_path, "scan", images)
    assert showing_slices(PoolScan(tmp_path, "scan", PLANS)) == (3,)


def test_a_channel_with_content_is_enough(tmp_path: Path) -> None:
    images = np.full((2, 2, 32, 32), -1000, dtype=np.int16)
    images[:, 1, 8:24, 8:24] = 200
    store(tmp_path, "x", images)
    plans = replace(PLANS, channel_names=("a", "b"), intensity=why(PLANS.intensity.value * 2))
    assert showing_slices(PoolScan(tmp_path, "x", plans)) == (0, 1)


def test_fine_slices_are_thinned_before_they_are_looked_at(tmp_path: Path) -> None:
    images = np.full((7, 1, 32, 32), -1000, dtype=np.int16)
    images[..., 8:24, 8:24] = 200
    store(tmp_path, "x", images)
    assert GEOMETRY.spacing[0] == 1.0
    assert showing_slices(PoolScan(tmp_path, "x", PLANS, step=2.0)) == (0, 2, 4, 6)


@pytest.mark.parametrize(("count", "spacing", "step"), [(40, 0.7, 1.5), (9, 0.5, 1.5), (1, 0.5, 1.5), (100, 1.49, 1.5)])
def test_thinned_slices_are_the_nearest_to_a_coarser_grid(count: int, spacing: float, step: float) -> None:
    places = np.arange(count) * spacing
    grid = np.arange(0, places[-1] + 1e-9, step)
    expected = np.abs(places[:, None] - grid).min(axis=0)
    found = thinned(count, spacing, step)
    assert len(found) == len(set(found)) == len(grid)
    np.testing.assert_allclose(np.abs(places[list(found)] - grid), expected, atol=1e-9)


def test_coarse_slices_are_all_kept() -> None:
    assert thinned(5, 3.0, 1.5) == thinned(5, 1.5, 1.5) == thinned(5, 0.1, None) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("seed", range(4))
def test_shares_are_those_of_giving_out_one_slice_at_a_time(seed: int) -> None:
    generator = np.random.default_rng(seed)
    available = {f"c{i}": int(n) for i, n in enumerate(generator.integers(0, 30, 12))}
    for wanted in (1, 5, 12, 40, 100, sum(available.values()) - 1):
        quota, shares = allot(available, wanted, seed)
        given = dict.fromkeys(available, 0)
        full_rounds = 0
        while True:
            able = [name for name in given if given[name] < available[name]]
            if sum(given.values()) + len(able) > wanted or not able:
                break
            for name in able:
                given[name] += 1
            full_rounds += 1
        assert quota == full_rounds
        assert sum(shares.values()) == wanted
        assert all(given[name] <= shares[name] <= min(available[name], given[name] + 1) for name in given)


def test_without_a_number_or_with_too_large_a_one_everything_comes_in() -> None:
    available = {"a": 3, "b": 0}
    assert allot(available, None, 0) == allot(available, 4, 0) == allot(available, 3, 0) == (None, available)
    assert allot({}, 5, 0) == (None, {})


def test_the_seed_decides_which_scans_complete_the_number() -> None:
    available = {f"c{i}": 10 for i in range(20)}
    first = allot(available, 50, 0)
    assert first == allot(dict(reversed(available.items())), 50, 0)
    assert first[0] == 2
    assert any(allot(available, 50, seed) != first for seed in (1, 2))


def test_a_choice_is_spread_over_the_scan_and_repeatable() -> None:
    indices = list(range(100, 200))
    chosen = spread(indices, 10, 0, "a")
    assert chosen == spread(indices, 10, 0, "a")
    assert [(index - 100) // 10 for index in chosen] == list(range(10))
    assert spread(indices, 100, 3, "a") == tuple(indices)
    assert spread(indices, 0, 0, "a") == ()
    counts = Counter(index for seed in range(300) for index in spread(range(10), 3, seed, "a"))
    # Stretches of 3, 3 and 4 slices: each slice is drawn about 100, 100 or 75 times in 300.
    assert set(counts) == set(range(10))
    assert min(counts.values()) > 40


def test_the_content_digest_sees_every_byte_of_the_chosen_slices(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(-500, 500, (4, 1, 8, 8)).astype(np.int16)

    def digest(array: np.ndarray, *indices: int) -> str:
        store(tmp_path, "x", array)
        return content_digest(StoredSlices.open(tmp_path, "x").record, indices)

    changed = images.copy()
    changed[2, 0, 3, 3] += 1
    assert digest(images, 0, 1) == digest(changed, 0, 1)
    assert digest(images, 0, 2) != digest(changed, 0, 2)
    assert digest(images, 0, 1) != digest(images, 0, 3)
