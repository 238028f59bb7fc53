"""Voxel counts, regions and the ignore label, against literal masks; one pass over all organs against medpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from samora_pipeline.evaluation.metrics import Overlap, joint_histogram, measure

binary = pytest.importorskip("medpy.metric").binary

Labels = npt.NDArray[np.uint8]
ORGANS = [(1,), (2,), (3,), (1, 2), (2, 3, 7)]


def volumes(seed: int, shape: tuple[int, ...] = (12, 10, 8)) -> tuple[Labels, Labels]:
    rng = np.random.default_rng(seed)
    reference = np.repeat(rng.integers(0, 8, (shape[0], shape[1], 2)), shape[2] // 2, axis=2).astype(np.uint8)
    prediction = np.where(rng.random(shape) < 0.2, rng.integers(0, 8, shape), reference).astype(np.uint8)
    return reference, prediction


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("ignore", [None, 6])
def test_each_organ_equals_its_mask(order: str, ignore: int | None) -> None:
    reference, prediction = (np.asarray(volume, order=order) for volume in volumes(0))  # type: ignore[call-overload]
    kept = np.ones(reference.shape, bool) if ignore is None else reference != ignore
    spacing = (0.7, 1.3, 4.0)
    for values, organ in zip(ORGANS, measure(reference, prediction, ORGANS, ignore), strict=True):
        truth, guess = np.isin(reference, values) & kept, np.isin(prediction, values) & kept
        overlap = organ.overlap
        assert overlap.tp == np.sum(truth & guess)
        assert overlap.fp == np.sum(~truth & guess)
        assert overlap.fn == np.sum(truth & ~guess)
        assert overlap.tn == np.sum(~truth & ~guess & kept)
        assert (overlap.n_ref, overlap.n_pred) == (truth.sum(), guess.sum())
        assert overlap.dice == pytest.approx(binary.dc(guess, truth), abs=1e-12)
        assert overlap.iou == pytest.approx(binary.jc(guess, truth), abs=1e-12)
        if organ.surfaces is None:
            pytest.fail("the organ is in both volumes")
        ours = organ.surfaces.distances(spacing)
        assert ours.hd95() == pytest.approx(binary.hd95(guess, truth, voxelspacing=spacing), abs=1e-9)
        assert ours.assd() == pytest.approx(binary.assd(guess, truth, voxelspacing=spacing), abs=1e-9)


def test_memory_order_of_the_two_volumes_may_differ() -> None:
    reference, prediction = volumes(1)
    for first, second in ((reference, np.asfortranarray(prediction)), (np.asfortranarray(reference), prediction)):
        for plain, mixed in zip(measure(reference, prediction, ORGANS), measure(first, second, ORGANS), strict=True):
            assert plain.overlap == mixed.overlap
            if plain.surfaces is None or mixed.surfaces is None:
                pytest.fail("the organ is in both volumes")
            spacing = (0.7, 1.3, 4.0)
            assert plain.surfaces.distances(spacing).hd() == pytest.approx(mixed.surfaces.distances(spacing).hd())


def test_far_islands_and_borders_survive_the_crop() -> None:
    reference = np.zeros((30, 30, 30), dtype=np.uint8)
    reference[10:15, 10:15, 10:15] = 1
    prediction = reference.copy()
    prediction[0, 29, 0] = 1
    prediction[20, 20, 20] = 2
    organ = measure(reference, prediction, [(1,)])[0]
    if organ.surfaces is None:
        pytest.fail("the organ is in both volumes")
    expected = binary.hd(prediction == 1, reference == 1, voxelspacing=(1.0, 2.0, 3.0))
    assert organ.surfaces.distances((1.0, 2.0, 3.0)).hd() == pytest.approx(expected, abs=1e-9)


def test_empty_volumes_and_absent_organs() -> None:
    empty, filled = np.zeros((4, 5, 6), np.uint8), np.full((4, 5, 6), 2, np.uint8)
    assert measure(empty, empty, [(1,)])[0].overlap == Overlap(0, 0, 0, 120)
    assert measure(empty, empty, [(1,)])[0].overlap.dice is None
    assert measure(empty, empty, [(1,)])[0].overlap.iou is None
    assert measure(filled, empty, [(2,)])[0].overlap == Overlap(0, 0, 120, 0)
    assert measure(filled, empty, [(2,)])[0].overlap.dice == 0
    assert measure(filled, filled, [(1,), (255,)])[0].surfaces is None


def test_ignored_voxels_count_nowhere() -> None:
    reference, prediction = np.zeros((3, 3, 3), np.uint8), np.ones((3, 3, 3), np.uint8)
    reference[0] = 9
    assert measure(reference, prediction, [(1,)], ignore=9)[0].overlap == Overlap(0, 18, 0, 0)
    assert measure(reference, prediction, [(1,)])[0].overlap == Overlap(0, 27, 0, 0)


def test_joint_histogram_equals_counting() -> None:
    reference, prediction = volumes(2)
    histogram = joint_histogram(reference, prediction)
    for row in range(8):
        for column in range(8):
            assert histogram[row, column] == np.sum((reference == row) & (prediction == column))


def test_other_types_and_shapes_are_refused() -> None:
    labels = np.zeros((3, 3, 3), np.uint8)
    with pytest.raises(ValueError, match="one shape"):
        measure(labels, labels[:2], [(1,)])
    with pytest.raises(ValueError, match="int64"):
        measure(labels.astype(np.int64), labels, [(1,)])
