"""The 3-D U-Net on whole volumes, from a request to scores."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.contracts.splits import Selection
from samora_pipeline.errors import UsageError
from samora_pipeline.handover.cli import main as export
from samora_pipeline.imaging.intensity import normalize
from samora_pipeline.imaging.volume_map import VolumeMap
from samora_pipeline.inference.cli import main as predict
from samora_pipeline.objectives.segmentation import segmentation_loss
from samora_pipeline.paths import resolve_roots
from samora_pipeline.slices.store import StoredSlices
from samora_pipeline.slices.volume_augmentation import apply_volume_augmentation
from samora_pipeline.slices.volumes import VolumeSource
from tests.trainers.runs import final, fold_folder, losses, session
from tests.trainers.small_data import DEPTH, NAME, SIZE, make_dataset
from tests.trainers.toy import loop_context
from trainers.cli import main
from trainers.loop.loop import train
from trainers.runs.choices import choose_method
from trainers.runs.planning import PlannedRun, plan_run
from trainers.runs.request import Request
from trainers.runs.sizes import choose_volume
from trainers.settings import FINETUNE
from trainers.stages.volumes import FinetuneVolumes, VolumeTask
from trainers.volume_settings import VolumeFinetuneSettings

GRID = (8, 32, 32)
SMALL = ("model.widths=8,16,24", "model.volume=8,32,32")
REQUEST = Request("90", "UNet3DTrainer", "2cases", assignments=SMALL)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("volumes"))


@pytest.fixture(scope="module")
def plan(root: Path) -> PlannedRun:
    return plan_run(REQUEST, resolve_roots(str(root)))


def _task(plan: PlannedRun, **changes: Any) -> tuple[VolumeTask, Any]:
    stage = plan.context.stages[FINETUNE]
    assert isinstance(stage, FinetuneVolumes)
    network = stage.network(plan.config, plan.context)
    settings = replace(stage.settings, **changes)
    return VolumeTask(plan.config, settings, network, plan.context.dataset.slices, 0), network


def _case(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Any:
    return SimpleNamespace(shape=shape, geometry=SimpleNamespace(spacing=spacing))


@pytest.mark.parametrize(
    ("shape", "spacing", "volume"),
    [
        ((88, 143, 192), (0.625, 0.625, 0.625), [48, 80, 104]),
        ((150, 512, 512), (3.0, 0.8, 0.8), [80, 72, 72]),
        # What is small already keeps all of its voxels.
        ((36, 50, 35), (1.0, 1.0, 1.0), [40, 56, 40]),
        # Thick slices are not split; rows and columns have what they leave.
        ((20, 320, 320), (3.6, 0.6, 0.6), [24, 128, 128]),
        ((1, 3000, 3000), (1.0, 1.0, 1.0), [8, 224, 224]),
    ],
)
def test_the_grid_is_made_of_cubes_no_finer_than_the_scan(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], volume: list[int]
) -> None:
    choice = choose_volume([_case(shape, spacing)] * 3)
    assert choice.value == volume
    assert " x ".join(map(str, shape)) in choice.why


def test_the_run_records_its_grid_and_its_reason(root: Path) -> None:
    config = plan_run(replace(REQUEST, assignments=()), resolve_roots(str(root))).config
    assert config.model.volume == (8, SIZE, SIZE)
    assert f"{DEPTH} x {SIZE} x {SIZE} voxels" in config.choices["model.volume"].why
    assert config.model.input_text == "8 x 32 x 32 voxels"


def test_a_volume_is_its_stored_slices(plan: PlannedRun) -> None:
    config, slices = plan.config, plan.context.dataset.slices
    source = VolumeSource(slices, config.selection, config.plans, GRID, config.labels)
    assert source.keys([0, 1]) == [f"{NAME}/{case}" for case in sorted(config.selection.cases)]
    assert source.extents([0]).tolist() == [[DEPTH * 3.0, SIZE, SIZE]]
    for number, case in enumerate(sorted(config.selection.cases)):
        stored = StoredSlices.open(slices, case)
        stack = np.stack([stored.image(index) for index in range(DEPTH)])
        stack = normalize(stack, config.plans.intensity.value, stored.record.intensities)
        way = VolumeMap.between(stored.record.shape, GRID)
        expected = way.image(lambda index, stack=stack: stack[index], 1)  # type: ignore[misc]
        np.testing.assert_allclose(source.images([number])[0].numpy(), expected, atol=1e-5)
        assert np.array_equal(source.targets([number])[0].numpy(), way.labels(stored.labels))
    nothing_kept = VolumeSource(slices, config.selection, config.plans, GRID, config.labels, memory=0)
    assert torch.equal(nothing_kept.images([1, 0]), source.images([1, 0]))
    assert torch.equal(nothing_kept.targets([1, 0]), source.targets([1, 0]))


def test_of_single_labelled_slices_the_other_planes_are_ignored(plan: PlannedRun) -> None:
    config, slices = plan.config, plan.context.dataset.slices
    case = config.selection.cases[0]
    selection = Selection(**{**vars(config.selection), "cases": (case,), "slices": {case: (1, 3)}})
    targets = VolumeSource(slices, selection, config.plans, GRID, config.labels).targets([0])[0]
    stored = StoredSlices.open(slices, case)
    labelled = [plane for plane in range(GRID[0]) if (targets[plane] >= 0).all()]
    assert labelled == [2, 5]
    assert (targets[[0, 1, 3, 4, 6, 7]] == -1).all()
    assert np.array_equal(targets[2].numpy(), stored.labels(1))


def test_the_loss_is_that_of_slices_over_all_planes(plan: PlannedRun) -> None:
    task, network = _task(plan)
    batch = task.load([0, 1], 4)
    loss, metrics = task.loss(batch, 4)
    images, targets = apply_volume_augmentation(batch["images"], batch["targets"], batch["drawn"])
    logits = network(images)
    planes, labels = logits.movedim(2, 1).flatten(0, 1), targets.flatten(0, 1)
    expected = segmentation_loss(planes, labels, cross_entropy=0.5, dice=0.5)
    torch.testing.assert_close(loss, expected.loss)
    assert metrics.keys() == {"cross_entropy", "dice_loss"}


def test_half_of_a_batch_at_a_time_learns_the_same(plan: PlannedRun, tmp_path: Path) -> None:
    results = []
    for micro_batch in (None, 1):
        task, network = _task(plan, micro_batch=micro_batch, epochs=2)
        train(task.training(), loop_context(tmp_path / str(micro_batch)))
        results.append(network.state_dict())
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


def test_two_volumes_can_be_learned_by_heart(plan: PlannedRun, tmp_path: Path) -> None:
    calm = {"contrast": (1, 1), "brightness": (1, 1), "gamma": (1, 1), "curve": 0, "bias": (0, 0), "blur": 0}
    still = {"low_resolution": 0, "noise": (0, 0), "rotation": 0, "tilt": 0, "scale": (1, 1), "translation": 0}
    own: Any = plan.context.stages[FINETUNE].settings
    augmentation = replace(own.augmentation, **calm, **still)
    task, network = _task(plan, augmentation=augmentation, epochs=100, learning_rate=5e-3, warmup=5)
    history = train(task.training(), loop_context(tmp_path))
    assert history[-1]["dice_loss"] < 0.15
    with torch.no_grad():
        predicted = network(task.source.images([0, 1])).argmax(1)
    targets = task.source.targets([0, 1])
    for label in (1, 2):
        found, true = predicted == label, targets == label
        assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.85


def _words(root: Path, name: str, *words: str) -> list[str]:
    lengths = ("finetune.epochs=4", "finetune.steps_per_epoch=1", *SMALL)
    options = ["--root", str(root), "--device", "cpu", "--debug", "--name", name]
    return ["90", "UNet3DTrainer", "2cases", *options, *(w for one in lengths for w in ("--set", one)), *words]


def test_a_killed_training_goes_on_bit_for_bit(root: Path) -> None:
    assert session(_words(root, "whole")) == 0
    assert session(_words(root, "twice"), at=(FINETUNE, 2, signal.SIGTERM)) == 143
    assert session([*_words(root, "twice"), "-c"], at=(FINETUNE, 4, signal.SIGKILL)) == -signal.SIGKILL
    assert session([*_words(root, "twice"), "-c"]) == 0
    one, other = (final(root, f"UNet3DTrainer__2cases__{name}").tensors for name in ("whole", "twice"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    folder = fold_folder(root, "UNet3DTrainer__2cases__whole")
    assert losses(folder) == losses(fold_folder(root, "UNet3DTrainer__2cases__twice"))
    config = read_json(RunConfig, folder / "config.json")
    assert config.model.volume == GRID
    assert (config.stages[0].kind, config.stages[0].name) == (VolumeFinetuneSettings.kind, FINETUNE)
    assert json.loads((folder / "summary.json").read_text())["n"] == 2
    assert "voxels" in (folder / "report.html").read_text()


def _trained(root: Path) -> Path:
    """The run of the test above, made now where that has not run."""
    run = root / "results" / NAME / "UNet3DTrainer__2cases__whole"
    if not (run / "fold_0" / "summary.json").is_file():
        assert session(_words(root, "whole")) == 0
    return run


def test_a_prediction_is_that_of_validation(root: Path, tmp_path: Path) -> None:
    run = _trained(root)
    scans = root / "raw" / NAME / "imagesTr"
    assert predict(["-i", str(scans), "-o", str(tmp_path), "-m", str(run), "--root", str(root), "--device", "cpu"]) == 0
    case = "case_4.nii.gz"
    import nibabel

    found, expected = (
        np.asarray(nibabel.load(path).dataobj) for path in (tmp_path / case, run / "fold_0" / "validation" / case)
    )
    assert found.shape == (SIZE, SIZE, DEPTH)
    assert np.array_equal(found, expected)


def test_an_export_says_what_the_network_takes(root: Path, tmp_path: Path) -> None:
    assert export([str(_trained(root)), "-o", str(tmp_path / "model.zip"), "--root", str(root)]) == 0
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        (model_card,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("MODEL_CARD.md"))
    assert "Whole volumes of axial slices, averaged to 8 x 32 x 32 voxels" in model_card


def test_slices_are_taught_by_volumes(root: Path) -> None:
    words = ["90", "UNetTrainer", "2cases", "--root", str(root), "--device", "cpu", "--debug", "--name", "taught"]
    lengths = ("epochs=1", "steps_per_epoch=1", "batch=2")
    words += [word for one in lengths for word in ("--set", f"finetune.{one}")]
    assert session([*words, "--stage", "finetune", "--taught-by", str(_trained(root))]) == 0


def test_epochs_follow_a_time_budget(root: Path) -> None:
    request = replace(REQUEST, assignments=(*SMALL, "finetune.steps_per_epoch=1"), minutes=0.05)
    config = plan_run(request, resolve_roots(str(root))).config
    assert "0.05 minutes" in config.choices["finetune.epochs"].why
    assert config.estimates[FINETUNE].gib > 0


@pytest.mark.parametrize(
    ("words", "code", "fix"),
    [
        (["--consistency"], "E-SET-06", "without --consistency"),
        (["--taught-by", "any"], "E-SET-06", "without --taught-by"),
        (["--set", "finetune.augmentation.elastic=0.5"], "E-SET-06", "UNetTrainer"),
        (["--set", "finetune.augmentation.scheme=samed"], "E-SET-06", "UNetTrainer"),
        (["--recipe", "scratch"], "E-RECIPE-01", "without --recipe"),
        (["--levels", "image"], "E-ARG-06", "without --levels"),
        (["--preset", "table4-lac"], "E-PRESET-02", "HSAMoraTrainer"),
        (["--set", "input_size=128"], "E-SET-06", "--set model.volume="),
        (["--set", "model.neighbours=1"], "E-SET-06", "without it"),
        (["--set", "model.volume=30,32,32"], "E-MODEL-01", "model.volume=32,32,32"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_way_out(
    root: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: str, fix: str
) -> None:
    typed = ["90", "UNet3DTrainer", "2cases", "--root", str(root), "--device", "cpu", "--name", "refused"]
    assert main([*typed, *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(code)
    assert fix in said.partition("fix:")[2]
    assert not list((root / "results").rglob("*refused*/*/config.json"))


def test_settings_can_be_read_back() -> None:
    method = choose_method(replace(REQUEST, assignments=("finetune.augmentation.tilt=3", "finetune.batch=1")))
    assert isinstance(method.finetune, VolumeFinetuneSettings)
    assert method.finetune.augmentation.tilt == 3
    with pytest.raises(UsageError, match="E-SET-06"):
        choose_method(replace(REQUEST, consistency=True))


def test_it_trains_without_readers_of_volumes(root: Path) -> None:
    readers = ("nibabel", "SimpleITK", "pydicom", "h5py", "samora_pipeline.imaging.files")
    words = [*_words(root, "without"), "--stage", "finetune"]
    program = (
        f"import sys\nfor name in {readers}:\n    sys.modules[name] = None\n"
        f"from trainers.cli import main\nsys.exit(main({words}))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
