from __future__ import annotations

from pathlib import Path

import pytest

from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.inference.case import InputCase, find_cases, own_share, parse_shard, refuse_overwriting

ONE = ("CT",)
TWO = ("T2", "ADC")


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def shown(cases: list[InputCase]) -> dict[str, list[str]]:
    return {case.name: [path.name for path in case.channels] for case in cases}


def test_channels_are_grouped_in_order(tmp_path: Path) -> None:
    folder = touch(tmp_path, "b_0001.nii.gz", "b_0000.nii.gz", "a_1_0000.nii.gz", "a_1_0001.nii.gz", "notes.txt")
    touch(folder, ".partial-1234-c_0000.nii.gz", "._b_0000.nii.gz")
    assert shown(find_cases(folder, TWO)) == {
        "a_1": ["a_1_0000.nii.gz", "a_1_0001.nii.gz"],
        "b": ["b_0000.nii.gz", "b_0001.nii.gz"],
    }


def test_a_single_channel_needs_no_number(tmp_path: Path) -> None:
    # Without any _0000 in the folder the digits are part of the names.
    assert shown(find_cases(touch(tmp_path / "a", "amos_0117.nii.gz", "scan.nrrd"), ONE)) == {
        "amos_0117": ["amos_0117.nii.gz"],
        "scan": ["scan.nrrd"],
    }
    mixed = find_cases(touch(tmp_path / "b", "one_0000.nii.gz", "two.NII.GZ"), ONE)
    assert shown(mixed) == {"one": ["one_0000.nii.gz"], "two": ["two.NII.GZ"]}
    assert [case.ending for case in mixed] == [".nii.gz", ".NII.GZ"]


def test_one_file_is_one_case(tmp_path: Path) -> None:
    touch(tmp_path, "p[1]_0000.nii.gz", "p[1]_0001.nii.gz", "p1_0000.nii.gz", "q.nii.gz")
    assert shown(find_cases(tmp_path / "q.nii.gz", ONE)) == {"q": ["q.nii.gz"]}
    assert shown(find_cases(tmp_path / "p1_0000.nii.gz", ONE)) == {"p1": ["p1_0000.nii.gz"]}
    both = {"p[1]": ["p[1]_0000.nii.gz", "p[1]_0001.nii.gz"]}
    assert shown(find_cases(tmp_path / "p[1]_0000.nii.gz", TWO)) == both


def test_every_case_with_wrong_channels_is_named(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a_0000.nii.gz", "c_0000.nii.gz", "c_0002.nii.gz", "d.nii.gz")
    with pytest.raises(DataError, match="E-CHAN-04") as caught:
        find_cases(folder, TWO)
    assert caught.value.found == "3 of 3 cases: a has _0000; c has _0000 and _0002; d.nii.gz has no channel number"
    assert caught.value.expected.startswith("2 per case (T2, ADC)")


def test_wrong_channels_concern_their_case_alone_where_others_fit(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a_0000.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz", "c_0001.nii.gz", "c_0002.nii.gz")
    faults = {case.name: case.fault.code if case.fault else None for case in find_cases(folder, TWO)}
    assert faults == {"a": "E-CHAN-04", "b": None, "c": "E-CHAN-04"}


def test_images_are_found_at_any_depth_and_named_with_their_folders(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.nii.gz")
    touch(tmp_path / "in" / "p 1" / "s", "b.mhd", "c.jpg", "d.tif")
    (tmp_path / "in" / "gone.nii").symlink_to("nowhere")
    cases = find_cases(tmp_path / "in", ONE)
    endings = {"a": ".nii.gz", "gone": ".nii", "p_1_s_b": ".mha", "p_1_s_c": ".png", "p_1_s_d": ".nii.gz"}
    assert {case.name: case.ending for case in cases} == endings


def test_predictions_and_labels_below_are_no_input(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz")
    touch(tmp_path / "labelsTr", "a.nii.gz")
    touch(tmp_path / "out", "a.nii.gz")
    touch(tmp_path / "earlier", "a.nii.gz", "run.json")
    assert [case.name for case in find_cases(tmp_path, ONE, leave_out=[tmp_path / "out"])] == ["a"]


def test_names_that_meet_from_two_places_are_one_faulty_case(tmp_path: Path) -> None:
    touch(tmp_path, "p_a.nii.gz", "b.nii.gz")
    touch(tmp_path / "p", "a.nii.gz")
    faults = {case.name: case.fault.code if case.fault else None for case in find_cases(tmp_path, ONE)}
    assert faults == {"b": None, "p_a": "E-INPUT-02"}


def test_too_many_channels_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="E-CHAN-04") as caught:
        find_cases(touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz"), ONE)
    assert caught.value.found == "1 of 1 cases: a has _0000 and _0001"


def test_two_files_for_one_case_are_refused(tmp_path: Path) -> None:
    for names in (("a_0000.nii.gz", "a.nii.gz"), ("a.nii", "a.nii.gz")):
        with pytest.raises(DataError, match="E-INPUT-02"):
            find_cases(touch(tmp_path / names[1], *names), ONE)


def test_nothing_to_predict_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "other", "scan.txt", "report.pdf")
    for source, found in (
        (tmp_path / "empty", "nothing in it"),
        (tmp_path / "other", "report.pdf, scan.txt"),
        (tmp_path / "absent", "no file or folder"),
        (tmp_path / "other" / "scan.txt", "the file"),
    ):
        with pytest.raises(DataError, match="E-INPUT-01") as caught:
            find_cases(source, ONE)
        assert found in caught.value.found


def test_shares_cover_all_cases_once(tmp_path: Path) -> None:
    cases = find_cases(touch(tmp_path, *(f"case_{i:02d}.nii.gz" for i in range(7))), ONE)
    shares = [own_share(cases, parse_shard(f"{i}/3")) for i in (1, 2, 3)]
    assert sorted((case for share in shares for case in share), key=lambda case: case.name) == cases
    assert [len(share) for share in shares] == [3, 2, 2]
    assert own_share(cases, parse_shard(None)) == cases


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="E-ARG-04"):
        parse_shard(text)


def test_images_are_never_written_over(tmp_path: Path) -> None:
    image = touch(tmp_path / "in", "a.nii.gz") / "a.nii.gz"
    for images, output in ((tmp_path / "in", tmp_path / "in"), (image, tmp_path / "in"), (tmp_path / "in", image)):
        with pytest.raises(DataError, match="E-OUT-02"):
            refuse_overwriting(images, output)
    with pytest.raises(DataError, match=r"(?s)E-OUT-02.*name of an image.*-o .*seg_predicted"):
        refuse_overwriting(image, tmp_path / "seg.nii.gz")
    refuse_overwriting(image, tmp_path / "out")
