import json
from pathlib import Path

import numpy as np
import pytest

from planners.cases import list_cases
from planners.fingerprint_extractor import SAMPLES_PER_CASE, same_files, survey
from samora_pipeline.contracts.dataset import read_dataset
from samora_pipeline.files import digest_file
from samora_pipeline.parallel import Engine
from tests.raw_data import load, make_raw_dataset, save


def test_the_fingerprint_is_what_numpy_measures(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    raw = make_raw_dataset(tmp_path / "Dataset007_Boxes", cases=3, unlabelled=1, channels=("CT", "MR"), labels=labels)
    description = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**description, "regions_class_order": [1, 2]}))
    (raw / "labelsTr/case_02.nii.gz").unlink()
    dataset = read_dataset(raw)
    sources, faults = list_cases(dataset)
    assert not faults
    found = survey("Dataset007_Boxes", sources, dataset.scheme, frozenset(), Engine(1)).fingerprint
    assert {name: case.subset for name, case in found.cases.items()} == {
        "case_00": "train",
        "case_01": "train",
        "case_02": "unlabelled",
        "free_00": "unlabelled",
    }
    case = found.cases["case_00"]
    label = load(raw / "labelsTr/case_00.nii.gz")
    assert (case.shape, case.axes) == ((20, 18, 6), "LAS")
    assert case.spacing == pytest.approx((1.5, 1.5, 4.0))
    assert case.label_voxels == {"whole": int(np.isin(label, (1, 2)).sum()), "core": int((label == 2).sum())}
    assert case.label_digest == digest_file(raw / "labelsTr/case_00.nii.gz")
    pooled = []
    for channel in (0, 1):
        voxels = load(raw / f"imagesTr/case_00_{channel:04d}.nii.gz").astype(float)
        inside = voxels[np.isin(label, (1, 2))]
        for stats, values in ((case.volume[channel], voxels), (case.foreground[channel], inside)):
            assert stats is not None
            assert stats.mean == pytest.approx(values.mean())
            assert stats.percentile_99_5 == pytest.approx(np.percentile(values, 99.5))
        other = load(raw / f"imagesTr/case_01_{channel:04d}.nii.gz").astype(float)
        pooled.append(np.concatenate([inside, other[np.isin(load(raw / "labelsTr/case_01.nii.gz"), (1, 2))]]))
    for stats, values in zip(found.foreground, pooled, strict=True):
        assert stats is not None
        assert stats.percentile_00_5 == pytest.approx(np.percentile(values, 0.5))
        assert stats.mean == pytest.approx(values.mean(), rel=1e-6)
    assert found.cases["free_00"].foreground == (None, None)
    assert found.cases["free_00"].label_voxels == {}


def test_workers_find_the_same(tmp_path: Path) -> None:
    dataset = read_dataset(make_raw_dataset(tmp_path / "Dataset007_Boxes", cases=3, test=1))
    sources, _ = list_cases(dataset)
    alone, together = (survey("D", sources, dataset.scheme, frozenset(), Engine(workers)) for workers in (1, 2))
    assert alone == together


def test_nothing_is_measured_for_the_plan_on_published_test_cases(tmp_path: Path) -> None:
    raw = make_raw_dataset(tmp_path / "Dataset007_Boxes", cases=3)
    dataset = read_dataset(raw)
    sources, _ = list_cases(dataset)
    without = survey("D", sources, dataset.scheme, frozenset({"case_02"}), Engine(1)).fingerprint
    path = raw / "imagesTr/case_02_0000.nii.gz"
    save(path, load(path) + 500)
    assert (
        survey("D", sources, dataset.scheme, frozenset({"case_02"}), Engine(1)).fingerprint.foreground
        == without.foreground
    )
    assert survey("D", sources, dataset.scheme, frozenset(), Engine(1)).fingerprint.foreground != without.foreground
    assert "case_02" in without.cases


def test_large_cases_are_sampled_evenly(tmp_path: Path) -> None:
    raw = make_raw_dataset(tmp_path / "Dataset007_Boxes", cases=1, shape=(60, 60, 20))
    dataset = read_dataset(raw)
    sources, _ = list_cases(dataset)
    found = survey("D", sources, dataset.scheme, frozenset(), Engine(1)).fingerprint
    exact = found.cases["case_00"].foreground[0]
    pooled = found.foreground[0]
    assert exact is not None
    assert pooled is not None
    assert sum(found.cases["case_00"].label_voxels.values()) > SAMPLES_PER_CASE
    assert abs(pooled.percentile_00_5 - exact.percentile_00_5) <= 1
    assert abs(pooled.percentile_99_5 - exact.percentile_99_5) <= 1
    assert (pooled.minimum, pooled.maximum) == (exact.minimum, exact.maximum)


def test_a_changed_file_is_another_case(tmp_path: Path) -> None:
    raw = make_raw_dataset(tmp_path / "Dataset007_Boxes", cases=1)
    dataset = read_dataset(raw)
    sources, _ = list_cases(dataset)
    known = survey("D", sources, dataset.scheme, frozenset(), Engine(1)).fingerprint.cases["case_00"]
    assert same_files(sources[0], known)
    path = raw / "labelsTr/case_00.nii.gz"
    save(path, 2 * (load(path) > 0).astype(np.uint8))
    assert not same_files(sources[0], known)
    path.unlink()
    assert not same_files(list_cases(dataset)[0][0], known)
