"""Paired comparison: by patient, seeds within patients, differences of zero, and runs that may not be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.errors import DataError
from samora_pipeline.evaluation.comparison import PROTOCOLS, Variant, compare, group_seeds
from samora_pipeline.evaluation.run_scores import ScoredRun, distinct_labels, read_run
from samora_pipeline.evaluation.significance import holm, paired_test
from tests.fake_run import Dice, random_dice, write_scored_run


def scored(tmp_path: Path, dice: Dice, name: str, **changes: Any) -> ScoredRun:
    return read_run(str(write_scored_run(tmp_path, dice, name=name, **changes)), tmp_path)


def variant(tmp_path: Path, dice: Dice, name: str, **changes: Any) -> Variant:
    run = scored(tmp_path, dice, name, **changes)
    return Variant(run.label, (run,))


def test_two_equal_runs_differ_by_zero(tmp_path: Path) -> None:
    first, second = (variant(tmp_path / place, random_dice(1), place) for place in "ab")
    for protocol in PROTOCOLS:
        tables = compare([first, second], first, protocol)
        assert tables
        for table in tables:
            assert [row.variant for row in table.overall] == [second.label]
            for row in (*table.overall, *table.organs):
                assert (row.test.n, row.test.difference, row.test.t_p, row.holm_t) == (12, 0.0, None, None)
                assert row.baseline_mean == row.variant_mean


def test_differences_are_those_of_patients(tmp_path: Path) -> None:
    """Two scans of one patient count once, an absent organ not at all; restated case by case."""
    own: Dice = {"a": [0.5, 0.6], "b": [0.7, None], "c": [0.8, 0.4], "d": [0.6, 0.9]}
    other: Dice = {"a": [0.6, 0.65], "b": [0.9, None], "c": [0.7, 0.5], "d": [0.7, 0.0]}
    patients = {"a": "p", "b": "p"}
    first = variant(tmp_path, own, "own", patients=patients)
    second = variant(tmp_path, other, "other", patients=patients)
    dice = next(table for table in compare([first, second], first, "physical") if table.record.name == "Dice")
    liver, spleen = dice.organs
    assert (liver.organ, spleen.organ) == ("liver", "spleen")
    by_patient = [[(0.1 + 0.2) / 2, -0.1, 0.1], [0.05, 0.1, -0.9]]
    for row, expected in zip((liver, spleen), by_patient, strict=True):
        assert row.test.n == 3
        assert row.test.difference == pytest.approx(np.mean(expected))
        assert row.test.t_p == pytest.approx(paired_test(expected).t_p)
    mean = dice.overall[0]
    assert mean.organ == "mean"
    assert mean.test.difference == pytest.approx(np.mean([np.mean(pair) for pair in zip(*by_patient, strict=True)]))
    assert mean.baseline_mean == pytest.approx(np.mean([(0.6 + 0.6) / 2, 0.6, 0.75]))
    assert mean.baseline_mean is not None
    assert mean.test.difference is not None
    assert mean.variant_mean == pytest.approx(mean.baseline_mean + mean.test.difference)


def test_a_missed_organ_leaves_hd95_but_not_the_penalised_one(tmp_path: Path) -> None:
    first = variant(tmp_path, {"a": [0.5, 0.6], "b": [0.5, 0.6]}, "own")
    second = variant(tmp_path, {"a": [0.5, 0.6], "b": [0.5, 0.0]}, "other")
    tables = {table.record.name: table for table in compare([first, second], first, "physical")}
    assert tables["HD95"].organs[1].test.n == 1
    assert tables["HD95"].organs[1].test.difference == 0
    penalised = tables["HD95_penalised"].organs[1].test
    assert penalised.n == 2
    assert penalised.difference == pytest.approx((300 - 20) / 2)
    assert (tables["HD95"].unit, tables["Dice"].unit) == ("mm", "")
    assert {table.record.name: table.unit for table in compare([first, second], first, "sam_family")}["HD95"] == "voxel"


def test_holm_is_taken_over_the_rows_of_a_family(tmp_path: Path) -> None:
    variants = [variant(tmp_path, random_dice(seed, shift=0.01 * seed), f"r{seed}") for seed in range(4)]
    dice = compare(variants, variants[0], "physical")[0]
    assert (len(dice.overall), len(dice.organs)) == (3, 6)
    for rows in (dice.overall, dice.organs):
        assert [row.holm_t for row in rows] == holm([row.test.t_p for row in rows])
        assert [row.holm_wilcoxon for row in rows] == holm([row.test.wilcoxon_p for row in rows])


def test_seeds_are_averaged_within_a_patient(tmp_path: Path) -> None:
    seeds = [scored(tmp_path, random_dice(seed), f"s{seed}", seed=seed) for seed in range(3)]
    control = scored(tmp_path, random_dice(7), "control", recipe="none")
    variants = group_seeds([control, *seeds])
    assert [one.label for one in variants] == [control.label, f"{seeds[0].label} (3 seeds)"]
    together = compare(variants, variants[0], "physical")[0]
    means = {case: list(np.mean([random_dice(seed)[case] for seed in range(3)], axis=0)) for case in random_dice(0)}
    single = [Variant(control.label, (control,)), variant(tmp_path, means, "means")]
    expected = compare(single, single[0], "physical")[0]
    assert together.overall[0].test.n == 12
    assert together.overall[0].test.t_p == pytest.approx(expected.overall[0].test.t_p)
    assert together.overall[0].test.difference == pytest.approx(expected.overall[0].test.difference)


def test_seeds_alone_and_equal_seeds_stay_apart(tmp_path: Path) -> None:
    seeds = [scored(tmp_path, random_dice(seed), f"s{seed}", seed=seed) for seed in range(2)]
    assert [len(one.runs) for one in group_seeds(seeds)] == [1, 1]
    copy = scored(tmp_path / "copy", random_dice(0), "s0", seed=0)
    other = scored(tmp_path, random_dice(4), "other", recipe="none")
    assert [len(one.runs) for one in group_seeds(distinct_labels([seeds[0], copy, other]))] == [1, 1, 1]


DICE = random_dice(1, cases=4)
FEWER = {case: DICE[case] for case in list(DICE)[:3]}
ABSENT = {case: [values[0], None] for case, values in DICE.items()}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"dataset": "Dataset002_LA"}, "dataset: Dataset001_Synapse in .*, Dataset002_LA in "),
        ({"split": "full"}, "split: 10pct in .*, full in "),
        ({"fold": "0"}, "folds: official in .*, 0 in "),
        ({"dice": FEWER}, "cases scored in SAMoraTrainer__10pct__one only: case_03"),
        ({"dice": ABSENT}, "references of case_00, case_01, case_02, case_03 between"),
        ({"patients": {"case_00": "p"}}, "patients of case_00 between"),
        ({"tolerance": 3.0}, r"tolerance of the NSD: 2\.0 in .*, 3\.0 in "),
        ({"labels": LabelScheme({"liver": (1,), "lien": (2,)})}, "labels: liver, spleen in .*, liver, lien in "),
    ],
)
def test_what_was_scored_otherwise_is_refused_and_named(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    first = variant(tmp_path, DICE, "one")
    second = variant(tmp_path, changes.pop("dice", DICE), "two", **changes)
    with pytest.raises(DataError, match=f"(?s)E-CMP-03.*{text}"):
        compare([first, second], first, "physical")
