from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from samora_pipeline.contracts.dataset import (
    DatasetJson,
    PublishedBudget,
    PublishedSplit,
    SamoraJson,
    read_dataset,
    read_dataset_json,
    write_dataset,
)
from samora_pipeline.errors import DataError

DESCRIPTION = DatasetJson({"0": "CT"}, {"background": 0, "liver": 1}, 2, ".nii.gz", extra={"licence": "CC0"})
OURS = SamoraJson(
    phantom=True,
    budget_unit="slices",
    published_split=PublishedSplit(("a",), ("b",)),
    budgets={"10pct": PublishedBudget("slices", ("a",), {"a": (1, 2)})},
)


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_both_descriptions_round_trip_and_unknown_keys_stay(tmp_path: Path) -> None:
    write_dataset(tmp_path, DESCRIPTION, OURS)
    assert json.loads((tmp_path / "dataset.json").read_text())["licence"] == "CC0"
    dataset = read_dataset(tmp_path)
    assert dataset.description == DESCRIPTION
    assert dataset.ours == OURS


def test_cases_are_found_with_their_labels_and_hidden_files_are_not(tmp_path: Path) -> None:
    write_dataset(tmp_path, DESCRIPTION, OURS)
    touch(tmp_path / "imagesTr", "a_0000.nii.gz", "b_0000.nii.gz", "._a_0000.nii.gz")
    touch(tmp_path / "labelsTr", "a.nii.gz")
    touch(tmp_path / "imagesUn", "c_0000.nii.gz")
    dataset = read_dataset(tmp_path)
    training = dataset.training()
    assert list(training) == ["a", "b"]
    assert training["a"].label == tmp_path / "labelsTr" / "a.nii.gz"
    assert training["b"].label is None
    assert list(dataset.unlabelled()) == ["c"]
    assert dataset.test() == {}
    assert dataset.patient("a") == "a"


@pytest.mark.parametrize(
    ("files", "code"),
    [
        (("a.nii.gz",), "E-CHAN-02"),
        (("a_0001.nii.gz",), "E-CHAN-01"),
        (("a_0000.nii.gz", "a_0001.nii.gz"), "E-CHAN-01"),
    ],
)
def test_wrong_channels_are_refused(tmp_path: Path, files: tuple[str, ...], code: str) -> None:
    write_dataset(tmp_path, DESCRIPTION, OURS)
    touch(tmp_path / "imagesTr", *files)
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path).training()
    assert caught.value.code == code


def test_a_folder_without_dataset_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="E-DATA-01"):
        read_dataset(tmp_path)


def test_a_file_of_nnunet_is_read_without_ours(tmp_path: Path) -> None:
    plain = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}}
    rest = {
        "regions_class_order": [1, 2],
        "numTraining": 1,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "X",
    }
    (tmp_path / "dataset.json").write_text(json.dumps({**plain, **rest}))
    dataset = read_dataset(tmp_path)
    assert dataset.scheme.regions
    assert dataset.scheme.ignore == 3
    assert dataset.description.extra == {"overwrite_image_reader_writer": "X"}
    assert dataset.ours == SamoraJson()


@pytest.mark.parametrize(
    "old",
    [
        {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "cancer"}},
        {"modality": ["CT"], "labels": ["Background", "liver", "cancer"]},
        {"modality": ["CT"], "labels": {"0": "clear", "2": "cancer", "1": "liver"}, "numTraining": 2},
        {"channel_names": ["CT"], "labels": {"background": 0, "liver": 1, "cancer": 2}, "file_ending": ".nii.gz"},
    ],
)
@pytest.mark.parametrize("paths_alone", [False, True])
def test_older_forms_are_read(tmp_path: Path, old: dict[str, Any], paths_alone: bool) -> None:
    images = ["./imagesTr/a.nii.gz", "./imagesTr/b.nii.gz"]
    pairs = [{"image": image, "label": image.replace("images", "labels")} for image in images]
    listed = {"training": images if paths_alone else pairs, "test": ["./imagesTs/c.nii.gz"], "name": "Liver"}
    (tmp_path / "dataset.json").write_text(json.dumps({**old, **listed}))
    read = read_dataset_json(tmp_path / "dataset.json")
    assert read.channel_names == {"0": "CT"}
    assert read.scheme.names == {"liver": (1,), "cancer": (2,)}
    assert (read.numTraining, read.file_ending, read.extra["name"]) == (2, ".nii.gz", "Liver")


@pytest.mark.parametrize("labels", [7, {"0": 1}, ["background", 3], {}])
def test_labels_of_no_form_are_refused_by_name(tmp_path: Path, labels: Any) -> None:
    plain = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz", "training": 3}
    (tmp_path / "dataset.json").write_text(json.dumps(plain))
    with pytest.raises(DataError, match=r"E-JSON-03|E-LABEL-01"):
        read_dataset_json(tmp_path / "dataset.json")
