"""Pictures in, image volumes out."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from dataset_conversion.scan_files import read_picture, split_channels, write_scan
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.volume import make_grid

# Axes swapped, tilted by 0.3 rad about the first, voxels of 1.5 x 2 x 3.9 mm.
OBLIQUE = np.array(
    [
        [0.0, -2.0 * np.cos(0.3), 3.9 * np.sin(0.3), 5],
        [1.5, 0.0, 0.0, -7],
        [0.0, 2.0 * np.sin(0.3), 3.9 * np.cos(0.3), 11],
        [0, 0, 0, 1],
    ]
)


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "float32"])
def test_written_scans_come_back_with_type_and_grid(kind: str, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 200, (5, 6, 7)).astype(kind)
    write_scan(tmp_path / "a.nii.gz", array, make_grid(array.shape, OBLIQUE))
    volume = read_volume(tmp_path / "a.nii.gz")
    assert volume.array.dtype == kind
    assert volume.warnings == ()
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(nibabel.load(tmp_path / "a.nii.gz").affine, OBLIQUE, atol=1e-6)
    write_scan(tmp_path / "b.nii.gz", array, make_grid(array.shape, OBLIQUE))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_types_that_nifti_lacks_are_stored_in_the_next_one(tmp_path: Path) -> None:
    grid = make_grid((2, 2, 2), np.eye(4))
    write_scan(tmp_path / "a.nii", np.full((2, 2, 2), 1 / 3), grid)
    assert read_volume(tmp_path / "a.nii").array.dtype == np.float32
    write_scan(tmp_path / "b.nii", np.full((2, 2, 2), -70000), grid)
    assert read_volume(tmp_path / "b.nii").array[0, 0, 0] == -70000
    with pytest.raises(ValueError, match="do not fit"):
        write_scan(tmp_path / "c.nii", np.full((2, 2, 2), 1 << 40), grid)


def test_sixteen_bit_pictures_keep_their_values(tmp_path: Path) -> None:
    array = np.array([[0, 300], [65535, 7], [1, 2]], np.uint16)
    Image.fromarray(array).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").array[:, :, 0], array.T)


def test_label_pictures_keep_palette_indices_and_grey_values(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    palette = Image.fromarray(values).convert("P")
    palette.putdata(values.ravel())
    palette.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "palette.png", label=True).array[:, :, 0], values.T)
    assert read_picture(tmp_path / "palette.png").array.shape == (3, 2, 1, 3)
    Image.fromarray(np.repeat(values[..., None], 3, axis=2)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png", label=True).array[:, :, 0], values.T)


def test_coloured_labels_and_see_through_pixels_are_refused(tmp_path: Path) -> None:
    colours = np.zeros((2, 2, 4), np.uint8)
    colours[..., 3] = 255
    colours[0, 0, 0] = 200
    Image.fromarray(colours).save(tmp_path / "a.png")
    assert len(split_channels(read_picture(tmp_path / "a.png"))) == 3
    with pytest.raises(DataError, match="coloured"):
        read_picture(tmp_path / "a.png", label=True)
    colours[1, 1, 3] = 10
    Image.fromarray(colours).save(tmp_path / "b.png")
    with pytest.raises(DataError, match="see-through"):
        read_picture(tmp_path / "b.png")


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_truncated_pictures_are_never_read(keep: float, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError) as caught:
        read_picture(tmp_path / "a.png")
    assert caught.value.code == "E-IMG-02"


def test_an_altered_picture_is_never_read(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[len(content) // 2] ^= 16
    (tmp_path / "a.png").write_bytes(bytes(content))
    with pytest.raises(DataError) as caught:
        read_picture(tmp_path / "a.png")
    assert caught.value.code == "E-IMG-02"
