"""What a walk finds: every depth, links, odd entries; and how files are told into cases."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from samora_pipeline.imaging.inputs import (
    FolderContent,
    case_name,
    fault_of_channels,
    fault_of_name,
    group_channels,
    series_in,
    walk,
)
from tests.imaging.dicom_files import write_series


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(source: Path) -> list[str]:
    return sorted(case_name(source, content.folder, path.name) for content in walk(source) for path in content.images)


def test_every_depth_is_walked_and_hidden_things_are_not(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / "p" / "s 1" / "b.nrrd", tmp_path / "p" / "c.JPG", tmp_path / "notes.txt")
    touch(tmp_path / ".cache" / "d.nii", tmp_path / "__MACOSX" / "e.nii", tmp_path / "._a.nii.gz")
    assert names(tmp_path) == ["a.nii.gz", "p_c.JPG", "p_s_1_b.nrrd"]
    assert [path.name for content in walk(tmp_path) for path in content.others] == ["notes.txt"]
    assert walk(tmp_path / "absent") == []
    assert [content.folder for content in walk(tmp_path, leave_out=[tmp_path / "p"])] == [tmp_path]


def test_linked_folders_are_walked_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "deep" / "a.nii", tmp_path / "in" / "own" / "b.nii")
    (tmp_path / "in" / "link").symlink_to("../elsewhere")
    (tmp_path / "in" / "again").symlink_to("own")
    (tmp_path / "elsewhere" / "round").symlink_to("..")
    (tmp_path / "in" / "self").symlink_to(".")
    assert names(tmp_path / "in")[:2] == ["link_deep_a.nii", "own_b.nii"]
    assert len(names(tmp_path / "in")) == 2


def test_a_name_of_an_image_counts_whatever_is_behind_it(tmp_path: Path) -> None:
    (tmp_path / "gone.nii.gz").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.nrrd")
    (tmp_path / "folder.nii").mkdir()
    assert names(tmp_path) == ["gone.nii.gz", "pipe.nrrd"]


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a" / "x.nii", tmp_path / "b" / "y.nii")
    usual = Path.iterdir

    def iterdir(self: Path) -> object:
        if self.name == "a":
            raise PermissionError(13, "Permission denied")
        return usual(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    faults = {content.folder.name: content.fault.code if content.fault else None for content in walk(tmp_path)}
    assert faults == {tmp_path.name: None, "a": "E-IMG-07", "b": None}


def test_series_are_called_after_their_folders_in_any_script(tmp_path: Path) -> None:
    for folder in ("张三", "李四/研究 1"):
        write_series(tmp_path / folder)
    found = [one.name for content in walk(tmp_path) for one in series_in(tmp_path, content)]
    assert sorted(found) == sorted(["张三", "李四_研究_1"])
    (alone,) = series_in(tmp_path / "张三", walk(tmp_path / "张三")[0])
    assert alone.name == "张三"


def grouped(*names: str, numbered: bool | None = None) -> dict[str, list[int]]:
    stems = {Path(f"{name}.nii"): name for name in names}
    return {case: sorted(channels) for case, channels in group_channels(stems, numbered=numbered).items()}


def test_four_digits_are_a_channel_where_a_first_channel_is_there() -> None:
    assert grouped("amos_0001", "amos_0002") == {"amos_0001": [0], "amos_0002": [0]}
    assert grouped("a_0000", "a_0001", "b_0001", "b_0002", "c") == {"a": [0, 1], "b": [1, 2], "c": [0]}
    assert grouped("a_0000", numbered=False) == {"a_0000": [0]}
    assert grouped("b_0001", "b_0003", numbered=True) == {"b": [1, 3]}


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({0: ["a_0000.nii"], 1: ["a_0001.nii"]}, None),
        ({0: ["a.nii", "a.nii.gz"]}, "E-INPUT-02"),
        ({1: ["a_0001.nii"], 2: ["a_0002.nii"]}, "E-CHAN-01"),
        ({0: ["a_0000.nii"], 2: ["a_0002.nii"]}, "E-CHAN-01"),
    ],
)
def test_numbers_run_from_zero_with_a_file_each(files: dict[int, list[str]], code: str | None) -> None:
    channels = {number: [Path(name) for name in listed] for number, listed in files.items()}
    fault = fault_of_channels("a", channels)
    assert (fault.code if fault else None) == code


@pytest.mark.parametrize("name", ["", "a\nb", ".a", "a/b", os.fsdecode(b"M\xfcnster")])
def test_names_that_cannot_be_recorded_are_faults(name: str) -> None:
    fault = fault_of_name(name)
    assert fault is not None
    assert fault.code == "E-CASE-02"
    fault.text().encode()
    assert fault_of_name("Müller 张三 (1)") is None


def test_content_is_sorted_by_what_it_is(tmp_path: Path) -> None:
    files = write_series(tmp_path)
    touch(tmp_path / "a.nii", tmp_path / "b.png", tmp_path / "c.raw")
    (content,) = walk(tmp_path)
    assert isinstance(content, FolderContent)
    assert sorted(content.dicom) == sorted(files)
    kinds = [[path.name for path in listed] for listed in (content.volumes, content.pictures, content.others)]
    assert kinds == [["a.nii"], ["b.png"], ["c.raw"]]
