"""Headers that disagree: the case is skipped with a picture, and can take over the header of its image on demand."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from dataset_conversion.cli import main
from samora_pipeline.contracts.dataset import read_dataset
from samora_pipeline.imaging.files import read_volume
from tests.dataset_conversion.sources import AFFINE, labels, make_decathlon, write_nifti


@pytest.fixture
def root(tmp_path: Path) -> Path:
    source = make_decathlon(tmp_path / "in")
    write_nifti(source / "labelsTr" / "tiny_001.nii.gz", labels(1), np.eye(4))
    return tmp_path


def _convert(root: Path, *arguments: str) -> int:
    source = str(root / "in" / "Task04_Tiny")
    return main(["-d", "Task04_Tiny", "-i", source, "--root", str(root), *arguments])


def test_disagreeing_headers_are_skipped_with_a_picture(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _convert(root) == 3
    said = capsys.readouterr().out
    picture = root / "raw" / "overlays" / "Dataset014_Tiny" / "tiny_001.png"
    assert "tiny_001: E-GEO-02" in said
    assert "spacing (1, 1, 1) mm" in said
    assert f"--adopt-image-header tiny_001  but only if {picture} is right" in said
    with Image.open(picture) as opened:
        assert opened.size == (1032, 320)
        colours = np.asarray(opened.convert("RGB")).reshape(-1, 3)
    # Outlines are the only colours in a picture of grey values.
    assert (np.ptp(colours.astype(int), axis=1) > 60).any()
    assert list(read_dataset(root / "raw" / "Dataset014_Tiny").training()) == ["tiny_000", "tiny_002"]


@pytest.mark.parametrize("names", [["tiny_001"], ["all"]])
def test_a_case_takes_over_the_header_of_its_image_on_demand(names: list[str], root: Path) -> None:
    assert _convert(root, "--adopt-image-header", *names) == 0
    folder = root / "raw" / "Dataset014_Tiny"
    label = read_dataset(folder).training()["tiny_001"].label
    assert label is not None
    np.testing.assert_allclose(nibabel.load(label).affine, AFFINE)
    np.testing.assert_array_equal(read_volume(label).array, labels(1))
    assert not (root / "raw" / "overlays").exists()
    report = json.loads((folder / "conversion.json").read_text())
    assert "tiny_001 took over the header of its image (asked)" in report["notes"]


def test_a_name_that_is_not_there_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _convert(root, "--adopt-image-header", "tiny_009") == 4
    assert "E-CONV-03" in capsys.readouterr().err
    assert not (root / "raw").exists()


def test_pictures_are_there_even_when_no_case_is_left(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (0, 2):
        write_nifti(root / "in" / "Task04_Tiny" / "labelsTr" / f"tiny_{number:03d}.nii.gz", labels(number), np.eye(4))
    description = root / "in" / "Task04_Tiny" / "dataset.json"
    description.write_text(json.dumps({**json.loads(description.read_text()), "test": []}))
    assert _convert(root) == 4
    assert "E-CONV-02" in capsys.readouterr().err
    assert [path.name for path in (root / "raw").iterdir()] == ["overlays"]
    assert len(list((root / "raw" / "overlays" / "Dataset014_Tiny").iterdir())) == 3
