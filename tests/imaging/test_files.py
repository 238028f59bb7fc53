import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_volume, write_labels, write_volume
from samora_pipeline.imaging.volume import make_grid, on_grid_of, require_finite

GENERATOR = np.random.default_rng(2)
AFFINE = np.array([[-0.7, 0, 0, 90], [0, 0.7, 0, -120], [0, 0, 3, 20], [0, 0, 0, 1.0]])
VOXELS = GENERATOR.integers(-1000, 1000, (16, 15, 14)).astype(np.int16)


def save(path: Path, array: np.ndarray = VOXELS, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def faulty(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        read_volume(path)
    assert caught.value.exit_code == 4
    assert "\n" not in caught.value.what
    assert path.name in caught.value.text()
    return caught.value


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_nifti_equals_nibabel(tmp_path: Path, name: str, dtype: type) -> None:
    path = save(tmp_path / name, np.abs(VOXELS).astype(dtype))
    volume = read_volume(path)
    expected = nibabel.load(path)
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array, np.asanyarray(expected.dataobj))
    np.testing.assert_allclose(volume.grid.matrix, expected.affine)
    assert volume.grid.shape == VOXELS.shape
    assert volume.grid.axes == "LAS"
    assert volume.grid.spacing == pytest.approx((0.7, 0.7, 3), rel=1e-6)
    assert volume.warnings == ()


def test_scaled_big_endian_and_nifti2_files(tmp_path: Path) -> None:
    scaled = nibabel.Nifti1Image(VOXELS, AFFINE)
    scaled.header.set_slope_inter(0.5, -3)
    nibabel.save(scaled, tmp_path / "scaled.nii")
    big = nibabel.Nifti1Image(VOXELS, AFFINE, nibabel.Nifti1Header(endianness=">"))
    nibabel.save(big, tmp_path / "big.nii.gz")
    nibabel.save(nibabel.Nifti2Image(VOXELS, AFFINE), tmp_path / "two.nii.gz")
    for name in ("scaled.nii", "big.nii.gz", "two.nii.gz"):
        volume = read_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.array, np.asanyarray(nibabel.load(tmp_path / name).dataobj))
        assert volume.array.dtype.isnative


def test_axes_beyond_or_below_three(tmp_path: Path) -> None:
    assert read_volume(save(tmp_path / "a.nii", VOXELS[..., None])).array.shape == (16, 15, 14)
    assert read_volume(save(tmp_path / "b.nii", VOXELS[..., None, None])).array.shape == (16, 15, 14)
    four = read_volume(save(tmp_path / "c.nii", np.stack([VOXELS, VOXELS + 1], axis=-1)))
    assert four.array.shape == (16, 15, 14, 2)
    np.testing.assert_array_equal(four.array[..., 1], VOXELS + 1)
    assert read_volume(save(tmp_path / "d.nii", VOXELS[:, :, 0])).array.shape == (16, 15, 1)
    assert faulty(save(tmp_path / "e.nii", np.zeros((2, 2, 2, 2, 2), np.int16))).code == "E-IMG-03"


def test_every_truncation_of_a_compressed_file_is_noticed(tmp_path: Path) -> None:
    intact = save(tmp_path / "a.nii.gz").read_bytes()
    path = tmp_path / "cut.nii.gz"
    lengths = [*(len(intact) * share // 100 for share in range(5, 100, 5)), *(len(intact) - cut for cut in (1, 4, 8))]
    for length in lengths:
        path.write_bytes(intact[:length])
        assert faulty(path).code == "E-IMG-02"


def test_every_flipped_bit_of_the_compressed_voxels_is_noticed(tmp_path: Path) -> None:
    intact = save(tmp_path / "a.nii.gz").read_bytes()
    path = tmp_path / "flip.nii.gz"
    for position in [*range(60, len(intact) - 8, 211), *range(len(intact) - 8, len(intact))]:
        path.write_bytes(intact[:position] + bytes([intact[position] ^ 0x10]) + intact[position + 1 :])
        assert faulty(path).code in {"E-IMG-02", "E-IMG-03"}


def test_a_short_or_foreign_file_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii")
    intact = path.read_bytes()
    for length in (len(intact) - 1, len(intact) // 2, 360):
        path.write_bytes(intact[:length])
        assert faulty(path).code == "E-IMG-02"
    for content in (b"", b"<!DOCTYPE html>" * 100, b"\0" * 348, intact[:344] + b"xyz\0" + intact[348:]):
        path.write_bytes(content)
        assert faulty(path).code == "E-IMG-03"
    not_gzip = tmp_path / "b.nii.gz"
    not_gzip.write_bytes(b"hello")
    assert faulty(not_gzip).code == "E-IMG-02"
    assert faulty(tmp_path / "absent.nii.gz").code == "E-IMG-01"
    (tmp_path / "picture.jpg").write_bytes(b"")
    assert faulty(tmp_path / "picture.jpg").code == "E-IMG-01"


def test_members_and_foreign_bytes_behind_a_gzip_stream(tmp_path: Path) -> None:
    content = save(tmp_path / "a.nii").read_bytes()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
    np.testing.assert_array_equal(read_volume(path).array, VOXELS)
    path.write_bytes(gzip.compress(content) + b"\0" * 512)
    np.testing.assert_array_equal(read_volume(path).array, VOXELS)
    path.write_bytes(gzip.compress(content) + b"rubbish")
    assert faulty(path).code == "E-IMG-02"
    path.write_bytes(gzip.compress(content + b"more"))
    assert faulty(path).code == "E-IMG-02"


def test_a_header_that_claims_too_much_costs_no_memory(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii")
    bomb = bytearray(path.read_bytes())
    struct.pack_into("<8h", bomb, 40, 3, 30000, 30000, 30000, 1, 1, 1, 1)
    path.write_bytes(bomb)
    assert faulty(path).code == "E-IMG-03"
    struct.pack_into("<8h", bomb, 40, 3, 1000, 1000, 1000, 1, 1, 1, 1)
    path.write_bytes(bomb)
    assert faulty(path).code == "E-IMG-02"
    compressed = tmp_path / "b.nii.gz"
    compressed.write_bytes(gzip.compress(bytes(bomb)))
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from samora_pipeline.imaging.files import read_volume\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "try: read_volume(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", program, str(compressed)], capture_output=True, text=True, env=environment, check=True
    )
    assert run.stdout.strip() == "DataError"


@pytest.mark.parametrize("dim", [(0, 0, 0, 0), (3, 0, 5, 5), (3, -4, 5, 5), (9, 1, 1, 1)])
def test_sizes_that_are_no_sizes(tmp_path: Path, dim: tuple[int, ...]) -> None:
    path = save(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    struct.pack_into("<4h", content, 40, *dim)
    path.write_bytes(content)
    assert faulty(path).code == "E-IMG-03"


def test_colour_and_unknown_voxel_types_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    for code in (128, 32, 999):
        struct.pack_into("<h", content, 70, code)
        path.write_bytes(content)
        assert faulty(path).code == "E-IMG-03"


def test_affines_that_cannot_be_used(tmp_path: Path) -> None:
    shear = AFFINE.copy()
    shear[0, 1] = 0.3
    assert "right angles" in faulty(save(tmp_path / "shear.nii", affine=shear)).found
    zero = save(tmp_path / "zero.nii")
    content = bytearray(zero.read_bytes())
    struct.pack_into("<4f", content, 280, 0, 0, 0, 0)
    zero.write_bytes(content)
    assert faulty(zero).code == "E-IMG-04"
    struct.pack_into("<4f", content, 280, np.nan, 0, 0, 0)
    zero.write_bytes(content)
    assert faulty(zero).code == "E-IMG-04"


def test_doubtful_headers_carry_a_warning(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    moved = AFFINE.copy()
    moved[2, 3] += 1.5
    image.set_qform(moved, 1)
    nibabel.save(image, tmp_path / "a.nii")
    assert "disagree by 1.5 mm" in read_volume(tmp_path / "a.nii").warnings[0]
    path = save(tmp_path / "b.nii")
    content = bytearray(path.read_bytes())
    struct.pack_into("<2h", content, 252, 0, 0)
    path.write_bytes(content)
    uncoded = read_volume(path)
    assert "no orientation" in uncoded.warnings[0]
    assert uncoded.grid.axes == "LAS"
    path = save(tmp_path / "c.nii")
    content = bytearray(path.read_bytes())
    struct.pack_into("<3f", content, 80, 1.0, 1.0, 1.0)
    path.write_bytes(content)
    volume = read_volume(path)
    assert "pixdim" in volume.warnings[0]
    assert volume.grid.spacing == pytest.approx((0.7, 0.7, 3), rel=1e-6)


def test_nan_is_reported_and_kept(tmp_path: Path) -> None:
    voxels = VOXELS.astype(np.float32)
    voxels[1, 2, 3], voxels[3, 2, 1] = np.nan, -np.inf
    volume = read_volume(save(tmp_path / "a.nii.gz", voxels))
    assert volume.count_nonfinite() == 2
    with pytest.raises(DataError, match=r"(?s)E-IMG-05.*2 of 3360 voxels"):
        require_finite(volume)
    require_finite(read_volume(save(tmp_path / "b.nii.gz")))


def itk_image(array: np.ndarray) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(array.transpose())
    image.SetSpacing((0.7, 0.7, 3.0))
    image.SetOrigin((-90.0, 120.0, 20.0))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    return image


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_the_same_volume_in_other_formats(tmp_path: Path, name: str, compress: bool) -> None:
    path = tmp_path / name
    SimpleITK.WriteImage(itk_image(VOXELS), str(path), useCompression=compress)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, VOXELS)
    np.testing.assert_allclose(volume.grid.matrix, AFFINE, atol=1e-6)
    data = next((other for other in tmp_path.iterdir() if other != path), path)
    intact = data.read_bytes()
    for cut in (1, 4, len(intact) // 3):
        data.write_bytes(intact[:-cut])
        assert faulty(path).code == "E-IMG-02"
    if compress:
        data.write_bytes(intact[:-400] + bytes([intact[-400] ^ 1]) + intact[-399:])
        assert faulty(path).code == "E-IMG-02"
    if data != path:
        data.unlink()
        assert faulty(path).code == "E-IMG-02"


def test_nan_in_other_formats_is_kept(tmp_path: Path) -> None:
    voxels = VOXELS.astype(np.float32)
    voxels[1, 2, 3] = np.nan
    for name in ("a.nrrd", "a.mha"):
        SimpleITK.WriteImage(itk_image(voxels), str(tmp_path / name))
        assert read_volume(tmp_path / name).count_nonfinite() == 1


def test_headers_of_other_formats_that_cannot_be_used(tmp_path: Path) -> None:
    nrrd, meta = tmp_path / "a.nrrd", tmp_path / "a.mhd"
    SimpleITK.WriteImage(itk_image(VOXELS), str(nrrd))
    SimpleITK.WriteImage(itk_image(VOXELS), str(meta))
    header, text = nrrd.read_bytes(), meta.read_text()
    for part, other in ((b"16 15 14", b"9999 9999 9999"), (b"16 15 14", b"16 15 -1"), (b"NRRD", b"XXXX")):
        assert part in header
        nrrd.write_bytes(header.replace(part, other))
        assert faulty(nrrd).code == "E-IMG-03"
    for old, new in (("16 15 14", "16 15 x"), ("MET_SHORT", "MET_FLAG"), ("a.raw", "LIST"), ("ElementDataFile", "X")):
        assert old in text
        meta.write_text(text.replace(old, new))
        assert faulty(meta).code == "E-IMG-03"
    meta.write_text(text.replace("a.raw", "../a.raw"))
    with pytest.raises(DataError, match="E-PATH-01"):
        read_volume(meta)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_labels_keep_shape_affine_and_codes(tmp_path: Path, name: str) -> None:
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    image.set_sform(AFFINE, 4)
    moved = AFFINE.copy()
    moved[0, 3] += 10
    image.set_qform(moved, 2)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / name)
    like = read_volume(tmp_path / name)
    labels = GENERATOR.integers(0, 5, VOXELS.shape).astype(np.uint8)
    out = tmp_path / "out.nii.gz"
    write_labels(out, labels, like)
    written = nibabel.load(out)
    assert written.header.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), labels)
    np.testing.assert_array_equal(written.affine, nibabel.load(tmp_path / name).affine)
    assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (4, 2)
    np.testing.assert_allclose(written.get_qform(), moved, atol=1e-4)
    np.testing.assert_array_equal(written.header["pixdim"], nibabel.load(tmp_path / name).header["pixdim"])
    assert read_volume(out).grid == like.grid
    first = out.read_bytes()
    write_labels(out, labels, like)
    assert out.read_bytes() == first
    assert not list(tmp_path.glob(".partial*"))


@pytest.mark.parametrize("shape", [(16, 15), (16, 15, 14, 1), (16, 15, 14, 3)])
def test_labels_of_files_that_are_not_3d(tmp_path: Path, shape: tuple[int, ...]) -> None:
    like = read_volume(save(tmp_path / "a.nii", np.zeros(shape, np.float32)))
    write_labels(tmp_path / "out.nii", np.ones(like.grid.shape, np.uint8), like)
    assert nibabel.load(tmp_path / "out.nii").shape == (shape[:3] if shape[-1] == 3 else shape)
    assert read_volume(tmp_path / "out.nii").array.shape == like.grid.shape


@pytest.mark.parametrize("target", ["out.nii.gz", "out.nrrd", "out.mha"])
@pytest.mark.parametrize("source", ["a.nii.gz", "a.mha"])
def test_labels_may_change_the_format(tmp_path: Path, source: str, target: str) -> None:
    SimpleITK.WriteImage(itk_image(VOXELS), str(tmp_path / source))
    like = read_volume(tmp_path / source)
    labels = GENERATOR.integers(0, 5, VOXELS.shape).astype(np.uint8)
    write_labels(tmp_path / target, labels, like)
    back = read_volume(tmp_path / target)
    np.testing.assert_array_equal(back.array, labels)
    assert back.grid.matches(like.grid, 1e-5)


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    like = read_volume(save(tmp_path / "a.nii"))
    with pytest.raises(ValueError):
        write_labels(tmp_path / "out.nii", np.zeros((2, 2, 2), np.uint8), like)
    with pytest.raises(ValueError):
        write_labels(tmp_path / "out.nii", np.zeros(VOXELS.shape, np.int16), like)
    with pytest.raises(DataError, match="E-IMG-01"):
        write_labels(tmp_path / "out.mhd", np.zeros(VOXELS.shape, np.uint8), like)
    assert not list(tmp_path.glob("out*"))


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
    write_volume(tmp_path / "a.nii.gz", array, make_grid(array.shape, OBLIQUE))
    volume = read_volume(tmp_path / "a.nii.gz")
    assert volume.array.dtype == kind
    assert volume.warnings == ()
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(nibabel.load(tmp_path / "a.nii.gz").affine, OBLIQUE, atol=1e-6)
    write_volume(tmp_path / "b.nii.gz", array, make_grid(array.shape, OBLIQUE))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_types_that_nifti_lacks_are_stored_in_the_next_one(tmp_path: Path) -> None:
    grid = make_grid((2, 2, 2), np.eye(4))
    write_volume(tmp_path / "a.nii", np.full((2, 2, 2), 1 / 3), grid)
    assert read_volume(tmp_path / "a.nii").array.dtype == np.float32
    write_volume(tmp_path / "b.nii", np.full((2, 2, 2), -70000), grid)
    assert read_volume(tmp_path / "b.nii").array[0, 0, 0] == -70000
    with pytest.raises(ValueError, match="do not fit"):
        write_volume(tmp_path / "c.nii", np.full((2, 2, 2), 1 << 40), grid)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_written_scans_of_other_formats_come_back_as_well(name: str, tmp_path: Path) -> None:
    array = np.abs(VOXELS).astype(np.float32)
    write_volume(tmp_path / name, array, make_grid(array.shape, OBLIQUE))
    volume = read_volume(tmp_path / name)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.grid.matrix, OBLIQUE, atol=1e-6)
    with pytest.raises(DataError, match="known image format"):
        write_volume(tmp_path / "a.jpg", array, volume.grid)


def test_errors_of_the_library_name_no_option_of_one_command(tmp_path: Path) -> None:
    holed = VOXELS.astype(np.float32)
    holed[1, 2, 3] = np.nan
    with pytest.raises(DataError) as caught:
        require_finite(read_volume(save(tmp_path / "a.nii", holed)))
    assert caught.value.code == "E-IMG-05"
    shifted = read_volume(save(tmp_path / "b.nii", affine=AFFINE + np.eye(4)[:, [0, 1, 2, 0]]))
    with pytest.raises(DataError) as other:
        on_grid_of(read_volume(save(tmp_path / "c.nii")), shifted)
    assert other.value.code == "E-GEO-02"
    for error in (caught.value, other.value):
        assert error.fix
        assert "--" not in error.fix
