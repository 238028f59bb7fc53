"""Surface distances against medpy and against literal loops."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from samora_pipeline.evaluation.surfaces import SurfaceDistances, boundary, pair_surfaces

binary = pytest.importorskip("medpy.metric").binary

Mask = npt.NDArray[np.bool_]
SPACINGS = [(1.0, 1.0, 1.0), (0.78, 0.78, 3.0), (2.5, 0.4, 1.1)]


def blob(rng: np.random.Generator, shape: tuple[int, ...]) -> Mask:
    noise = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    return np.asarray(noise > np.quantile(noise, rng.uniform(0.5, 0.95)))


def with_voxels(shape: tuple[int, ...], *voxels: tuple[int, ...]) -> Mask:
    mask = np.zeros(shape, dtype=np.bool_)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def fuzz() -> list[tuple[str, Mask, Mask]]:
    rng = np.random.default_rng(7)
    shape = (13, 11, 9)
    inner = np.zeros(shape, dtype=np.bool_)
    inner[4:8, 3:8, 2:6] = True
    islands = inner.copy()
    islands[0, 0, 0] = islands[12, 10, 8] = True
    full = np.ones(shape, dtype=np.bool_)
    cases = [
        ("equal", inner, inner.copy()),
        ("touches every border", full, inner),
        ("one voxel each", with_voxels(shape, (0, 0, 0)), with_voxels(shape, (12, 10, 8))),
        ("one voxel against a block", with_voxels(shape, (6, 5, 4)), inner),
        ("islands", inner, islands),
        ("no overlap", inner, with_voxels(shape, (0, 5, 0), (0, 5, 1))),
        ("one slice", inner[:, :, 3:4], islands[:, :, 3:4]),
        ("hollow", inner & ~np.roll(inner, 1, axis=0), inner),
    ]
    return cases + [(f"blobs {i}", blob(rng, shape), blob(rng, shape)) for i in range(8)]


def distances(reference: Mask, prediction: Mask, spacing: tuple[float, ...]) -> SurfaceDistances:
    pair = pair_surfaces(boundary(reference.astype(np.uint8)), boundary(prediction.astype(np.uint8)), (1,))
    if pair is None:
        pytest.fail("both masks are filled")
    return pair.distances(spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("reference", "prediction"), [case[1:] for case in fuzz()], ids=[case[0] for case in fuzz()])
def test_distances_equal_medpy(reference: Mask, prediction: Mask, spacing: tuple[float, ...]) -> None:
    ours = distances(reference, prediction, spacing)
    assert ours.hd95() == pytest.approx(binary.hd95(prediction, reference, voxelspacing=spacing), abs=1e-9)
    assert ours.hd() == pytest.approx(binary.hd(prediction, reference, voxelspacing=spacing), abs=1e-9)
    assert ours.assd() == pytest.approx(binary.assd(prediction, reference, voxelspacing=spacing), abs=1e-9)


def test_plane_images_equal_medpy() -> None:
    rng = np.random.default_rng(3)
    reference, prediction = blob(rng, (20, 17)), blob(rng, (20, 17))
    expected = binary.hd95(prediction, reference, voxelspacing=(0.5, 2.0))
    assert distances(reference, prediction, (0.5, 2.0)).hd95() == pytest.approx(expected, abs=1e-9)


def slow_surface(mask: Mask) -> list[tuple[int, ...]]:
    found = []
    for voxel in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                neighbour = voxel.copy()
                neighbour[axis] += step
                outside = not 0 <= neighbour[axis] < mask.shape[axis]
                if (outside or not mask[tuple(neighbour)]) and tuple(voxel) not in found:
                    found.append(tuple(voxel))
    return found


def slow_nsd(reference: Mask, prediction: Mask, spacing: tuple[float, ...], tolerance: float) -> float:
    surfaces = slow_surface(reference), slow_surface(prediction)
    close = 0
    for own, other in (surfaces, surfaces[::-1]):
        for voxel in own:
            nearest = min(
                sum(((a - b) * s) ** 2 for a, b, s in zip(voxel, there, spacing, strict=True)) ** 0.5 for there in other
            )
            close += nearest <= tolerance + 1e-9
    return close / (len(surfaces[0]) + len(surfaces[1]))


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_nsd_equals_its_definition(seed: int, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    reference, prediction = blob(rng, (6, 6, 5)), blob(rng, (6, 6, 5))
    spacing = (1.0, 0.5, 2.0)
    expected = slow_nsd(reference, prediction, spacing, tolerance)
    assert distances(reference, prediction, spacing).nsd(tolerance) == pytest.approx(expected, abs=1e-12)


def test_a_distance_equal_to_the_tolerance_is_within_it() -> None:
    # 3 * 0.7 is a hair below 2.1 and 21 * 0.1 a hair above: neither may decide.
    for spacing, steps in ((0.7, 3), (0.1, 21)):
        reference, prediction = with_voxels((30, 1, 1), (1, 0, 0)), with_voxels((30, 1, 1), (1 + steps, 0, 0))
        assert distances(reference, prediction, (spacing, 1.0, 1.0)).nsd(2.1) == 1.0


def test_surface_of_a_region_ignores_the_borders_inside_it() -> None:
    labels = np.zeros((8, 8, 8), dtype=np.uint8)
    labels[1:7, 1:7, 1:7] = 1
    labels[3:5, 3:5, 3:5] = 2
    union = boundary((labels > 0).astype(np.uint8))
    np.testing.assert_array_equal(boundary(labels).surface((1, 2)), union.surface((1,)))
    assert boundary(labels).surface((1, 2)).size < boundary(labels).surface((1,)).size


def test_an_empty_mask_has_no_pair() -> None:
    empty, filled = boundary(np.zeros((4, 4, 4), np.uint8)), boundary(np.ones((4, 4, 4), np.uint8))
    assert pair_surfaces(empty, filled, (1,)) is None
    assert pair_surfaces(filled, empty, (1,)) is None
    assert pair_surfaces(empty, empty, (1,)) is None


def test_memory_order_does_not_move_the_surface() -> None:
    labels = blob(np.random.default_rng(5), (9, 8, 7)).astype(np.uint8)
    np.testing.assert_array_equal(boundary(np.asfortranarray(labels)).surface((1,)), boundary(labels).surface((1,)))
