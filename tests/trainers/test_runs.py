from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from samora_pipeline.contracts.checkpoints import load_checkpoint
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.monitoring import MonitoringReport
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.contracts.scores import Summary
from samora_pipeline.contracts.timing import Timing
from samora_pipeline.files import digest_file
from samora_pipeline.paths import resolve_roots
from samora_pipeline.reporting.report_run import open_run
from tests.trainers.runs import (
    STAGES,
    artefact_folders,
    command,
    final,
    fold_folder,
    losses,
    session,
    session_on_ranks,
)
from tests.trainers.small_data import NAME, SCORED, make_dataset
from trainers.stages.validate import write_run_report

RUN = "SAMoraTrainer__2cases__a"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which the run ``a`` was trained and validated in one go."""
    root = make_dataset(tmp_path_factory.mktemp("whole"))
    assert session(command(root, "--name", "a"), pictures=True) == 0
    return root


def test_a_run_leaves_what_prediction_and_reports_need(whole: Path) -> None:
    folder = fold_folder(whole, RUN)
    config = read_json(RunConfig, folder / "config.json")
    assert config.base is not None
    assert config.base.origin == "bootstrap"
    assert config.base.digest == digest_file(folder / "base.safetensors")
    assert set(config.warnings) == {"PHANTOM", "BOOTSTRAPPED BASE"}
    finetune = config.stage("finetune")
    assert finetune is not None
    assert finetune.settings["epochs"] == 2
    summary = read_json(Summary, folder / "summary.json")
    assert {case.case for case in summary.metric_per_case} == set(SCORED)
    assert {path.name for path in (folder / "validation").glob("*.nii.gz")} == {f"{case}.nii.gz" for case in SCORED}
    for picture in ("progress.png", "overlays.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    timing = read_json(Timing, folder / "timing.json")
    assert set(timing.stages) == {*STAGES, "finetune", "validate"}
    assert not any(stage.reused for stage in timing.stages.values())
    assert timing.seconds_per_volume
    assert not (folder / "checkpoint_latest.safetensors").exists()


def test_a_run_leaves_its_report_and_a_continued_one_writes_it_where_it_is_missing(whole: Path) -> None:
    report = fold_folder(whole, RUN) / "report.html"
    page = report.read_text()
    assert "Left out" not in page
    assert page.count("<figure") == page.count('<figcaption><strong class="warning">PHANTOM</strong>') >= 11
    assert all(f"{stage.replace('_', ' ')} " in page for stage in ("expert_image", "expert_patch", "expert_pixel"))
    for text in ("kept as it is", None):
        report.write_text(text) if text else report.unlink()
        assert session(command(whole, "--name", "a", "-c")) == 0
        assert report.read_text() == (text or page)


def test_a_fault_in_a_report_does_not_fail_the_run_that_is_scored(
    whole: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    report = fold_folder(whole, RUN) / "report.html"
    before = report.read_bytes()
    report.unlink()

    def fault(*arguments: object) -> None:
        raise ZeroDivisionError("of ours")

    with monkeypatch.context() as patched:
        patched.setattr("samora_pipeline.reporting.report.write_report", fault)
        assert session(command(whole, "--name", "a", "-c")) == 0
        places = open_run(str(report.parent), resolve_roots(str(whole))).places
        with caplog.at_level("WARNING", logger="samora"):
            write_run_report(report.parent, places, torch.device("cpu"))
    assert "ZeroDivisionError: of ours" in caplog.text
    assert not report.exists()
    report.write_bytes(before)


def test_only_fusion_and_decoder_learn_from_labels(whole: Path) -> None:
    trained = final(whole, RUN).tensors
    for stage in STAGES[1:]:
        level = stage.removeprefix("expert_")
        expert = load_checkpoint(artefact_folders(whole)[stage] / "expert.safetensors")
        assert expert.record["level"] == level
        report = read_json(MonitoringReport, artefact_folders(whole)[stage] / "monitoring.json")
        assert {"loss_off", "loss_on", "gap"} <= {measure.name for measure in report.measures}
        for name, value in expert.tensors.items():
            path, _, leaf = name.rpartition(".")
            assert torch.equal(trained[f"image_encoder.{path}.experts.{level}.{leaf}"], value)
        assert any(value.any() for name, value in expert.tensors.items() if name.endswith("_b"))
    assert any(".fusion." in name for name in trained)


def test_runs_killed_in_every_stage_end_bit_equal(whole: Path, tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    # Most in the second epoch, where a saved state is there to go on from; one before the first is saved.
    for stage, step in zip((*STAGES, "finetune"), (4, 2, 3, 4, 3), strict=True):
        kind = signal.SIGTERM if stage == "expert_patch" else signal.SIGKILL
        expected = 143 if kind is signal.SIGTERM else -signal.SIGKILL
        assert session(command(root, "--name", "a", "-c"), at=(stage, step, kind)) == expected
    # Without raw files of the scored cases the run ends without scores; that is said, and is no failure.
    shutil.rmtree(root / "raw" / NAME / "imagesTr")
    assert session(command(root, "--name", "a", "-c")) == 0
    assert not (fold_folder(root, RUN) / "summary.json").exists()
    one, other = final(whole, RUN).tensors, final(root, RUN).tensors
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert digest_file(fold_folder(whole, RUN) / "base.safetensors") == digest_file(
        fold_folder(root, RUN) / "base.safetensors"
    )


def test_two_ranks_give_the_loss_curves_of_one(whole: Path, tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    assert session_on_ranks(2, command(root, "--name", "a")) == [0, 0]
    pairs = [(artefact_folders(whole)[stage], artefact_folders(root)[stage]) for stage in STAGES]
    pairs.append((fold_folder(whole, RUN), fold_folder(root, RUN)))
    for one, two in pairs:
        np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)
    assert read_json(Timing, fold_folder(root, RUN) / "timing.json").ranks == 2
    scored = read_json(Summary, fold_folder(root, RUN) / "summary.json")
    assert {case.case for case in scored.metric_per_case} == set(SCORED)


def test_a_variant_reuses_the_experts_and_lies_beside_the_first(whole: Path) -> None:
    before = {folder: digest_file(folder / "log.jsonl") for folder in artefact_folders(whole).values()}
    assert session(command(whole, "--set", "finetune.dice=0.7", "--name", "b")) == 0
    assert {folder: digest_file(folder / "log.jsonl") for folder in artefact_folders(whole).values()} == before
    timing = read_json(Timing, fold_folder(whole, "SAMoraTrainer__2cases__b") / "timing.json")
    assert {name for name, stage in timing.stages.items() if stage.reused} == set(STAGES)
    one, other = final(whole, RUN).tensors, final(whole, "SAMoraTrainer__2cases__b").tensors
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_the_validation_can_be_repeated_alone(whole: Path) -> None:
    summary = fold_folder(whole, RUN) / "summary.json"
    before = json.loads(summary.read_text())
    summary.unlink()
    assert session(command(whole, "--name", "a", "--stage", "validate")) == 0
    assert json.loads(summary.read_text()) == before


def test_samed_trains_its_lora_with_the_labels(whole: Path) -> None:
    words = command(whole, "--name", "c", trainer="SAMedTrainer")
    assert session([*words, "--set", "finetune.warmup=1", "--set", "finetune.schedule_epochs=none"]) == 0
    trained = final(whole, "SAMedTrainer__2cases__c").tensors
    assert any(value.any() for name, value in trained.items() if name.endswith("experts.image.q_b"))
    assert not any(".fusion." in name for name in trained)


def test_a_fast_run_passes_every_stage_and_is_no_run(whole: Path) -> None:
    assert (
        session(["90", "SAMoraTrainer", "2cases", "--root", str(whole), *command(whole)[5:12], "--fast-dev-run"]) == 0
    )
    folder = whole / "results" / NAME / "fast-dev-run" / "SAMoraTrainer__2cases__fast-dev-run" / "fold_0"
    assert len(read_json(Summary, folder / "summary.json").metric_per_case) == 1
    assert len(losses(folder)) == 1
    from samora_pipeline.inference.runs import find_runs

    assert all("fast-dev-run" not in run.label for run in find_runs(whole / "results"))
