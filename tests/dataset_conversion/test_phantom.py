"""The synthetic patient: repeatable, anatomically placed, and of the sizes its users count on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from dataset_conversion.anatomy.canvas import SHAPE
from dataset_conversion.anatomy.patient import PatientParameters
from dataset_conversion.phantom import LABELS, draw_patient, render

SEEDS = range(8)
Patient = tuple[PatientParameters, np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    drawn = [draw_patient(seed) for seed in SEEDS]
    return [(parameters, *render(parameters)) for parameters in drawn]


def _centre(labels: np.ndarray, affine: np.ndarray, organ: str) -> np.ndarray:
    """Centre of an organ in RAS mm."""
    voxel = np.argwhere(labels == LABELS[organ]).mean(axis=0)
    return (affine @ [*voxel, 1])[:3]


def test_same_seed_same_voxels_and_other_seed_others(patients: list[Patient]) -> None:
    parameters, hu, labels, affine = patients[0]
    assert draw_patient(0) == parameters
    again = render(draw_patient(0))
    for first, second in zip((hu, labels, affine), again, strict=True):
        np.testing.assert_array_equal(first, second)
    assert draw_patient(1) != parameters
    assert (patients[1][1] != hu).mean() > 0.5
    assert (patients[1][2] != labels).mean() > 0.05


def test_rendering_applies_the_parameters_and_adds_only_the_seeded_fields(patients: list[Patient]) -> None:
    parameters, hu, labels, _ = patients[0]
    quiet, same_labels, _ = render(replace(parameters, noise=0.0))
    np.testing.assert_array_equal(labels, same_labels)
    noise = (hu.astype(int) - quiet)[:, :, 12]
    assert 0.7 * parameters.noise < noise[40:90, 40:90].std() < 1.4 * parameters.noise


def test_every_organ_is_there_in_every_patient(patients: list[Patient]) -> None:
    for _, hu, labels, affine in patients:
        assert hu.shape == labels.shape == SHAPE
        assert hu.dtype == np.int16
        assert labels.dtype == np.uint8
        assert set(np.unique(labels)) == set(LABELS.values())
        assert hu.min() >= -1024
        assert np.linalg.det(affine[:3, :3]) > 0


def test_organs_lie_where_they_lie_in_patients(patients: list[Patient]) -> None:
    right, front, head = 0, 1, 2
    # In a few patients the liver leaves only the fundus of the stomach, which lies beside the pancreas.
    before = [
        _centre(labels, affine, "stomach") - _centre(labels, affine, "pancreas") for _, _, labels, affine in patients
    ]
    assert np.mean([step[front] > 0 for step in before]) > 0.75
    for _, _, labels, affine in patients:
        centre = {organ: _centre(labels, affine, organ) for organ in LABELS if organ != "background"}
        assert centre["liver"][right] > centre["aorta"][right] > centre["spleen"][right]
        assert centre["right_kidney"][right] > centre["aorta"][right] > centre["left_kidney"][right]
        assert centre["gallbladder"][right] > centre["stomach"][right]
        assert centre["pancreas"][front] > centre["left_kidney"][front]
        assert centre["liver"][head] > centre["right_kidney"][head]
        assert centre["spleen"][head] > centre["left_kidney"][head]


def test_small_organs_are_several_pixels_wide(patients: list[Patient]) -> None:
    lengths, widths = [], []
    for _, _, labels, _ in patients:
        area = (labels == LABELS["gallbladder"]).sum(axis=(0, 1)).max()
        assert 2 * np.sqrt(area / np.pi) >= 8
        pancreas = [labels[:, :, k] == LABELS["pancreas"] for k in range(SHAPE[2])]
        largest = max(pancreas, key=np.count_nonzero)
        rows, columns = np.nonzero(largest)
        lengths.append(np.hypot(np.ptp(rows), np.ptp(columns)))
        depth = ndimage.distance_transform_edt(largest)
        widths.append(2 * np.percentile(depth[largest], 85))
    assert np.median(lengths) >= 30
    assert 6 <= np.median(widths) <= 10


def test_densities_follow_the_contrast_phase_and_overlap_between_neighbours(patients: list[Patient]) -> None:
    medians = {
        organ: [np.median(hu[labels == value]) for _, hu, labels, _ in patients] for organ, value in LABELS.items()
    }
    assert 60 < np.median(medians["liver"]) < 130
    assert max(medians["gallbladder"]) < 50
    assert np.ptp(medians["aorta"]) > 50
    shares = []
    for _, hu, labels, _ in patients:
        beside = ndimage.binary_dilation(labels == LABELS["pancreas"], iterations=6) & (labels == 0) & (hu > 0)
        low, high = np.percentile(hu[labels == LABELS["pancreas"]], (25, 75))
        shares.append(((hu[beside] > low) & (hu[beside] < high)).mean())
    # A threshold must not do the work of a network: half the pancreas lies in this range, and so does its company.
    assert np.mean(shares) > 0.25


def test_a_nearest_density_guess_fails(patients: list[Patient]) -> None:
    """Voxel densities alone (each voxel to the organ of the nearest median) must not solve the task."""
    _, hu, labels, _ = patients[0]
    medians = np.array([np.median(hu[labels == value]) for value in LABELS.values()])
    guess = np.abs(ndimage.gaussian_filter(hu.astype(float), (1, 1, 0))[..., None] - medians).argmin(axis=-1)
    dice = [
        2 * ((guess == value) & (labels == value)).sum() / ((guess == value).sum() + (labels == value).sum())
        for value in range(1, len(LABELS))
    ]
    assert np.mean(dice) < 0.4
