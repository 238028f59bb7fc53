"""From stored slices to batches."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import grimp
import numpy as np
import pytest
import torch

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import slices_seen
from samora_pipeline.contracts.plans import IntensityRule, Planned, Plans
from samora_pipeline.contracts.splits import Selection
from samora_pipeline.contracts.stored_case import SliceGeometry, StoredCase
from samora_pipeline.distributed import own_share
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.imaging.intensity import measure, normalize
from samora_pipeline.imaging.resampling import InPlaneMap
from samora_pipeline.slices.datasets import EpochOrder, JoinedSource, SliceId, SliceSource, labelled_ids
from samora_pipeline.slices.store import StoredSlices, write_case

ROWS, COLUMNS, SIZE = 20, 24, 16
AFFINE = tuple(tuple(float(i == j) for j in range(4)) for i in range(4))
GEOMETRY = SliceGeometry((COLUMNS, ROWS, 4), AFFINE, (2, 1, 0), (False, True, True), (1.0, 1.0, 1.0))
SCHEME = LabelScheme({"liver": (4,), "spleen": (1,)}, ignore=5)


def why(value: Any) -> Planned[Any]:
    return Planned(value, "test")


PLANS = Plans(
    dataset="Dataset090_Phantom",
    channel_names=("CT",),
    slice_axis=why("axial"),
    in_plane=why("resize"),
    in_plane_spacing=why(None),
    slice_size=why(None),
    input_size=why(None),
    channels=why("repeat"),
    intensity=why((IntensityRule("window", -100.0, 300.0),)),
    mirror=why(True),
    fingerprint_digest="",
)


def store(folder: Path, case: str, images: np.ndarray, labels: np.ndarray | None = None) -> None:
    stats = tuple(measure(images[:, channel]) for channel in range(images.shape[1]))
    write_case(folder, StoredCase(case, "train", (0, 0, 0), "", GEOMETRY, stats, (), None, ""), images, labels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for case, count in (("b", 3), ("a", 4)):
        images = generator.integers(-300, 500, (count, 1, ROWS, COLUMNS)).astype(np.int16)
        store(tmp_path, case, images, generator.integers(0, 6, (count, ROWS, COLUMNS)).astype(np.uint8))
    return tmp_path


IDS = [SliceId("a", 3), SliceId("b", 0), SliceId("a", 1)]


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    reads: list[int] = []
    original = getattr(StoredSlices, name)

    def read(self: StoredSlices, index: int) -> np.ndarray:
        reads.append(index)
        result: np.ndarray = original(self, index)
        return result

    monkeypatch.setattr(StoredSlices, name, read)
    return reads


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_images_are_normalised_then_resized(folder: Path, memory: int) -> None:
    source = SliceSource(folder, IDS, PLANS, SIZE, memory=memory)
    for _ in range(2):
        images = source.images([2, 0])
        assert (images.dtype, tuple(images.shape)) == (torch.float32, (2, 1, SIZE, SIZE))
        for got, name in zip(images, (IDS[2], IDS[0]), strict=True):
            stored = StoredSlices.open(folder, name.case)
            scaled = normalize(stored.image(name.index), PLANS.intensity.value, stored.record.intensities)
            expected = InPlaneMap.for_case(stored.record, PLANS, SIZE).image(scaled)
            np.testing.assert_allclose(got.numpy(), expected, atol=1 / 65535)


@pytest.mark.parametrize(
    "scheme", [SCHEME, LabelScheme({"organs": (1, 2, 4), "lesion": (4,)}, ignore=5, region_order=(1, 2))]
)
def test_targets_are_encoded_labels(folder: Path, scheme: LabelScheme) -> None:
    source = SliceSource(folder, IDS, PLANS, SIZE, scheme)
    targets = source.targets([1, 2, 1])
    assert (targets.dtype, tuple(targets.shape)) == (torch.int64, (3, SIZE, SIZE))
    for got, name in zip(targets, (IDS[1], IDS[2], IDS[1]), strict=True):
        stored = StoredSlices.open(folder, name.case)
        labels = InPlaneMap.for_case(stored.record, PLANS, SIZE).labels(stored.labels(name.index))
        np.testing.assert_array_equal(got.numpy(), scheme.encode(labels))
    assert (targets == -1).any()


def test_neighbours_are_channels_and_the_last_slice_is_repeated(folder: Path) -> None:
    ids = [SliceId("a", index) for index in range(4)]
    alone = SliceSource(folder, ids, PLANS, SIZE).images([0, 1, 2, 3])[:, 0]
    source = SliceSource(folder, [SliceId("b", 0), SliceId("a", 3), SliceId("a", 1)], PLANS, SIZE, neighbours=2)
    assert source.channels == 5
    images = source.images([2, 1])
    assert torch.equal(images[0], alone[[0, 0, 1, 2, 3]])
    assert torch.equal(images[1], alone[[1, 2, 3, 3, 3]])
    assert torch.equal(JoinedSource([SliceSource(folder, ids, PLANS, SIZE), source][1:]).images([2]), images[:1])


def test_a_negative_number_of_neighbours_is_refused() -> None:
    with pytest.raises(UsageError, match="E-SET-04"):
        slices_seen(-1)


def test_a_slice_is_decoded_once_while_memory_lasts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = counted(monkeypatch, "image")
    everything = SliceSource(folder, IDS, PLANS, SIZE)
    first = everything.images([0, 1, 2])
    assert torch.equal(everything.images([0, 1, 2]), first)
    assert len(reads) == 3
    reads.clear()
    two = SliceSource(folder, IDS, PLANS, SIZE, memory=2 * SIZE * SIZE * 2 + 1)  # two images of 16 bits, no third
    for _ in range(3):
        assert torch.equal(two.images([0, 1, 2]), first)
    assert reads == [3, 0, 1, 1, 1]


def test_images_and_targets_share_the_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = counted(monkeypatch, "image"), counted(monkeypatch, "labels")
    source = SliceSource(folder, IDS, PLANS, SIZE, SCHEME, memory=2 * SIZE * SIZE * 2)
    for _ in range(2):
        source.images([0, 1])
        source.targets([0, 1])
    assert (len(images), len(labels)) == (2, 4)


def test_an_empty_share_of_a_batch_keeps_its_shape(folder: Path) -> None:
    source = SliceSource(folder, IDS, PLANS, SIZE, SCHEME)
    assert source.images([]).shape == (0, 1, SIZE, SIZE)
    assert source.targets([]).shape == (0, SIZE, SIZE)
    assert JoinedSource([source]).images([]).shape == (0, 1, SIZE, SIZE)


def test_targets_need_a_scheme(folder: Path) -> None:
    with pytest.raises(ValueError, match="scheme"):
        SliceSource(folder, IDS, PLANS, SIZE).targets([0])


def test_labelled_ids_are_the_listed_slices_or_whole_cases(folder: Path) -> None:
    selection = Selection("2cases", "0", "slices", 0, False, ("b", "a"), {"a": (2, 0)})
    assert labelled_ids(selection, folder) == [
        SliceId("a", 0),
        SliceId("a", 2),
        SliceId("b", 0),
        SliceId("b", 1),
        SliceId("b", 2),
    ]


@pytest.mark.parametrize("index", [4, -1])
def test_a_listed_slice_that_does_not_exist_is_refused(folder: Path, index: int) -> None:
    with pytest.raises(DataError) as caught:
        labelled_ids(Selection("10pct", "official", "slices", 0, True, ("a",), {"a": (1, index)}), folder)
    assert caught.value.code == "E-SPLIT-06"
    assert "0 to 3" in str(caught.value)


def test_joined_sources_are_numbered_one_after_the_other(folder: Path) -> None:
    other = replace(PLANS, dataset="Dataset091_Other")
    first, second = SliceSource(folder, IDS, PLANS, SIZE), SliceSource(folder, IDS[:2], other, SIZE)
    joined = JoinedSource([first, second])
    assert len(joined) == 5
    assert joined.keys([4, 0]) == ["Dataset091_Other/b/0", "Dataset090_Phantom/a/3"]
    assert torch.equal(joined.images([3, 2, 4]), torch.cat((second.images([0]), first.images([2]), second.images([1]))))
    with pytest.raises(IndexError):
        joined.images([5])


def test_joined_sources_must_fit_together(folder: Path) -> None:
    other = replace(PLANS, dataset="Dataset091_Other", channel_names=("T1", "T2"))
    with pytest.raises(ValueError, match="'Dataset091_Other': 2"):
        JoinedSource([SliceSource(folder, IDS, PLANS, SIZE), SliceSource(folder, IDS, other, SIZE)])


def test_each_epoch_visits_each_slice_once() -> None:
    order = EpochOrder(10, 4, seed=3)
    for epoch in range(3):
        batches = order.batches(epoch)
        assert [len(batch) for batch in batches] == [4, 4, 2]
        assert len(order) == len(batches)
        assert sorted(chain(*batches)) == list(range(10))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    assert EpochOrder(50, 8, 1).batches(7) == EpochOrder(50, 8, 1).batches(7)
    assert list(chain(*EpochOrder(50, 8, 1).batches(7))) == list(chain(*EpochOrder(50, 16, 1).batches(7)))
    others = [EpochOrder(50, 8, 1).batches(8), EpochOrder(50, 8, 2).batches(7)]
    assert all(EpochOrder(50, 8, 1).batches(7) != other for other in others)
    assert own_share(EpochOrder(50, 8, 1).batches(0)[0]) == EpochOrder(50, 8, 1).batches(0)[0]


@pytest.mark.parametrize("package", ["nibabel", "SimpleITK", "matplotlib"])
def test_reading_slices_needs_no_library_for_medical_files(graph: grimp.ImportGraph, package: str) -> None:
    assert graph.find_shortest_chain("samora_pipeline.slices.datasets", "blosc2") is not None
    if package in graph.modules:
        assert graph.find_shortest_chain("samora_pipeline.slices.datasets", package) is None


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("samora_pipeline", include_external_packages=True)
