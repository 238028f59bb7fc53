from pathlib import Path

from planners.cases import list_cases, missing_images
from samora_pipeline.contracts.dataset import read_dataset
from tests.raw_data import make_raw_dataset


def test_cases_and_their_subsets(tmp_path: Path) -> None:
    raw = make_raw_dataset(tmp_path / "Dataset007_Boxes", cases=2, test=1, unlabelled=1)
    (raw / "labelsTr/case_01.nii.gz").unlink()
    (raw / "imagesTr/._case_01_0000.nii.gz").write_bytes(b"a file manager's")
    sources, faults = list_cases(read_dataset(raw))
    assert not faults
    assert [(source.name, source.subset, source.raw.label is not None) for source in sources] == [
        ("case_00", "train", True),
        ("case_01", "unlabelled", False),
        ("test_00", "test", True),
        ("free_00", "unlabelled", False),
    ]
    both = raw / "imagesTr/case_00_0000.nii.gz", raw / "labelsTr/case_00.nii.gz"
    assert sources[0].bytes_on_disk == sum(path.stat().st_size for path in both)


def test_names_that_would_collide_or_hide_something_are_refused(tmp_path: Path) -> None:
    names = ("case", "case_label", "line\nbreak", "fine")
    sources, faults = list_cases(read_dataset(make_raw_dataset(tmp_path / "Dataset007_Boxes", cases=names)))
    assert [source.name for source in sources] == ["case", "fine"]
    assert {case: errors[0].code for case, errors in faults.items()} == {
        "case_label": "E-CASE-02",
        "line\nbreak": "E-CASE-02",
    }


def test_labels_without_an_image(tmp_path: Path) -> None:
    dataset = read_dataset(make_raw_dataset(tmp_path / "Dataset007_Boxes", cases=2))
    (dataset.folder / "imagesTr/case_00_0000.nii.gz").unlink()
    sources, _ = list_cases(dataset)
    assert missing_images(dataset, sources) == ["case_00.nii.gz"]
