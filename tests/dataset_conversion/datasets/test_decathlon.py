"""The decathlon's layout: real hippocampus files where they are at hand, drawn ones for the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dataset_conversion.datasets.decathlon import TASKS, Decathlon
from dataset_conversion.datasets.lits import LiTS
from dataset_conversion.survey import ConversionReport
from samora_pipeline.contracts.dataset import read_dataset
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.intensity import scheme_of_channel
from tests.dataset_conversion.sources import labels, make_decathlon, scan, write_nifti

REAL = (
    Path(os.environ.get("SAMORA_TEST_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
    / "Task04_Hippocampus"
)
CONVERTER = Decathlon()


def _convert(source: Path, tmp_path: Path) -> tuple[Path, ConversionReport]:
    target = tmp_path / "raw" / "Dataset014_Sample"
    return target, CONVERTER.convert(source, target, CONVERTER.options())


@pytest.mark.skipif(not REAL.is_dir(), reason="real hippocampus scans are not in SAMORA_TEST_DATA")
def test_real_hippocampus_volumes_arrive_byte_for_byte(tmp_path: Path) -> None:
    source = tmp_path / "Task04_Hippocampus"
    description = json.loads((REAL / "dataset.json").read_text())
    description["training"] = description["training"][:3]
    for folder in ("imagesTr", "labelsTr"):
        (source / folder).mkdir(parents=True)
        for pair in description["training"]:
            name = Path(pair["image"]).name
            (source / folder / name).symlink_to(REAL / folder / name)
    (source / "dataset.json").write_text(json.dumps(description))
    identity = CONVERTER.identify("Task04_Hippocampus", source, CONVERTER.options())
    assert (identity.home, identity.name) == (14, "Hippocampus")
    target, report = _convert(source, tmp_path)
    assert (report.training, report.test, report.skipped) == (3, 0, ())
    raw = read_dataset(target)
    assert raw.description.channel_names == {"0": "MRI"}
    assert raw.description.labels == {"background": 0, "Anterior": 1, "Posterior": 2}
    assert raw.description.extra["licence"] == "CC-BY-SA 4.0"
    assert list(raw.training()) == ["hippocampus_007", "hippocampus_017", "hippocampus_019"]
    for name, case in raw.training().items():
        assert case.channels[0].read_bytes() == (REAL / "imagesTr" / f"{name}.nii.gz").read_bytes()
        assert case.label is not None
        assert case.label.read_bytes() == (REAL / "labelsTr" / f"{name}.nii.gz").read_bytes()


def _make_task(folder: Path, number: int, **changes: object) -> Path:
    """Two training cases and a test case with the names, channels and labels of one of the ten tasks."""
    task = TASKS[number]
    source = folder / f"Task{number:02d}_{task.name}"
    shape = (12, 10, 6) if len(task.channels) == 1 else (12, 10, 6, len(task.channels))
    names = [f"{task.name.lower()}_{case:03d}.nii.gz" for case in range(3)]
    for case, name in enumerate(names):
        write_nifti(source / ("imagesTs" if case == 2 else "imagesTr") / name, scan(case, shape))
        if case < 2:
            write_nifti(source / "labelsTr" / name, labels(case, top=len(task.labels)))
    description = {
        "name": task.name,
        "modality": {str(index): name for index, name in enumerate(task.channels)},
        "labels": {"0": "background", **{str(value): name for value, name in enumerate(task.labels, start=1)}},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names[:2]],
        "test": [f"./imagesTs/{names[2]}"],
        **changes,
    }
    (source / "dataset.json").write_text(json.dumps(description))
    return source


@pytest.mark.parametrize("number", TASKS)
def test_each_of_the_ten_tasks(number: int, tmp_path: Path) -> None:
    source = _make_task(tmp_path / "in", number)
    identity = CONVERTER.identify(source.name, source, CONVERTER.options())
    assert (identity.name, identity.home) == (TASKS[number].name, 10 + number)
    target, report = _convert(source, tmp_path)
    assert (report.training, report.test, report.skipped) == (2, 1, ())
    raw = read_dataset(target)
    names = list(raw.description.channel_names.values())
    assert [name.lower() for name in names] == [name.lower() for name in TASKS[number].channels]
    # Planning knows each channel, and takes CT alone for Hounsfield units.
    assert [scheme_of_channel(name) for name in names] == [
        "window" if name == "CT" else "percentiles" for name in names
    ]
    assert raw.description.labels == {
        "background": 0,
        **{name: value for value, name in enumerate(TASKS[number].labels, start=1)},
    }
    assert all(len(case.channels) == len(names) for case in raw.training().values())
    task = TASKS[number]
    assert f"2 of the {task.training} distributed training cases are listed in this copy" in report.notes
    assert any("LiTS" in note for note in report.notes) == (number == 3)


def test_the_liver_task_has_the_labels_of_lits(tmp_path: Path) -> None:
    liver = CONVERTER.survey(_make_task(tmp_path, 3), CONVERTER.options()).description.labels
    lits = next(iter(LiTS.label_maps.values())).labels
    assert sorted(liver.values()) == sorted(lits.values())
    assert liver["liver"] == lits["liver"] == 1
    assert liver["cancer"] == lits["tumour"] == 2


def test_a_copy_with_other_labels_is_told(tmp_path: Path) -> None:
    source = _make_task(tmp_path, 9, labels={"0": "background", "1": "kidney"})
    notes = CONVERTER.survey(source, CONVERTER.options()).notes
    assert notes[0] == "labels kidney are not those of the distributed task (spleen)"


def test_channels_of_four_dimensions_become_files_on_the_same_grid(tmp_path: Path) -> None:
    source = make_decathlon(tmp_path / "in", channels=3)
    target, report = _convert(source, tmp_path)
    assert (report.training, report.test) == (3, 1)
    raw = read_dataset(target)
    assert raw.description.channel_names == {"0": "MRI", "1": "T2", "2": "ADC"}
    original = nibabel.load(source / "imagesTr" / "tiny_001.nii.gz")
    for number, path in enumerate(raw.training()["tiny_001"].channels):
        part = nibabel.load(path)
        assert path.name == f"tiny_001_{number:04d}.nii.gz"
        np.testing.assert_array_equal(np.asanyarray(part.dataobj), np.asanyarray(original.dataobj)[..., number])
        np.testing.assert_allclose(part.affine, original.affine)
        assert part.get_data_dtype() == np.int16
        assert part.header.get_zooms() == original.header.get_zooms()[:3]
    assert raw.test()["tiny_003"].label is None


def test_a_single_channel_stored_as_four_dimensions_is_made_three(tmp_path: Path) -> None:
    source = make_decathlon(tmp_path / "in")
    write_nifti(source / "imagesTr" / "tiny_000.nii.gz", scan(0)[..., None])
    target, report = _convert(source, tmp_path)
    assert not report.skipped
    path = target / "imagesTr" / "tiny_000_0000.nii.gz"
    assert nibabel.load(path).shape == (12, 10, 6)
    np.testing.assert_array_equal(read_volume(path).array, scan(0))


def test_the_folder_above_the_task_serves_as_well(tmp_path: Path) -> None:
    source = make_decathlon(tmp_path / "in").parent
    identity = CONVERTER.identify("Task04_Tiny", source, CONVERTER.options())
    assert (identity.name, identity.home) == ("Tiny", 14)
    assert CONVERTER.identify("Decathlon", source, CONVERTER.options()) == identity
    _, report = _convert(source, tmp_path)
    assert report.training == 3


def test_faulty_cases_are_skipped_one_by_one(tmp_path: Path) -> None:
    source = make_decathlon(tmp_path / "in", training=6)
    truncated = source / "imagesTr" / "tiny_000.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:-40])
    (source / "labelsTr" / "tiny_001.nii.gz").unlink()
    write_nifti(source / "labelsTr" / "tiny_002.nii.gz", np.full((12, 10, 6), 7, np.uint8))
    write_nifti(source / "labelsTr" / "tiny_003.nii.gz", np.zeros((12, 10, 5), np.uint8))
    broken = scan(4).astype(np.float32)
    broken[3, 4, 5] = np.nan
    write_nifti(source / "imagesTr" / "tiny_004.nii.gz", broken)
    target, report = _convert(source, tmp_path)
    assert {fault.case: fault.code for fault in report.skipped} == {
        "tiny_000": "E-IMG-02",
        "tiny_001": "E-IMG-01",
        "tiny_002": "E-LABEL-09",
        "tiny_003": "E-GEO-01",
        "tiny_004": "E-IMG-05",
    }
    raw = read_dataset(target)
    assert list(raw.training()) == ["tiny_005"]
    assert raw.description.numTraining == 1
    assert [path.name for path in (target / "labelsTr").iterdir()] == ["tiny_005.nii.gz"]


def test_files_that_the_description_does_not_list_are_left_out_and_told(tmp_path: Path) -> None:
    source = make_decathlon(tmp_path / "in")
    write_nifti(source / "imagesTr" / "stray.nii.gz", scan(8))
    _, report = _convert(source, tmp_path)
    assert "stray.nii.gz" in report.notes[0]


@pytest.mark.parametrize("name", ["/etc/passwd", "../../secret.nii.gz", "imagesTr/a\nb.nii.gz"])
def test_names_that_lead_out_of_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    source = make_decathlon(tmp_path / "in")
    description = json.loads((source / "dataset.json").read_text())
    description["training"][0]["image"] = name
    (source / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(DataError) as caught:
        _convert(source, tmp_path)
    assert caught.value.code == "E-PATH-01"
    assert not (tmp_path / "raw").exists()


def test_a_case_listed_twice_is_skipped(tmp_path: Path) -> None:
    source = make_decathlon(tmp_path / "in")
    description = json.loads((source / "dataset.json").read_text())
    description["training"].append(description["training"][0])
    (source / "dataset.json").write_text(json.dumps(description))
    _, report = _convert(source, tmp_path)
    assert [(fault.case, fault.code) for fault in report.skipped] == [("tiny_000", "E-INPUT-02")]
    assert report.training == 2


def test_lists_in_place_of_objects_are_read(tmp_path: Path) -> None:
    source = make_decathlon(tmp_path / "Task09_Spleen")
    description = json.loads((source / "dataset.json").read_text())
    expected = _convert(source, tmp_path / "objects")
    for key in ("modality", "labels"):
        description[key] = [name for _, name in sorted(description[key].items())]
    description["training"] = [pair["image"] for pair in description["training"]]
    description["test"] = [{"image": name} for name in description["test"]]
    (source / "dataset.json").write_text(json.dumps(description))
    target, report = _convert(source, tmp_path / "lists")
    assert (report.training, report.test) == (expected[1].training, expected[1].test)
    assert read_dataset(target).description == read_dataset(expected[0]).description
