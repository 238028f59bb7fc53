"""The named conventions against the packages they are named after, organ by organ of one volume."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from samora_pipeline.evaluation.metrics import Measurement, measure
from samora_pipeline.evaluation.surfaces import SurfaceDistances, piece_areas

Labels = npt.NDArray[np.uint8]
SPACINGS = [(1.0, 1.0, 1.0), (0.78, 0.78, 3.0), (2.5, 0.4, 1.1)]
TOLERANCES = (0.9, 2.05, 4.3)


def pairs() -> dict[str, tuple[Labels, Labels]]:
    """Blobs, islands, single voxels, and organs that touch every border; each organ is in both volumes."""
    rng = np.random.default_rng(11)
    shape = (13, 11, 9)
    noise = ndimage.gaussian_filter(rng.normal(size=(2, *shape)), (0, 1.5, 1.5, 1.5))
    blobs = [np.digitize(one, np.quantile(one, [0.6, 0.8])).astype(np.uint8) for one in noise]
    block = np.zeros(shape, np.uint8)
    block[4:9, 3:8, 2:6], block[1, 1, 1] = 1, 2
    islands = block.copy()
    islands[0, 0, 0], islands[12, 10, 8], islands[10:12, 9, 7] = 1, 1, 2
    full, inverse = np.ones(shape, np.uint8), np.ones(shape, np.uint8)
    full[6, 5, 4], inverse[2:11, 3:9, 2:7] = 2, 2
    return {"blobs": (blobs[0], blobs[1]), "islands": (block, islands), "borders": (full, inverse)}


CASES = [pytest.param(*pair, id=name) for name, pair in pairs().items()]


def organs(reference: Labels, prediction: Labels) -> list[tuple[Any, Any, Measurement]]:
    measured = measure(reference, prediction, [(1,), (2,)], surfels=True)
    return [(reference == value, prediction == value, one) for value, one in enumerate(measured, start=1)]


def voxels(organ: Measurement, spacing: tuple[float, ...]) -> SurfaceDistances:
    if organ.surfaces is None:
        pytest.fail("the organ is in both volumes")
    return organ.surfaces.distances(spacing)


def pieces(organ: Measurement, spacing: tuple[float, ...]) -> SurfaceDistances:
    if organ.surfels is None:
        pytest.fail("the organ is in both volumes")
    return organ.surfels.distances(spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("reference", "prediction"), CASES)
def test_monai(reference: Labels, prediction: Labels, spacing: tuple[float, ...]) -> None:
    metrics = pytest.importorskip("monai.metrics", reason="MONAI, the oracle of its convention, is not installed")
    torch = pytest.importorskip("torch")
    for truth, guess, organ in organs(reference, prediction):
        ours = voxels(organ, spacing)
        both = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (guess, truth)]
        common = {"include_background": True, "spacing": list(spacing)}
        expected = [
            metrics.compute_hausdorff_distance(*both, percentile=95, **common).item(),
            metrics.compute_hausdorff_distance(*both, **common).item(),
            metrics.compute_average_surface_distance(*both, symmetric=True, **common).item(),
            *(metrics.compute_surface_dice(*both, class_thresholds=[one], **common).item() for one in TOLERANCES),
        ]
        found = [ours.hd95(directed=True), ours.hd(), ours.assd(), *(ours.nsd(one) for one in TOLERANCES)]
        # MONAI computes in single precision.
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("reference", "prediction"), CASES)
def test_surface_distance(reference: Labels, prediction: Labels, spacing: tuple[float, ...]) -> None:
    oracle = pytest.importorskip("surface_distance", reason="surface-distance, the oracle, is not installed")
    for truth, guess, organ in organs(reference, prediction):
        ours = pieces(organ, spacing)
        theirs = oracle.compute_surface_distances(truth, guess, spacing)
        area = theirs["surfel_areas_pred"].sum(), theirs["surfel_areas_gt"].sum()
        directed = oracle.compute_average_surface_distance(theirs)[::-1]
        expected = [
            oracle.compute_robust_hausdorff(theirs, 95),
            oracle.compute_robust_hausdorff(theirs, 100),
            float(np.average(directed, weights=area)),
            *(oracle.compute_surface_dice_at_tolerance(theirs, one) for one in TOLERANCES),
        ]
        found = [ours.hd95(), ours.hd(), ours.assd(), *(ours.nsd(one) for one in TOLERANCES)]
        # The areas come from vertices in single precision.
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_areas_of_a_mask_and_of_its_inverse_are_equal(spacing: tuple[float, float, float]) -> None:
    area = piece_areas(spacing)
    np.testing.assert_array_equal(area, area[::-1])
    assert area[0] == 0
    assert (area[1:255] > 0).all()
    # Four corners of one side: the piece is the wall between them.
    assert area[0b00001111] == pytest.approx(spacing[1] * spacing[2])
    # One corner: a triangle with legs of half a voxel.
    x, y, z = (step / 2 for step in spacing)
    assert area[1] == pytest.approx(0.5 * ((x * y) ** 2 + (y * z) ** 2 + (x * z) ** 2) ** 0.5)


def test_a_far_island_tells_the_conventions_apart() -> None:
    reference = np.zeros((60, 12, 12), np.uint8)
    reference[2:10, 2:10, 2:10] = 1
    prediction = reference.copy()
    prediction[50:53, 5:8, 5:8] = 1
    organ = measure(reference, prediction, [(1,)], surfels=True)[0]
    unit = (1.0, 1.0, 1.0)
    assert voxels(organ, unit).hd95() == 0
    assert voxels(organ, unit).hd95(directed=True) > 40
    assert pieces(organ, unit).hd95() > 40


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_order_does_not_change_the_pieces(order: Any) -> None:
    reference, prediction = pairs()["blobs"]
    spacing = (0.5, 1.0, 3.0)
    turned = [np.asarray(one, order=order) for one in (reference, prediction)]
    found = pieces(measure(turned[0], turned[1], [(1,)], surfels=True)[0], spacing)
    expected = pieces(measure(reference, prediction, [(1,)], surfels=True)[0], spacing)
    assert (found.hd95(), found.nsd(1.0)) == pytest.approx((expected.hd95(), expected.nsd(1.0)), abs=1e-9)


def test_an_organ_that_is_missing_has_no_pieces() -> None:
    empty, filled = np.zeros((4, 4, 4), np.uint8), np.ones((4, 4, 4), np.uint8)
    for pair in ((empty, filled), (filled, empty), (empty, empty)):
        assert measure(*pair, [(1,)], surfels=True)[0].surfels is None
