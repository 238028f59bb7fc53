"""Adopting raw datasets of nnU-Net."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from dataset_conversion.datasets.nnunet import NNUNet
from samora_pipeline.contracts.dataset import SamoraJson, read_dataset, write_dataset
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_volume
from tests.dataset_conversion.sources import labels, make_nnunet, scan, write_nifti, write_png

REAL = (
    Path(os.environ.get("SAMORA_TEST_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
    / "Dataset050_OpenKBP"
)
CONVERTER = NNUNet()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real OpenKBP dataset is not in SAMORA_TEST_DATA")
def test_openkbp_is_adopted_by_links(tmp_path: Path) -> None:
    source = tmp_path / "Dataset050_OpenKBP"
    names = sorted(path.name for path in (REAL / "labelsTr").iterdir())[:2]
    for folder in ("imagesTr", "labelsTr"):
        (source / folder).mkdir(parents=True)
    for name in names:
        (source / "labelsTr" / name).symlink_to(REAL / "labelsTr" / name)
        image = name.replace(".nii.gz", "_0000.nii.gz")
        (source / "imagesTr" / image).symlink_to(REAL / "imagesTr" / image)
    (source / "dataset.json").write_text((REAL / "dataset.json").read_text())
    identity = CONVERTER.identify("nnUNet", source, CONVERTER.options())
    assert (identity.home, identity.name) == (50, "OpenKBP")
    target = tmp_path / "raw" / "Dataset050_OpenKBP"
    report = CONVERTER.convert(source, target, CONVERTER.options())
    assert (report.training, report.skipped) == (2, ())
    raw = read_dataset(target)
    assert raw.ours.terms == "MIT (ababier/open-kbp)"
    assert "Babier" in raw.ours.citation
    for case in raw.training().values():
        assert case.channels[0].is_symlink()
        assert case.channels[0].resolve().parent == (REAL / "imagesTr").resolve()


def test_every_key_and_region_is_kept_and_unlabelled_images_move(tmp_path: Path) -> None:
    source = make_nnunet(tmp_path / "in")
    target = tmp_path / "raw" / "Dataset042_Small"
    report = CONVERTER.convert(source, target, CONVERTER.options(copy=True))
    assert (report.training, report.test, report.unlabelled) == (2, 1, 1)
    assert "1 training images" in report.notes[0]
    written = json.loads((target / "dataset.json").read_text())
    assert written == {**json.loads((source / "dataset.json").read_text()), "numTraining": 2}
    raw = read_dataset(target)
    assert list(raw.unlabelled()) == ["case_2"]
    copied = raw.training()["case_0"].channels[1]
    assert not copied.is_symlink()
    assert copied.read_bytes() == (source / "imagesTr" / "case_0_0001.nii.gz").read_bytes()


def test_a_samora_json_of_its_own_is_kept(tmp_path: Path) -> None:
    source = make_nnunet(tmp_path / "in")
    ours = SamoraJson(origin="here", patients={"case_0": "p", "case_1": "p"}, budget_unit="slices")
    write_dataset(source, read_dataset(source).description, ours)
    target = tmp_path / "raw" / "Dataset042_Small"
    CONVERTER.convert(source, target, CONVERTER.options())
    assert read_dataset(target).ours == ours


def test_a_missing_channel_concerns_its_case_only(tmp_path: Path) -> None:
    source = make_nnunet(tmp_path / "in")
    (source / "imagesTr" / "case_0_0001.nii.gz").unlink()
    target = tmp_path / "raw" / "Dataset042_Small"
    report = CONVERTER.convert(source, target, CONVERTER.options())
    assert [(fault.case, fault.code) for fault in report.skipped] == [("case_0", "E-CHAN-01")]
    assert list(read_dataset(target).training()) == ["case_1"]


def test_nrrd_stays_nrrd(tmp_path: Path) -> None:
    raw = tmp_path / "Dataset007_Nrrd"
    for folder, name, array in (("imagesTr", "a_0000", scan(0)), ("labelsTr", "a", labels(0))):
        (raw / folder).mkdir(parents=True)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array.T), str(raw / folder / f"{name}.nrrd"))
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "a": 1, "b": 2},
        "numTraining": 1,
        "file_ending": ".nrrd",
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    target = tmp_path / "raw" / "Dataset007_Nrrd"
    CONVERTER.convert(raw, target, CONVERTER.options())
    path = read_dataset(target).training()["a"].channels[0]
    assert path.name == "a_0000.nrrd"
    np.testing.assert_array_equal(read_volume(path).array, scan(0))


def test_pictures_become_nifti_with_a_channel_for_each_colour(tmp_path: Path) -> None:
    raw = tmp_path / "Dataset120_Roads"
    colours = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    write_png(raw / "imagesTr" / "road_0000.png", colours)
    write_png(raw / "labelsTr" / "road.png", (colours[..., 0] > 100).astype(np.uint8))
    description = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "road": 1},
        "numTraining": 1,
        "file_ending": ".png",
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    target = tmp_path / "raw" / "Dataset120_Roads"
    report = CONVERTER.convert(raw, target, CONVERTER.options())
    assert not report.skipped
    written = read_dataset(target)
    assert written.description.file_ending == ".nii.gz"
    assert not written.ours.spacing_known
    green = read_volume(written.training()["road"].channels[1])
    np.testing.assert_array_equal(green.array[:, :, 0], colours[..., 1].T)


def test_a_folder_of_another_name_and_a_dataset_of_explicit_paths_are_refused(tmp_path: Path) -> None:
    source = make_nnunet(tmp_path / "in")
    renamed = source.rename(source.with_name("Small"))
    with pytest.raises(DataError) as caught:
        CONVERTER.identify("nnUNet", renamed, CONVERTER.options())
    assert caught.value.code == "E-SRC-01"
    description = json.loads((renamed / "dataset.json").read_text())
    (renamed / "dataset.json").write_text(json.dumps({**description, "dataset": {"case_0": {}}}))
    with pytest.raises(DataError) as caught:
        CONVERTER.survey(renamed, CONVERTER.options())
    assert caught.value.code == "E-SRC-02"


def test_links_of_the_source_are_followed_to_their_end(tmp_path: Path) -> None:
    source = make_nnunet(tmp_path / "in")
    link = source / "imagesTr" / "case_0_0000.nii.gz"
    original = write_nifti(tmp_path / "elsewhere" / "x.nii.gz", scan(5))
    link.unlink()
    link.symlink_to(original)
    target = tmp_path / "raw" / "Dataset042_Small"
    CONVERTER.convert(source, target, CONVERTER.options())
    assert (target / "imagesTr" / "case_0_0000.nii.gz").readlink() == original.resolve()


def test_a_case_whose_channels_do_not_begin_with_the_first_is_skipped(tmp_path: Path) -> None:
    source = make_nnunet(tmp_path / "in")
    (source / "imagesTr" / "case_0_0001.nii.gz").rename(source / "imagesTr" / "case_0_0002.nii.gz")
    (source / "imagesTr" / "case_0_0000.nii.gz").rename(source / "imagesTr" / "case_0_0001.nii.gz")
    target = tmp_path / "raw" / "Dataset042_Small"
    report = CONVERTER.convert(source, target, CONVERTER.options())
    assert [(fault.case, fault.code) for fault in report.skipped] == [("case_0", "E-CHAN-01")]
    assert not list((target / "imagesTr").glob("case_0*"))


def test_an_ending_without_its_dot_and_labels_with_another_one_are_understood(tmp_path: Path) -> None:
    source = make_nnunet(tmp_path / "in")
    description = json.loads((source / "dataset.json").read_text())
    (source / "dataset.json").write_text(json.dumps({**description, "file_ending": "nii.gz"}))
    for path in (source / "labelsTr").iterdir():
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    target = tmp_path / "raw" / "Dataset042_Small"
    report = CONVERTER.convert(source, target, CONVERTER.options())
    assert (report.training, report.unlabelled) == (2, 1)
    assert sorted(path.name for path in (target / "labelsTr").iterdir()) == ["case_0.nii.gz", "case_1.nii.gz"]


def test_label_maps_of_which_none_is_that_of_an_image_are_refused(tmp_path: Path) -> None:
    source = make_nnunet(tmp_path / "in")
    for path in (source / "labelsTr").iterdir():
        path.rename(path.with_name(f"seg-{path.name}"))
    with pytest.raises(DataError, match=r"(?s)E-SRC-03.*seg-case_0"):
        CONVERTER.survey(source, CONVERTER.options())


def test_a_link_that_leads_nowhere_concerns_its_case_only(tmp_path: Path) -> None:
    source = make_nnunet(tmp_path / "in")
    (source / "labelsTr" / "case_1.nii.gz").unlink()
    (source / "labelsTr" / "case_1.nii.gz").symlink_to("gone.nii.gz")
    report = CONVERTER.convert(source, tmp_path / "raw" / "Dataset042_Small", CONVERTER.options())
    assert [(fault.case, fault.code) for fault in report.skipped] == [("case_1", "E-IMG-07")]


@pytest.mark.parametrize("stated", [True, False])
def test_stacks_keep_the_spacing_that_is_stated_beside_them(stated: bool, tmp_path: Path) -> None:
    raw = tmp_path / "Dataset121_Stack"
    for folder, name, array in (("imagesTr", "a_0000", scan(0)), ("labelsTr", "a", labels(0))):
        (raw / folder).mkdir(parents=True)
        pages = [Image.fromarray(np.ascontiguousarray(array[:, :, k].T).astype(np.uint16)) for k in range(6)]
        pages[0].save(raw / folder / f"{name}.tif", save_all=True, append_images=pages[1:])
        if stated:
            (raw / folder / "a.json").write_text(json.dumps({"spacing": [5, 0.75, 0.5]}))
    about = {"channel_names": {"0": "EM"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 1}
    (raw / "dataset.json").write_text(json.dumps({**about, "file_ending": ".tif"}))
    target = tmp_path / "raw" / "Dataset121_Stack"
    report = CONVERTER.convert(raw, target, CONVERTER.options())
    written = read_dataset(target)
    assert written.ours.spacing_known == stated
    image = nibabel.load(written.training()["a"].channels[0])
    assert np.array_equal(np.asarray(image.dataobj), scan(0).astype(np.uint16))
    if stated:
        np.testing.assert_allclose(image.header.get_zooms(), (0.5, 0.75, 5))
    else:
        assert "state no voxel spacing" in report.notes[-1]
