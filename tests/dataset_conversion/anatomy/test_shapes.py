"""Signed distances against brute force over sampled surfaces."""

from __future__ import annotations

import numpy as np

from dataset_conversion.anatomy.patient import curve
from dataset_conversion.anatomy.shapes import Ellipsoid, Tube, smooth_minimum


def _sphere(count: int) -> np.ndarray:
    index = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * index / count), np.pi * (1 + 5**0.5) * index
    return np.stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], axis=1)


def _at(solid: Ellipsoid | Tube, points: np.ndarray) -> np.ndarray:
    x, y, z = points.T.astype(np.float32)
    return solid.distance(x, y, z)


def test_ellipsoid_is_zero_on_its_turned_surface_and_close_to_the_distance_near_it() -> None:
    solid = Ellipsoid((3, -4, 5), (20, 12, 30), yaw=0.6)
    cos, sin = np.cos(0.6), np.sin(0.6)
    directions = _sphere(20000)
    local = directions * (20, 12, 30)
    turned = np.stack(
        [cos * local[:, 0] - sin * local[:, 1], sin * local[:, 0] + cos * local[:, 1], local[:, 2]], axis=1
    )
    surface = turned + np.array([3, -4, 5])
    assert np.abs(_at(solid, surface)).max() < 1e-4
    normals = directions / (20, 12, 30)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.stack(
        [cos * normals[:, 0] - sin * normals[:, 1], sin * normals[:, 0] + cos * normals[:, 1], normals[:, 2]], axis=1
    )
    for step in (-2.0, 2.0):
        assert np.abs(_at(solid, surface + step * normals) - step).max() < 0.35


def test_a_tube_is_the_distance_to_its_capsules() -> None:
    solid = Tube(((0, 0, 0), (30, 10, -5), (30, 30, -5)), (6, 6, 6))
    points = np.random.default_rng(0).uniform(-20, 40, (200, 3))
    along = np.linspace(0, 1, 4001)[:, None]
    axis = np.concatenate([along * np.array([30, 10, -5]), np.array([30, 10, -5]) + along * np.array([0, 20, 0])])
    expected = np.linalg.norm(points[:, None] - axis[None], axis=2).min(axis=1) - 6
    np.testing.assert_allclose(_at(solid, points), expected, atol=1e-2)


def test_extent_contains_the_solid() -> None:
    points = np.random.default_rng(1).uniform(-90, 90, (200000, 3))
    for solid in (
        Ellipsoid((3, -4, 5), (20, 12, 40), yaw=0.9, lean=(0.4, -0.3)),
        Tube(((0, 0, 0), (30, 10, -5)), (9, 4), stretch=2.0),
    ):
        inside = points[_at(solid, points) < 0]
        low, high = solid.extent()
        assert len(inside) > 100
        assert (inside >= low).all()
        assert (inside <= high).all()


def test_a_curve_passes_through_its_points_with_their_radii() -> None:
    points = [(0.0, 0.0, 0.0), (20.0, 5.0, 0.0), (40.0, 0.0, 10.0)]
    tube = curve(points, [5, 8, 4], steps=4)
    assert len(tube.points) == len(tube.radii) == 9
    np.testing.assert_allclose(tube.points[::4], points, atol=1e-9)
    np.testing.assert_allclose(tube.radii[::4], [5, 8, 4])


def test_smooth_minimum_is_the_minimum_away_from_the_seam_and_below_it_at_the_seam() -> None:
    first, second = np.array([0, 5, 2], np.float32), np.array([9, 0, 2], np.float32)
    np.testing.assert_array_equal(smooth_minimum(first, second, 0), [0, 0, 2])
    np.testing.assert_allclose(smooth_minimum(first, second, 4), [0, 0, 1])
