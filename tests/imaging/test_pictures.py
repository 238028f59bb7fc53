"""Pictures as volumes: values, channels, stacks, pages, and that nothing damaged is ever read."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samora_pipeline.errors import DataError
from samora_pipeline.imaging.pictures import read_picture, read_slices, series_of


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
    assert read_picture(tmp_path / "a.png").array.shape == (2, 2, 1, 3)
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


def _noise(seed: int, kind: str = "uint8") -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 30)).astype(kind)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_tiff_pages_are_slices(kind: str, compression: str | None, tmp_path: Path) -> None:
    pages = [_noise(seed, kind) for seed in range(3)]
    images = [Image.fromarray(page) for page in pages]
    images[0].save(tmp_path / "a.tif", save_all=True, append_images=images[1:], compression=compression)
    volume = read_picture(tmp_path / "a.tif")
    assert volume.array.dtype == kind
    np.testing.assert_array_equal(volume.array, np.stack(pages).transpose(2, 1, 0))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("keep", [0.001, 0.1, 0.5, 0.9, 0.99])
def test_truncated_tiffs_are_never_read(keep: float, compression: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(_noise(0, "uint16")).save(path, compression=compression)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError) as caught:
        read_picture(path)
    assert caught.value.code == "E-IMG-02"


def test_pages_of_different_sizes_are_refused(tmp_path: Path) -> None:
    images = [Image.fromarray(_noise(0)), Image.fromarray(_noise(1)[:20])]
    images[0].save(tmp_path / "a.tif", save_all=True, append_images=images[1:])
    with pytest.raises(DataError, match="different sizes"):
        read_picture(tmp_path / "a.tif")


def _stack(folder: Path, numbers: list[int]) -> list[Path]:
    folder.mkdir()
    for number in numbers:
        Image.fromarray(_noise(number)).save(folder / f"p1_{number}.png")
    return sorted(folder.iterdir())


def test_slices_are_ordered_by_number_not_by_name(tmp_path: Path) -> None:
    volume = read_slices(_stack(tmp_path / "p1", [8, 9, 10, 11]))
    assert volume.array.shape == (30, 40, 4)
    assert volume.grid.spacing is None
    for index, number in enumerate((8, 9, 10, 11)):
        np.testing.assert_array_equal(volume.array[:, :, index], _noise(number).T)


def test_missing_and_repeated_slices_are_named(tmp_path: Path) -> None:
    paths = _stack(tmp_path / "p1", [1, 2, 5, 6])
    with pytest.raises(DataError) as caught:
        read_slices(paths)
    assert caught.value.code == "E-SER-01"
    assert "no picture 3, 4;" in caught.value.found
    shutil.copyfile(paths[0], tmp_path / "p1" / "p1_002.png")
    with pytest.raises(DataError, match="twice the number 2"):
        read_slices([*paths[:2], tmp_path / "p1" / "p1_002.png"])


def test_a_slice_of_another_size_is_named(tmp_path: Path) -> None:
    paths = _stack(tmp_path / "p1", [1, 2, 3])
    Image.fromarray(_noise(2)[:20]).save(paths[1])
    with pytest.raises(DataError) as caught:
        read_slices(paths)
    assert caught.value.code == "E-SER-02"
    assert "p1_2.png" in caught.value.what


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a_1_0007.png", ("a_1_", 7)),
        ("12.tif", ("", 12)),
        ("slice12b.png", ("slice", 12)),
        ("plain.png", ("plain", None)),
    ],
)
def test_the_last_number_of_a_name_counts(name: str, expected: tuple[str, int | None]) -> None:
    assert series_of(Path(name)) == expected
