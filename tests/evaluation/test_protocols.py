"""The empty-mask rules of both protocols, and their means."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from samora_pipeline.contracts.scores import OrganMetrics, SamFamilyMetrics
from samora_pipeline.evaluation.metric import (
    count,
    label_key,
    physical,
    physical_mean,
    sam_family,
    sam_family_mean,
)
from samora_pipeline.evaluation.metrics import Measurement, measure

medpy_metric = pytest.importorskip("medpy.metric")

SPACING = (2.0, 1.0, 3.0)
DIAGONAL = 37.4
Labels = npt.NDArray[np.uint8]


def block(start: int, stop: int) -> Labels:
    labels = np.zeros((10, 10, 10), dtype=np.uint8)
    labels[start:stop, start:stop, start:stop] = 1
    return labels


EMPTY, ORGAN, SHIFTED = block(0, 0), block(2, 7), block(3, 8)


def one(reference: Labels, prediction: Labels) -> Measurement:
    return measure(reference, prediction, [(1,)])[0]


def rule_of_the_sam_family(prediction: npt.NDArray[Any], reference: npt.NDArray[Any]) -> tuple[float, float]:
    """The rule restated: both filled, then medpy; only the prediction, then (1, 0); otherwise (0, 0)."""
    if prediction.sum() > 0 and reference.sum() > 0:
        return float(medpy_metric.binary.dc(prediction, reference)), float(
            medpy_metric.binary.hd95(prediction, reference)
        )
    return (1.0, 0.0) if prediction.sum() > 0 else (0.0, 0.0)


@pytest.mark.parametrize("reference", [EMPTY, ORGAN], ids=["absent", "present"])
@pytest.mark.parametrize("prediction", [EMPTY, SHIFTED, ORGAN], ids=["nothing", "shifted", "exact"])
def test_sam_family_follows_its_rule(reference: Labels, prediction: Labels) -> None:
    scores = sam_family(one(reference, prediction))
    assert (scores.Dice, scores.HD95) == pytest.approx(rule_of_the_sam_family(prediction, reference), abs=1e-9)


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [(EMPTY, ORGAN, (1, 0)), (ORGAN, EMPTY, (0, 0)), (EMPTY, EMPTY, (0, 0)), (ORGAN, ORGAN, (1, 0))],
)
def test_sam_family_golden_cases(reference: Labels, prediction: Labels, expected: tuple[float, float]) -> None:
    assert sam_family(one(reference, prediction)) == SamFamilyMetrics(*expected)


def test_physical_scores_a_present_organ_in_mm() -> None:
    scores = physical(one(ORGAN, SHIFTED), SPACING, 2.0, diagonal=DIAGONAL)
    binary = medpy_metric.binary
    expected = [one_of(SHIFTED, ORGAN, voxelspacing=SPACING) for one_of in (binary.hd95, binary.hd, binary.assd)]
    found = [scores.HD95, scores.HD, scores.ASSD]
    assert found == pytest.approx(expected, abs=1e-9)
    assert scores.Dice == pytest.approx(binary.dc(SHIFTED, ORGAN))
    assert scores.NSD is not None
    assert 0 < scores.NSD < 1


def test_physical_leaves_an_absent_organ_out_and_keeps_its_false_positives() -> None:
    scores = physical(one(EMPTY, ORGAN), SPACING, 2.0, diagonal=DIAGONAL)
    assert [scores.Dice, scores.IoU, scores.HD95, scores.HD, scores.ASSD, scores.NSD] == [None] * 6
    assert scores.HD95_penalised is None
    assert (scores.FP, scores.n_pred, scores.n_ref, scores.TN) == (125, 125, 0, 875)


def test_physical_gives_a_missed_organ_zero_and_no_distance() -> None:
    scores = physical(one(ORGAN, EMPTY), SPACING, 2.0, diagonal=DIAGONAL)
    assert [scores.Dice, scores.IoU, scores.NSD] == [0, 0, 0]
    assert [scores.HD95, scores.HD, scores.ASSD] == [None] * 3
    assert scores.HD95_penalised == DIAGONAL
    assert (scores.FN, scores.n_pred) == (125, 0)


def test_means_and_counts_skip_what_is_not_defined() -> None:
    pairs = [(ORGAN, ORGAN), (ORGAN, EMPTY), (EMPTY, ORGAN), (EMPTY, EMPTY)]
    organs = [physical(one(*pair), SPACING, 2.0, diagonal=DIAGONAL) for pair in pairs]
    mean = physical_mean(organs)
    assert mean.Dice == 0.5
    assert mean.HD95 == 0
    assert mean.HD95_penalised == DIAGONAL / 2
    assert mean.FP == 125 / 4
    counts = count(organs)
    assert (counts.scored, counts.missed, counts.distances) == (2, 1, 1)
    assert (counts.absent, counts.false_positive, counts.false_positive_voxels) == (2, 1, 125)
    never = physical_mean(organs[2:])
    assert never.Dice is None
    assert physical_mean([mean, never]).Dice == 0.5
    assert physical_mean([never]).HD is None


def test_sam_family_mean_is_over_cases_then_labels() -> None:
    first = sam_family_mean([SamFamilyMetrics(1, 0), SamFamilyMetrics(0, 4)])
    second = sam_family_mean([SamFamilyMetrics(0.5, 1)])
    assert sam_family_mean([first, second]) == SamFamilyMetrics(0.5, 1.5)


def test_keys_are_those_of_nnunet() -> None:
    assert label_key((3,)) == "3"
    assert label_key((1, 2, 3)) == "(1, 2, 3)"
    assert tuple(field.name for field in fields(OrganMetrics))[:8] == (
        "Dice",
        "IoU",
        "TP",
        "FP",
        "FN",
        "TN",
        "n_pred",
        "n_ref",
    )
