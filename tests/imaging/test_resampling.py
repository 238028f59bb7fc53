import numpy as np
import pytest
from scipy import ndimage

from samora_pipeline.contracts.plans import IntensityRule, Planned, Plans
from samora_pipeline.imaging.resampling import OUTSIDE_LOGIT, InPlaneMap

GENERATOR = np.random.default_rng(5)


def plans(size: int | None, rule: str = "resize", spacing: float | None = None) -> Plans:
    return Plans(
        dataset="Dataset090_Phantom",
        channel_names=("CT",),
        slice_axis=Planned("axial", ""),
        in_plane=Planned(rule, ""),  # type: ignore[arg-type]
        in_plane_spacing=Planned(spacing, ""),
        slice_size=Planned(size, ""),
        input_size=Planned(None, ""),
        channels=Planned("repeat", ""),
        intensity=Planned((IntensityRule("percentiles"),), ""),
        mirror=Planned(True, ""),
        fingerprint_digest="",
    )


def zoom(array: np.ndarray, rows: int, cols: int, order: int) -> np.ndarray:
    factors = (1,) * (array.ndim - 2) + (rows / array.shape[-2], cols / array.shape[-1])
    return ndimage.zoom(array, factors, order=order, mode="nearest", grid_mode=True)


@pytest.mark.parametrize(
    ("rows", "cols", "size"),
    [(96, 96, 64), (50, 37, 64), (64, 64, 64), (1, 9, 16), (131, 64, 32), (512, 430, 224), (200, 320, 512)],
)
def test_resizing_equals_scipy(rows: int, cols: int, size: int) -> None:
    in_plane = InPlaneMap.for_plan(rows, cols, (1.0, 1.0), plans(None), size)
    images = GENERATOR.random((2, 1, rows, cols), dtype=np.float32)
    expected = np.clip(zoom(images.astype(np.float64), size, size, 3), 0, 1)
    found = in_plane.image(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    labels = GENERATOR.integers(0, 9, (4, rows, cols)).astype(np.uint8)
    np.testing.assert_array_equal(in_plane.labels(labels), zoom(labels, size, size, 0))


@pytest.mark.parametrize("size", [32, 64, 97])
def test_resampling_and_padding_equals_scipy_and_slicing(size: int) -> None:
    # 40 rows of 1.5 mm and 80 columns of 1 mm at 1 mm become 60 x 80.
    in_plane = InPlaneMap.for_plan(40, 80, (1.5, 1.0), plans(size, "resample_and_pad", 1.0), size)
    image = GENERATOR.random((40, 80), dtype=np.float32)
    labels = GENERATOR.integers(0, 9, (40, 80)).astype(np.uint8)
    np.testing.assert_allclose(
        in_plane.image(image),
        np.clip(_centred(zoom(image.astype(np.float64), 60, 80, 3), size), 0, 1),
        rtol=0,
        atol=1e-6,
    )
    np.testing.assert_array_equal(in_plane.labels(labels), _centred(zoom(labels, 60, 80, 0), size))


@pytest.mark.parametrize(
    ("rows", "cols", "spacing", "resampled", "frame"),
    [
        (80, 80, (0.4, 0.4), (40, 40), 40),  # finer than 0.8 mm: half as many pixels, then shrunk to 32
        (50, 40, (1.0, 1.0), (50, 40), 50),  # coarser: kept, padded to a square, shrunk to 32
        (20, 24, (0.5, 3.0), (12, 24), 32),  # small: padded, not enlarged
        (32, 32, (0.8, 0.8), (32, 32), 32),  # nothing to do
    ],
)
def test_shrinking_never_enlarges(
    rows: int, cols: int, spacing: tuple[float, float], resampled: tuple[int, int], frame: int
) -> None:
    in_plane = InPlaneMap.for_plan(rows, cols, spacing, plans(32, "shrink_and_pad", 0.8), 32)
    image = GENERATOR.random((rows, cols), dtype=np.float32)
    expected = zoom(image.astype(np.float64), *resampled, 3)
    expected = zoom(_centred(expected, frame), 32, 32, 3) if frame != 32 else _centred(expected, 32)
    np.testing.assert_allclose(in_plane.image(image), np.clip(expected, 0, 1), atol=1e-5)
    assert in_plane.field_of_view.all()
    assert in_plane.rows.resampled * in_plane.rows.target <= rows * in_plane.rows.frame
    assert in_plane.columns.resampled * in_plane.columns.target <= cols * in_plane.columns.frame


def test_shrinking_without_a_spacing_only_fits_the_frame() -> None:
    in_plane = InPlaneMap.for_plan(64, 48, (0.1, 0.1), plans(32, "shrink_and_pad", None), 32)
    assert (in_plane.rows.resampled, in_plane.columns.resampled) == (64, 48)
    labels = np.ones((64, 48), np.uint8)
    found = in_plane.labels(labels)
    assert found[:, 4:-4].all()
    assert not found[:, :4].any()
    assert not found[:, -4:].any()


def _centred(array: np.ndarray, size: int) -> np.ndarray:
    result = np.zeros((size, size), array.dtype)
    for row in range(size):
        for column in range(size):
            r, c = row - (size - array.shape[0]) // 2, column - (size - array.shape[1]) // 2
            if 0 <= r < array.shape[0] and 0 <= c < array.shape[1]:
                result[row, column] = array[r, c]
    return result


def test_slice_size_and_input_size_may_differ() -> None:
    in_plane = InPlaneMap.for_plan(50, 60, (1.0, 1.0), plans(32), 64)
    image = GENERATOR.random((50, 60))
    expected = np.clip(zoom(zoom(image, 32, 32, 3), 64, 64, 3), 0, 1)
    np.testing.assert_allclose(in_plane.image(image.astype(np.float32)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rows", "cols", "size", "low"), [(96, 80, 64, 16), (40, 40, 64, 64), (33, 7, 32, 1)])
def test_logits_equal_scipy_linear_resizing(rows: int, cols: int, size: int, low: int) -> None:
    in_plane = InPlaneMap.for_plan(rows, cols, (1.0, 1.0), plans(None), size)
    logits = GENERATOR.normal(size=(2, 3, low, low)).astype(np.float32)
    expected = zoom(logits.astype(np.float64), rows, cols, 1)
    np.testing.assert_allclose(in_plane.logits(logits), expected, atol=1e-5)
    assert in_plane.field_of_view.all()


@pytest.mark.parametrize("size", [32, 120])
def test_logits_invert_the_geometry_of_padding_and_cropping(size: int) -> None:
    """A ramp painted in the source comes back as the same ramp: position for position, not just shape for shape."""
    rows, cols, low = 60, 90, size // 4
    in_plane = InPlaneMap.for_plan(rows, cols, (1.0, 0.8), plans(size, "resample_and_pad", 1.0), size)
    # The source coordinate (in pixels) at each centre of the low-resolution frame, from the rule itself.
    frame = (np.arange(low) + 0.5) * size / low
    row_at = (frame - (size - 60) // 2) * rows / 60 - 0.5
    column_at = (frame - (size - 72) // 2) * cols / 72 - 0.5
    ramp = np.stack([np.repeat(row_at[:, None], low, 1), np.repeat(column_at[None], low, 0)]).astype(np.float32)
    found = in_plane.logits(ramp)
    inner = np.zeros((rows, cols), bool)
    inner[4:-4, 4:-4] = True
    if size == 32:
        inner &= np.zeros_like(inner) | _central(rows, cols, 20, 24)
        assert not in_plane.field_of_view.all()
    np.testing.assert_allclose(found[0][inner], np.repeat(np.arange(rows)[:, None], cols, 1)[inner], atol=1e-3)
    np.testing.assert_allclose(found[1][inner], np.repeat(np.arange(cols)[None], rows, 0)[inner], atol=1e-3)


def _central(rows: int, cols: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((rows, cols), bool)
    top, left = (rows - height) // 2, (cols - width) // 2
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.mark.parametrize("regions", [False, True])
def test_outside_the_field_of_view_is_background(regions: bool) -> None:
    in_plane = InPlaneMap.for_plan(100, 100, (1.0, 1.0), plans(32, "resample_and_pad", 1.0), 32)
    logits = np.ones((1, 3, 8, 8), dtype=np.float32)
    found = in_plane.logits(logits, regions)[0]
    outside = ~in_plane.field_of_view
    assert outside.sum() == 100 * 100 - 32 * 32
    assert (found[1:, outside] == -OUTSIDE_LOGIT).all()
    assert (found[0, outside] == (-OUTSIDE_LOGIT if regions else OUTSIDE_LOGIT)).all()
    np.testing.assert_allclose(found[:, ~outside], 1.0, atol=1e-6)


def test_a_label_survives_the_way_there_and_back() -> None:
    disc = (np.hypot(*np.mgrid[-48:48, -60:60]) < 30).astype(np.uint8)
    for plan, size in ((plans(None), 64), (plans(160, "resample_and_pad", 1.0), 160), (plans(64), 128)):
        in_plane = InPlaneMap.for_plan(96, 120, (1.0, 1.0), plan, size)
        mask = in_plane.labels(disc).astype(np.float32)
        back = in_plane.logits(np.stack([1 - mask, mask])).argmax(0)
        assert 2 * (back & disc).sum() / (back.sum() + disc.sum()) > 0.97


@pytest.mark.parametrize(
    ("plan", "size"), [(plans(None), 64), (plans(None), 512), (plans(96, "resample_and_pad", 1.7), 96)]
)
def test_resizing_in_bands_equals_the_whole_operators(plan: Plans, size: int) -> None:
    in_plane = InPlaneMap.for_plan(300, 150, (0.8, 1.6), plan, size)
    images = GENERATOR.random((2, 300, 150), dtype=np.float32)
    rows, columns = in_plane.image_operators
    whole = np.clip(rows.astype(np.float64) @ images @ columns.T.astype(np.float64), 0, 1)
    np.testing.assert_allclose(in_plane.image(images), whole, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(in_plane.image(images)[1], in_plane.image(images[1]))
