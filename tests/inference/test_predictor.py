"""The predictor with networks that copy the intensity, so that what comes back can be told voxel by voxel."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.plans import IntensityRule, SliceAxis
from samora_pipeline.contracts.postprocessing import Step
from samora_pipeline.errors import DataError, ResourceError
from samora_pipeline.imaging.volume import Volume, make_grid, to_raw_grid, to_slices
from samora_pipeline.inference import predictor as predictor_module
from samora_pipeline.inference.predictor import Labels, Predictor, mirrored_views
from tests.fake_run import LABELS, REGIONS, make_plans, write_fake_run

ONE = LabelScheme({"cube": (7,)})
UNIT = (IntensityRule("window", 0.0, 1.0),)


class Copy(nn.Module):
    """Background and one organ whose logit is the intensity around 0.5."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([0.5 - images, images - 0.5], 1) * 40


class CopyMany(nn.Module):
    """Output k (of K) wins where the intensity is nearest to k / (K - 1)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.levels: Tensor
        self.register_buffer("levels", torch.linspace(0, 1, outputs)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return -1000 * (images - self.levels) ** 2


def volume(array: npt.NDArray[Any], affine: npt.NDArray[np.float64] | None = None) -> Volume:
    return Volume(array, make_grid(array.shape, np.eye(4) if affine is None else affine), Path("case_0000.nii.gz"))


def cube(shape: tuple[int, int, int] = (28, 36, 20)) -> npt.NDArray[np.float32]:
    array = np.zeros(shape, dtype=np.float32)
    array[4:10, 18:30, 3:8] = 1.0
    return array


def turned(axes: str, spacing: tuple[float, float, float], angle: float = 0.0) -> npt.NDArray[np.float64]:
    """An affine whose voxel axes point to ``axes``, turned by ``angle`` degrees about the third world axis."""
    affine = np.eye(4)
    for column, letter in enumerate(axes):
        world = next(i for i, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        affine[:3, column] = 0.0
        affine[world, column] = spacing[column] * (1 if letter in "RAS" else -1)
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]
    affine[:3, 3] = (-31.5, 12.25, 100.0)
    return affine


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SLA"])
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("rule", ["resize", "resample_and_pad"])
def test_a_bright_cube_comes_back_where_it_was(axes: str, axis: str, rule: str) -> None:
    plans = make_plans(intensity=UNIT, slice_axis=axis, in_plane=rule, in_plane_spacing=0.5, slice_size=96)
    predictor = Predictor([Copy()], plans, ONE, input_size=64)
    array = cube()
    labels = predictor.predict_volume((volume(array, turned(axes, (1.0, 1.2, 2.0), angle=12)),))
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, (array * 7).astype(np.uint8))


def test_what_lies_outside_the_field_of_view_is_background() -> None:
    plans = make_plans(intensity=UNIT, in_plane="resample_and_pad", in_plane_spacing=1.0, slice_size=16)
    labels = Predictor([Copy()], plans, ONE, input_size=64).predict_volume(
        (volume(np.ones((28, 36, 3), dtype=np.float32)),)
    )
    assert (labels[6:22, 10:26] == 7).all()
    assert np.count_nonzero(labels) == 16 * 16 * 3


def test_outputs_become_the_declared_values() -> None:
    scheme = LabelScheme({"a": (3,), "b": (1,), "c": (200,)})
    array = np.zeros((16, 16, 4), dtype=np.float32)
    array[:4], array[4:8], array[8:12] = 1 / 3, 2 / 3, 1.0
    plans = make_plans(intensity=UNIT, slice_size=16)
    labels = Predictor([CopyMany(4)], plans, scheme, input_size=64).predict_volume((volume(array),))
    assert [int(labels[i, 8, 2]) for i in (1, 6, 10, 14)] == [3, 1, 200, 0]


class Brighter(nn.Module):
    """Sees the organ where the next slice is brighter than the one before."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([images[:, :1], images[:, 2:]], 1)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_neighbouring_slices_are_channels(batch: int) -> None:
    brightness = np.array([0.0, 0.5, 0.2, 0.2, 1.0, 0.9], dtype=np.float32)
    array = np.broadcast_to(brightness, (16, 16, 6))
    plans = make_plans(intensity=UNIT, slice_size=16)
    predictor = Predictor([Brighter()], plans, ONE, input_size=16, neighbours=1, batch_size=batch)
    labels = predictor.predict_volume((volume(array),))
    before, after = brightness[[0, 0, 1, 2, 3, 4]], brightness[[1, 2, 3, 4, 5, 5]]
    assert (labels[8, 8] == np.where(after > before, 7, 0)).all()


@pytest.mark.parametrize("scheme", [LABELS, REGIONS, LabelScheme({"a": (3,), "b": (1,)}, ignore=4)])
def test_decoding_on_a_device_follows_the_label_scheme(scheme: LabelScheme) -> None:
    logits = torch.randn(5, scheme.num_outputs, 9, 7)
    probabilities = logits.sigmoid() if scheme.regions else logits.softmax(1)
    decoded = Predictor([Copy()], make_plans(), scheme, input_size=64).decode(probabilities)
    assert np.array_equal(decoded, scheme.decode(logits.transpose(0, 1).numpy()))
    assert scheme.ignore not in decoded


class Lopsided(nn.Module):
    """Sees the organ in the left half of the columns, whatever the image."""

    def forward(self, images: Tensor) -> Tensor:
        organ = torch.zeros_like(images)
        organ[..., : images.shape[-1] // 2] = 4.0
        return torch.cat([torch.full_like(images, 1.0), organ], 1)


def test_members_are_averaged_as_probabilities() -> None:
    class Constant(nn.Module):
        def __init__(self, logit: float) -> None:
            super().__init__()
            self.logit = logit

        def forward(self, images: Tensor) -> Tensor:
            return torch.cat([torch.zeros_like(images), torch.full_like(images, self.logit)], 1)

    # The mean of the logits is below zero, the mean of the probabilities above one half.
    logits = (1.5, 1.5, -9.0)
    predictor = Predictor([Constant(logit) for logit in logits], make_plans(), ONE, input_size=64)
    (chunk,) = predictor.predict_scores(np.zeros((1, 1, 8, 8), dtype=np.int16), (1, 1, 1))
    expected = np.mean([1 / (1 + np.exp(-logit)) for logit in logits])
    assert torch.allclose(chunk.probabilities[:, 1], torch.tensor(float(expected)), atol=1e-6)
    assert (predictor.decode(chunk.probabilities) == 7).all()


def test_mirrored_views_are_mirrored_back() -> None:
    images = np.zeros((2, 1, 64, 64), dtype=np.int16)
    (alone,) = Predictor([Lopsided()], make_plans(), ONE, input_size=64).predict_scores(images, (1, 1, 1))
    (both,) = Predictor([Lopsided()], make_plans(), ONE, tta=True, input_size=64).predict_scores(images, (1, 1, 1))
    assert torch.allclose(both.probabilities, (alone.probabilities + alone.probabilities.flip(3)) / 2, atol=1e-6)
    assert not torch.allclose(both.probabilities, alone.probabilities)


@pytest.mark.parametrize(
    ("axis", "free", "views"),
    [
        ("axial", True, [(), (2,), (3,), (2, 3)]),
        ("coronal", False, [()]),
        ("sagittal", False, [()]),
    ],
)
def test_views_are_the_flips_of_training(axis: str, free: bool, views: list[tuple[int, ...]]) -> None:
    assert mirrored_views(make_plans(slice_axis=axis, mirror=free)) == views


def test_percentiles_are_those_of_the_whole_volume() -> None:
    array = np.random.default_rng(0).normal(0, 100, (16, 16, 40)).astype(np.float32)
    plans = make_plans(intensity=(IntensityRule("percentiles"),), slice_size=16)
    low, high = np.percentile(array, (0.5, 99.5))
    labels = Predictor([Copy()], plans, ONE, batch_size=3, input_size=16).predict_volume((volume(array),))
    expected = (array - low) / (high - low) > 0.5
    near = np.abs((array - low) / (high - low) - 0.5) < 1e-4
    assert np.array_equal((labels == 7)[~near], expected[~near])


@pytest.mark.parametrize("labels", [LABELS, REGIONS])
def test_the_batch_changes_nothing(tmp_path: Path, labels: LabelScheme) -> None:
    plans = make_plans(in_plane="resample_and_pad", in_plane_spacing=1.0, slice_size=48)
    run = write_fake_run(tmp_path, plans=plans, labels=labels, folds=("0", "1"))
    predictor = Predictor.load(run, weights_folder=tmp_path)
    images = np.random.default_rng(1).integers(-200, 400, (5, 1, 40, 52)).astype(np.int16)
    scores, stacks = [], []
    for batch in (1, 2, 5):
        predictor.batch_size = batch
        scores.append(torch.cat([chunk.probabilities for chunk in predictor.predict_scores(images, (3, 1.1, 0.9))]))
        stacks.append(predictor(images[:, 0], (3, 1.1, 0.9)))
    assert float(scores[0].std()) > 0
    for other, stack in zip(scores[1:], stacks[1:], strict=True):
        assert torch.allclose(scores[0], other, atol=1e-6)
        assert np.array_equal(stacks[0], stack)


def test_chunks_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(predictor_module.CHUNK_BYTES, "cpu", 2 * 4 * 2 * 64 * 64)
    chunks = list(
        Predictor([Copy()], make_plans(), ONE, input_size=64).predict_scores(
            np.zeros((5, 1, 64, 64), np.int16), (1, 1, 1)
        )
    )
    assert [(chunk.start, len(chunk.probabilities)) for chunk in chunks] == [(0, 2), (2, 2), (4, 1)]


class Greedy(nn.Module):
    """Runs out of memory on more than ``limit`` slices."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if len(images) > self.limit:
            raise torch.OutOfMemoryError("tried to allocate more than there is")
        return Copy()(images)


def test_the_batch_is_halved_when_memory_runs_out_and_stays_so() -> None:
    array = cube()
    network = Greedy(limit=2)
    plans = make_plans(intensity=UNIT)
    labels = Predictor([network], plans, ONE, batch_size=8, input_size=64).predict_volume((volume(array),))
    assert network.seen == [8, 4, *[2] * 10]
    assert np.array_equal(labels == 7, array == 1)


def test_a_slice_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ResourceError, match="E-MEM-01"):
        Predictor([Greedy(limit=0)], make_plans(), ONE, input_size=64).predict_volume((volume(cube()),))


class SmallDecoder(Predictor):
    """Finds no memory for the decoding of more than ``most`` slices."""

    most = 1

    def decode(self, probabilities: Tensor) -> Labels:
        if len(probabilities) > self.most:
            raise torch.OutOfMemoryError("tried to allocate more than there is")
        return super().decode(probabilities)


def test_decoding_is_done_in_halves_where_memory_runs_out() -> None:
    def labels(kind: type[Predictor]) -> Labels:
        return kind([Copy()], make_plans(intensity=UNIT), ONE, batch_size=7, input_size=64).predict_volume(
            (volume(cube()),)
        )

    assert np.array_equal(labels(SmallDecoder), labels(Predictor))


def test_a_slice_that_cannot_be_decoded_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmallDecoder, "most", 0)
    with pytest.raises(ResourceError, match="E-MEM-01"):
        SmallDecoder([Copy()], make_plans(), ONE, input_size=64).predict_volume((volume(cube()),))


def test_networks_that_do_not_fit_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> nn.Module:
        raise torch.OutOfMemoryError("tried to allocate more than there is")

    monkeypatch.setattr(predictor_module, "prepared", full)
    with pytest.raises(ResourceError, match="E-MEM-21") as caught:
        Predictor([Copy(), Copy()], make_plans(), ONE, input_size=64)
    assert "2 networks" in caught.value.what
    assert "--device cpu" in caught.value.fix


def test_other_errors_of_a_network_are_not_swallowed() -> None:
    with pytest.raises(RuntimeError, match="size"):
        Predictor([nn.Conv2d(3, 2, 1)], make_plans(), ONE, input_size=64).predict_volume((volume(cube()),))


class Second(nn.Module):
    """Copies the second of two channels."""

    def forward(self, images: Tensor) -> Tensor:
        return Copy()(images[:, 1:])


def test_arrays_can_be_segmented_directly() -> None:
    two = make_plans(channel_names=("T1", "T2"), intensity=UNIT * 2)
    array = cube().transpose(2, 1, 0)
    labels = Predictor([Second()], two, ONE, input_size=64)(np.stack([np.zeros_like(array), array]), (3.0, 1.0, 1.0))
    assert labels.shape == array.shape
    assert np.array_equal(labels == 7, array == 1)
    with pytest.raises(DataError, match="E-CHAN-04"):
        Predictor([Second()], two, ONE, input_size=64)(array, (3.0, 1.0, 1.0))


@pytest.mark.parametrize(("axes", "axis"), [("SPL", "axial"), ("RAS", "axial"), ("PIR", "sagittal"), ("LSA", "axial")])
def test_an_array_is_what_a_file_with_these_axes_would_be(axes: str, axis: SliceAxis) -> None:
    """A network that looks at the place in the slice, so that a wrong turn or flip changes the answer."""
    array = np.random.default_rng(5).random((14, 18, 10)).astype(np.float32)
    spacing = (1.0, 2.0, 3.0)
    predictor = Predictor([Lopsided()], make_plans(intensity=UNIT, slice_axis=axis), ONE, input_size=64)
    expected = predictor.predict_volume((volume(array, turned(axes, spacing)),))
    assert 0 < np.count_nonzero(expected) < expected.size
    assert np.array_equal(predictor(array, spacing, axes), expected)


@pytest.mark.parametrize(
    ("shape", "spacing", "axes"),
    [
        ((4, 5), (1, 1, 1), "SPL"),
        ((4, 5, 6), (1, 1), "SPL"),
        ((4, 5, 6), (1, 0, 1), "SPL"),
        ((4, 5, 6), (1, 1, float("nan")), "SPL"),
        ((4, 5, 6), (1, 1, 1), "SIL"),
        ((4, 5, 6), (1, 1, 1), "SP"),
        ((4, 5, 6), (1, 1, 1), "XYZ"),
    ],
)
def test_arrays_of_another_form_are_refused(shape: tuple[int, ...], spacing: tuple[float, ...], axes: str) -> None:
    with pytest.raises(ValueError, match=r"array|spacing|axes"):
        Predictor([Copy()], make_plans(), ONE, input_size=64)(np.zeros(shape), spacing, axes)


def test_voxels_that_are_not_finite_are_refused() -> None:
    array = cube()
    array[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="E-IMG-05"):
        Predictor([Copy()], make_plans(), ONE, input_size=64).predict_volume((volume(array),))


@pytest.mark.parametrize(("axes", "axis"), list(itertools.product(["LPS", "SLA"], ["axial", "sagittal"])))
def test_saved_probabilities_lie_on_the_raw_grid(tmp_path: Path, axes: str, axis: SliceAxis) -> None:
    case = volume(np.random.default_rng(2).random((14, 18, 10)).astype(np.float32), turned(axes, (1, 1, 3)))
    plans = make_plans(intensity=UNIT, slice_axis=axis)
    predictor = Predictor([Copy()], plans, ONE, batch_size=3, input_size=64)
    path = tmp_path / "case_probabilities.b2nd"
    labels = predictor.predict_volume((case,), probabilities=path)
    images, geometry = to_slices((case,), axis)
    stack = torch.cat([chunk.probabilities for chunk in predictor.predict_scores(images, geometry.spacing)])
    stored = blosc2.open(str(path))
    assert stored.dtype == np.float16
    assert np.array_equal(stored[:], to_raw_grid(stack.half().transpose(0, 1).numpy(), geometry))
    assert np.array_equal(stored[1] > 0.5, labels == 7)
    assert stored.schunk.vlmeta["names"] == ["background", "cube"]
    assert np.allclose(stored.schunk.vlmeta["affine"], case.grid.matrix)


def test_only_chosen_labels_are_reduced_to_their_largest_component() -> None:
    array = cube()
    array[20:22, 2:5, 12:14] = 1.0
    step = Step("cube", (7,), True, {}, {})
    plans = make_plans(intensity=UNIT)
    assert np.array_equal(Predictor([Copy()], plans, ONE, input_size=64).predict_volume((volume(array),)), array * 7)
    assert np.array_equal(
        Predictor([Copy()], plans, ONE, steps=(step,), input_size=64).predict_volume((volume(array),)), cube() * 7
    )
