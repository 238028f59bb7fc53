from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from samora_pipeline.contracts.dataset import RawCase
from samora_pipeline.contracts.plans import IntensityRule, Plans
from samora_pipeline.contracts.scores import Summary
from samora_pipeline.errors import DataError
from samora_pipeline.evaluation.scoring import Rules, score_files
from samora_pipeline.evaluation.summary import label_names, summarize
from samora_pipeline.imaging.files import write_labels
from samora_pipeline.imaging.volume import Volume, make_grid
from samora_pipeline.reporting.pictures import (
    CaseStack,
    choose_cases,
    errors,
    read_case,
    representative_slice,
    shown_case,
)
from tests.fake_run import LABELS, REGIONS, make_plans, write_image

LPS = np.diag([-1.0, -2.0, 3.0, 1.0])


def summary_of(folder: Path, pairs: dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]) -> Summary:
    """Write reference and prediction of each case and score them."""
    files = []
    for name, arrays in pairs.items():
        paths = folder / "ref" / f"{name}.nii.gz", folder / "pred" / f"{name}.nii.gz"
        for path, array in zip(paths, arrays, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_labels(path, array, Volume(array, make_grid(array.shape, LPS), path))
        files.append(paths)
    return summarize(score_files(files, Rules(LABELS, 2.0, True), {}), label_names(LABELS), warnings=("PHANTOM",))


def block(size: int) -> npt.NDArray[np.uint8]:
    array = np.zeros((12, 10, 6), dtype=np.uint8)
    array[2 : 2 + size, 2:6, 1:4] = 1
    return array


def read_stack(folder: Path, image: Path, plans: Plans) -> CaseStack:
    """Case a of ``summary_of`` on a scan."""
    return read_case(RawCase("a", (image,), folder / "ref" / "a.nii.gz"), [folder / "pred" / "a.nii.gz"], plans)


def test_worst_median_and_best_are_chosen_by_mean_dice(tmp_path: Path) -> None:
    summary = summary_of(
        tmp_path,
        {
            "good": (block(4), block(4)),
            "bad": (block(4), np.zeros_like(block(4))),
            "fair": (block(4), block(2)),
            "close": (block(4), block(3)),
            "empty": (np.zeros_like(block(4)), block(4)),
        },
    )
    assert [(chosen.role, chosen.case.case) for chosen in choose_cases(summary)] == [
        ("worst", "bad"),
        ("median", "fair"),
        ("best", "good"),
    ]
    assert choose_cases(summary)[1].dice == pytest.approx(2 / 3)


@pytest.mark.parametrize(("number", "roles"), [(0, []), (1, ["only case"]), (2, ["worst", "best"])])
def test_few_cases_are_not_repeated(tmp_path: Path, number: int, roles: list[str]) -> None:
    pairs = {f"c{i}": (block(4), block(4 - i)) for i in range(number)}
    summary = summary_of(tmp_path, {"empty": (np.zeros_like(block(4)), block(4)), **pairs})
    assert [chosen.role for chosen in choose_cases(summary)] == roles


def test_errors_have_three_kinds() -> None:
    reference = np.array([[0, 0, 1, 1, 1, 2, 2]], dtype=np.uint8)
    prediction = np.array([[0, 2, 0, 1, 2, 1, 2]], dtype=np.uint8)
    found = {name: mask[0].tolist() for name, mask in errors(reference, prediction, LABELS).items()}
    assert found == {
        "missed": [False, False, True, False, False, False, False],
        "false": [False, True, False, False, False, False, False],
        "confused": [False, False, False, False, True, True, False],
    }


def test_errors_of_regions_leave_ignored_voxels_out() -> None:
    reference = np.array([3, 3, 1, 2, 2, 0], dtype=np.uint8)
    prediction = np.array([1, 0, 1, 1, 2, 2], dtype=np.uint8)
    found = {name: np.flatnonzero(mask).tolist() for name, mask in errors(reference, prediction, REGIONS).items()}
    # A core voxel called whole is in one region and not in the other.
    assert found == {"missed": [], "false": [5], "confused": [3]}


def test_the_representative_slice_has_most_errors_or_most_foreground() -> None:
    reference = np.zeros((5, 4, 4), dtype=np.uint8)
    reference[1, :, :] = 1
    reference[3, :2, :] = 2
    prediction = reference.copy()
    prediction[3] = 0
    assert representative_slice(reference, prediction, LABELS, by_error=True) == 3
    assert representative_slice(reference, prediction, LABELS, by_error=False) == 1
    assert representative_slice(reference, reference, LABELS, by_error=True) == 1
    nothing = np.zeros_like(reference)
    assert representative_slice(nothing, prediction, LABELS, by_error=False) == 1
    assert representative_slice(nothing, nothing, LABELS, by_error=True) == 2


@pytest.mark.parametrize(
    ("axis", "aspect", "corner"), [("axial", 2.0, (0, 0)), ("coronal", 3.0, (-1, 0)), ("sagittal", 1.5, (-1, 0))]
)
def test_pictures_stand_as_a_radiologist_expects(
    tmp_path: Path, axis: str, aspect: float, corner: tuple[int, int]
) -> None:
    labels = block(4)
    summary = summary_of(tmp_path, {"a": (labels, labels)})
    # In LPS order voxel 0, 0, 0 is the patient's right, front and feet: top left in axial, bottom left otherwise.
    array = np.zeros(labels.shape, dtype=np.int16)
    array[:3, :3, :3] = 1000
    image = write_image(tmp_path / "a_0000.nii.gz", array, LPS)
    stack = read_stack(tmp_path, image, make_plans(slice_axis=axis, intensity=(IntensityRule("range"),)))
    case = shown_case(choose_cases(summary)[0], stack, [summary])
    first = stack.images[case.first_slice(LABELS), 0]
    assert stack.aspect == pytest.approx(aspect)
    assert first[corner] == 1.0
    assert first.sum() == 9
    assert np.array_equal(stack.reference, stack.predictions[0])
    assert case.organs == {"liver": [1.0], "spleen": [None]}
    assert case.title == "Only case: a, mean Dice 1.000"


def test_a_prediction_on_another_grid_is_refused(tmp_path: Path) -> None:
    summary_of(tmp_path, {"a": (block(4), block(3))})
    image = write_image(tmp_path / "a_0000.nii.gz", np.zeros((12, 10, 6), dtype=np.int16), LPS @ np.diag([1, 1, 2, 1]))
    with pytest.raises(DataError, match="E-GEO-02"):
        read_stack(tmp_path, image, make_plans())
