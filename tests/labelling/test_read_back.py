"""samora_label: files as 3D Slicer and ITK-SNAP write them, made with pynrrd and nibabel, voxel by voxel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.labelling import HISTORY_FILE, ROUND_FILE, History, Round
from samora_pipeline.errors import SamoraError
from samora_pipeline.labelling import label_cli
from samora_pipeline.labelling.adding import Change, change_of
from samora_pipeline.labelling.corrections import read_correction
from samora_pipeline.labelling.scans import open_labelled, read_round
from samora_pipeline.paths import resolve_roots
from tests.labelling.conftest import NAME

CASE = "free_00"
IGNORE = 3
SHAPE = (24, 20, 12)


@pytest.fixture
def asked(root: Path) -> list[int]:
    return list(read_json(Round, root / "cold" / ROUND_FILE).asked(CASE))


def own(root: Path) -> Path:
    return root / "cold" / "scans" / CASE


def read_change(root: Path, *, accept_unchanged: bool = False) -> Change:
    record = read_round(root / "cold")
    dataset = open_labelled(record.dataset, resolve_roots(str(root)))
    found = read_correction(root / "cold", record, CASE, dataset, accept_unchanged=accept_unchanged)
    return change_of(found, dataset)


def code_of(root: Path) -> str:
    with pytest.raises(SamoraError) as raised:
        read_change(root)
    return raised.value.code


def add(root: Path, *words: str) -> int:
    return label_cli.main(["add", str(root / "cold"), "--root", str(root), *words])


def stored(root: Path, case: str = CASE) -> np.ndarray:
    """The labels that the raw dataset has now, by nibabel."""
    labels: np.ndarray = np.asarray(nibabel.load(root / "raw" / NAME / "labelsTr" / f"{case}.nii.gz").dataobj)
    return labels


def drawing() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:9, 4:10] = 1
    labels[12:15, 5:9] = 2
    return labels


def edit_proposal(root: Path, labels: np.ndarray) -> None:
    path = own(root) / f"{CASE}_proposal.seg.nrrd"
    _, header = nrrd.read(str(path))
    nrrd.write(str(path), labels, header)


def slicer_file(
    path: Path, layers: Sequence[np.ndarray], segments: Sequence[dict[str, Any]], offset: Sequence[int] = (0, 0, 0)
) -> None:
    """A segmentation with the header of 3D Slicer 5: ids, layers, label values, extents, one layer a component."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ nibabel.load(own_image(path)).affine
    header: dict[str, Any] = {
        "space": "left-posterior-superior",
        "encoding": "gzip",
        "space origin": affine[:3] @ [*offset, 1],
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|Closed surface|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": " ".join(map(str, offset)),
    }
    for number, fields in enumerate(segments):
        header |= {f"Segment{number}_{key}": str(value) for key, value in fields.items()}
    if len(layers) == 1:
        array, directions = layers[0], affine[:3, :3].T
        header["kinds"] = ["domain"] * 3
    else:
        array = np.stack(layers)
        directions = np.vstack([np.full(3, np.nan), affine[:3, :3].T])
        header["kinds"] = ["list", *["domain"] * 3]
    nrrd.write(str(path), array, {**header, "space directions": directions})


def own_image(path: Path) -> Path:
    return path.with_name(f"{CASE}_0000.nii.gz")


def segment(name: str, value: int, layer: int = 0, **fields: Any) -> dict[str, Any]:
    plain = {"ID": f"Segment_{name}", "Name": name, "LabelValue": value, "Layer": layer, "Extent": "0 3 0 3 0 3"}
    return {**plain, "Color": "0.5 0.2 0.1", "Tags": "TerminologyEntry:~~|", **fields}


def test_a_changed_slice_of_a_proposal_is_taken_whole_and_voxels_elsewhere_alone(root: Path, asked: list[int]) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, :, asked[0]] = drawing()[:, :, asked[0]]
    other = next(index for index in range(SHAPE[2]) if index not in asked)
    labels[7, 8:10, other] = 2
    edit_proposal(root, labels)
    expected = np.full(SHAPE, IGNORE, np.uint8)
    expected[:, :, asked[0]] = labels[:, :, asked[0]]
    expected[7, 8:10, other] = 2
    change = read_change(root)
    assert np.array_equal(change.labels, expected)
    assert change.slices == tuple(sorted((asked[0], other)))
    assert change.correction.waiting == tuple(asked[1:])
    assert (change.new, change.altered, change.withdrawn) == (24 * 20 + 2, 0, 0)
    assert change.by_name == {"background": 480 - 36 - 12, "organ": 36, "lesion": 14}


def test_layers_that_3d_slicer_shared_out_are_read_voxel_exact(root: Path, asked: list[int]) -> None:
    labels = drawing()
    # Values and order of its own, an empty segment without a known name, and an outdated extent.
    layers = [np.where(labels == 1, 5, 0).astype(np.uint8), np.where(labels == 2, 1, 0).astype(np.uint8)]
    segments = [segment("lesion", 1, 1), segment("organ", 5, 0), segment("Segment_3", 9, 1)]
    slicer_file(own(root) / "Segmentation.seg.nrrd", layers, segments)
    change = read_change(root)
    # All voxels that differ from the empty proposal, and the asked slices whole.
    expected = np.where(labels > 0, labels, IGNORE)
    expected[:, :, asked] = labels[:, :, asked]
    assert np.array_equal(change.labels, expected)
    assert change.correction.files == ("Segmentation.seg.nrrd",)


def test_a_segmentation_cropped_to_its_segments_finds_its_place(root: Path, asked: list[int]) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, :, asked[0]] = drawing()[:, :, asked[0]]
    box = (slice(2, 16), slice(4, 11), slice(asked[0], asked[0] + 1))
    slicer_file(
        own(root) / "cropped.seg.nrrd", [labels[box]], [segment("organ", 1), segment("lesion", 2)], (2, 4, asked[0])
    )
    assert np.array_equal(read_change(root).labels[:, :, asked[0]], labels[:, :, asked[0]])


def test_files_of_old_versions_have_a_component_for_each_segment(root: Path, asked: list[int]) -> None:
    labels = drawing()
    layers = [(labels == 2).astype(np.uint8), (labels == 1).astype(np.uint8)]
    slicer_file(own(root) / "old.seg.nrrd", layers, [{"ID": "a", "Name": "lesion"}, {"ID": "b", "Name": "organ"}])
    assert np.array_equal(read_change(root).labels[:, :, asked], labels[:, :, asked])


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_scribbles_and_single_slices_of_any_plane_of_a_map(root: Path, plane: int) -> None:
    path = own(root) / f"{CASE}_labels.nii.gz"
    image = nibabel.load(path)
    labels = np.asarray(image.dataobj).copy()
    np.moveaxis(labels, plane, 0)[7] = np.moveaxis(drawing(), plane, 0)[7]
    labels[1, 2, 3:6] = 0
    # ITK-SNAP keeps geometry and values, but neither our header extension nor the type.
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.int16), image.affine), path)
    change = read_change(root)
    assert np.array_equal(change.labels, labels)
    assert change.withdrawn == 0


def test_itksnap_with_a_label_description_of_its_own(root: Path, asked: list[int]) -> None:
    labels = drawing()
    path = own(root) / "drawn_in_itksnap.nii.gz"
    affine = nibabel.load(own_image(path)).affine
    nibabel.save(nibabel.Nifti1Image(np.array([0, 7, 4], np.uint8)[labels], affine), path)
    (own(root) / "labels.txt").write_text(
        "################################################\n# ITK-SnAP Label Description File\n"
        '    0     0    0    0        0  0  0    "Clear Label"\n'
        '    4   255    0    0        1  1  1    "lesion"\n'
        '    7     0  255    0      0.5  1  1    "organ"\n'
    )
    assert np.array_equal(read_change(root).labels[:, :, asked], labels[:, :, asked])
    (own(root) / "labels.txt").write_text('    7  0 255 0  1 1 1    "organ"\n')
    assert code_of(root) == "E-ROUND-11"
    (own(root) / "labels.txt").write_text("7 organ\n")
    assert code_of(root) == "E-SEG-09"


def test_a_file_with_other_axes_is_brought_into_those_of_the_scan(root: Path, asked: list[int]) -> None:
    image = nibabel.Nifti1Image(drawing(), nibabel.load(own(root) / f"{CASE}_0000.nii.gz").affine)
    turned = image.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    assert turned.shape != image.shape
    # The same voxels with an affine that does not belong to them.
    nibabel.save(nibabel.Nifti1Image(turned.get_fdata(), image.affine), own(root) / "turned.nii.gz")
    assert code_of(root) == "E-ROUND-17"
    nibabel.save(turned, own(root) / "turned.nii.gz")
    assert np.array_equal(read_change(root).labels[:, :, asked], drawing()[:, :, asked])


def shift(path: Path, **changes: Any) -> None:
    array, header = nrrd.read(str(path))
    nrrd.write(str(path), np.where(array == 0, 1, array).astype(np.uint8), {**header, **changes})


def test_wrong_geometry_is_refused(root: Path) -> None:
    path = own(root) / f"{CASE}_proposal.seg.nrrd"
    origin = nrrd.read_header(str(path))["space origin"]
    shift(path, **{"space origin": np.add(origin, (0, 0, 1.0))})
    assert code_of(root) == "E-ROUND-17"
    path.unlink()
    slicer_file(own(root) / "outside.seg.nrrd", [np.ones((4, 4, 4), np.uint8)], [segment("organ", 1)], (22, 0, 0))
    assert code_of(root) == "E-ROUND-17"


def test_unknown_names_overlaps_and_unnamed_values_are_refused(root: Path) -> None:
    path, whole = own(root) / "other.seg.nrrd", np.ones(SHAPE, np.uint8)
    slicer_file(path, [whole], [segment("orgn", 1)])
    assert code_of(root) == "E-ROUND-07"
    slicer_file(path, [whole, whole], [segment("organ", 1, 0), segment("lesion", 1, 1)])
    assert code_of(root) == "E-ROUND-10"
    slicer_file(path, [whole * 2], [segment("organ", 1)])
    assert code_of(root) == "E-ROUND-11"
    slicer_file(path, [whole], [])
    assert code_of(root) == "E-SEG-08"
    slicer_file(path, [whole], [segment("organ", 1, layer=4)])
    assert code_of(root) == "E-SEG-08"


def test_an_edited_image_is_refused_wherever_it_lies(root: Path) -> None:
    for path in (own(root) / f"{CASE}_0000.nii.gz", root / "raw" / NAME / "imagesUn" / f"{CASE}_0000.nii.gz"):
        content = path.read_bytes()
        image = nibabel.load(path)
        voxels = np.asarray(image.dataobj).copy()
        voxels[0, 0, 0] += 1
        nibabel.save(nibabel.Nifti1Image(voxels, image.affine), path)
        assert code_of(root) == "E-ROUND-06"
        path.write_bytes(content)
    assert not read_change(root).any


def test_a_map_without_ignore_and_contradicting_files_are_refused(root: Path, asked: list[int]) -> None:
    path = own(root) / f"{CASE}_labels.nii.gz"
    content, affine = path.read_bytes(), nibabel.load(path).affine
    nibabel.save(nibabel.Nifti1Image(drawing(), affine), path)
    assert code_of(root) == "E-ROUND-18"
    path.write_bytes(content)
    one, other = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    one[2, 2, asked[0]], other[3, 2, asked[0]] = 1, 1
    for name, labels in (("a.nii.gz", one), ("b.nii.gz", other)):
        nibabel.save(nibabel.Nifti1Image(labels, affine), own(root) / name)
    assert code_of(root) == "E-ROUND-12"


def test_what_was_given_must_still_be_there(root: Path) -> None:
    (root / "cold" / "given" / CASE / f"{CASE}_labels.nii.gz").write_bytes(b"")
    assert code_of(root) == "E-ROUND-15"
    (root / "raw" / NAME / "imagesUn" / f"{CASE}_0000.nii.gz").unlink()
    assert code_of(root) == "E-ROUND-16"


def verdicts(root: Path, *slices: tuple[int, str], **changes: Any) -> None:
    record = read_json(Round, root / "cold" / ROUND_FILE)
    listed = [{"case": CASE, "index": index, "verdict": verdict} for index, verdict in slices]
    plain = {"schema_version": 1, "identity": record.identity, "slices": listed, **changes}
    (root / "cold" / "verdicts.json").write_text(json.dumps(plain))


def test_accepted_proposals_count_and_those_that_need_work_wait(root: Path, asked: list[int]) -> None:
    verdicts(root, (asked[0], "accept"), (asked[1], "needs work"))
    change = read_change(root)
    assert change.slices == (asked[0],)
    assert change.correction.waiting == tuple(asked[1:])
    assert not change.labels[:, :, asked[0]].any()
    verdicts(root, (asked[0], "accept"), identity="another")
    assert code_of(root) == "E-ROUND-13"
    verdicts(root, (99, "accept"))
    assert code_of(root) == "E-ROUND-13"


def test_unchanged_proposals_count_when_that_is_said(root: Path, asked: list[int]) -> None:
    assert read_change(root, accept_unchanged=True).slices == tuple(asked)


def test_labels_are_added_once_and_everything_else_stays_ignore(root: Path, asked: list[int]) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, :, asked[0]] = drawing()[:, :, asked[0]]
    edit_proposal(root, labels)
    raw = root / "raw" / NAME
    (raw / "splits_final.json").write_text(json.dumps([{"train": ["case_00"], "val": ["case_01"]}]))
    before = stored(root, "case_00")
    assert label_cli.main(["check", str(root / "cold"), "--root", str(root)]) == 0
    assert not (raw / "labelsTr" / f"{CASE}.nii.gz").exists()
    assert add(root) == 0
    expected = np.full(SHAPE, IGNORE, np.uint8)
    expected[:, :, asked[0]] = labels[:, :, asked[0]]
    assert np.array_equal(stored(root), expected)
    assert np.allclose(
        nibabel.load(raw / "labelsTr" / f"{CASE}.nii.gz").affine,
        nibabel.load(raw / "imagesTr" / f"{CASE}_0000.nii.gz").affine,
    )
    assert not (raw / "imagesUn" / f"{CASE}_0000.nii.gz").exists()
    described = json.loads((raw / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "organ": 1, "lesion": 2, "ignore": IGNORE}
    assert described["numTraining"] == 3
    assert json.loads((raw / "splits_final.json").read_text())[0]["train"] == ["case_00", CASE]
    assert np.array_equal(stored(root, "case_00"), before)
    content = (raw / "labelsTr" / f"{CASE}.nii.gz").read_bytes()
    assert add(root) == 0
    assert (raw / "labelsTr" / f"{CASE}.nii.gz").read_bytes() == content
    rounds = read_json(History, raw / HISTORY_FILE).rounds
    assert [one.slices for one in rounds] == [{CASE: (asked[0],)}]


def test_a_second_correction_changes_what_it_changes_and_takes_back(root: Path, asked: list[int]) -> None:
    path = own(root) / f"{CASE}_labels.nii.gz"
    image = nibabel.load(path)
    labels = np.full(SHAPE, IGNORE, np.uint8)
    labels[:, :, asked[0]] = 1
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), path)
    assert add(root) == 0
    labels[0, :, asked[0]] = 2
    labels[1, :, asked[0]] = IGNORE
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), path)
    change = read_change(root)
    # What is ignore in both maps states nothing, so labels that are there stay.
    assert (change.new, change.altered, change.withdrawn) == (0, 20, 0)
    assert add(root) == 0
    assert (stored(root)[0, :, asked[0]] == 2).all()
    assert (stored(root)[1, :, asked[0]] == 1).all()


def test_nothing_new_is_said_and_nothing_written(root: Path) -> None:
    before = {path: path.read_bytes() for path in (root / "raw").rglob("*") if path.is_file()}
    assert add(root) == 4
    assert {path: path.read_bytes() for path in (root / "raw").rglob("*") if path.is_file()} == before
