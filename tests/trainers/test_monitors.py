from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist

from samora_pipeline import distributed
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.model_spec import Level, ModelSpec
from samora_pipeline.contracts.monitoring import Measure, MonitoringReport
from samora_pipeline.contracts.part_options import NoiseSettings
from samora_pipeline.contracts.plans import PLANS_FILE, Plans
from samora_pipeline.models.expert_block import expert_blocks, only_expert
from samora_pipeline.models.lora import LoRA
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.slices.datasets import SliceId, SliceSource
from samora_pipeline.slices.noise import Mixture
from tests.trainers.small_data import DEPTH, INPUT, NAME, TRAIN, make_dataset
from trainers.loop.monitor_rules import MEANINGS, RULES, Sample, changes, judge, mending_command, verdict
from trainers.loop.monitors import Monitor, places_of, spread_evenly
from trainers.recipes import DENOISING, MASKED
from trainers.settings import PretrainingSettings
from trainers.stages.encoder import network_on_base
from trainers.stages.objectives import PatchObjective, PixelObjective

CPU = torch.device("cpu")
LINE = {
    **{"epoch": 1, "loss": 1.0, "seconds": 10.0, "slices_per_second": 4.0, "data_wait": 0.1, "memory_gib": 1.0},
    **{"skipped_steps": 0, "monitor_seconds": 0.2, "panel_gap": 0.1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("monitors")) / "preprocessed" / NAME


@pytest.fixture(scope="module")
def plans(folder: Path) -> Plans:
    return read_json(Plans, folder / PLANS_FILE)


@pytest.fixture(scope="module")
def source(folder: Path, plans: Plans) -> SliceSource:
    return SliceSource(folder / "slices", [SliceId(case, i) for case in TRAIN[:4] for i in range(DEPTH)], plans, INPUT)


def _network(level: Level) -> SegmentationNetwork:
    return network_on_base(ModelSpec("samora_tiny", INPUT, 1, levels=(level,), fusion=None, lora_rank=4), None, 0)


def _patch(source: SliceSource, plans: Plans) -> tuple[Monitor, SegmentationNetwork]:
    network = _network(Level.PATCH)
    settings = replace(MASKED, epochs=2, batch=512)
    objective = PatchObjective(source, plans, settings, network, 0)
    return Monitor("expert_patch", network, objective, source, settings, CPU, Level.PATCH), network


def test_the_gap_is_what_the_expert_is_worth(source: SliceSource, plans: Plans) -> None:
    watched, network = _patch(source, plans)
    monitor = watched
    untouched = monitor.epoch()
    assert untouched["panel_gap"] == 0.0
    torch.manual_seed(0)
    for block in expert_blocks(network).values():
        torch.nn.init.normal_(block.get_parameter("experts.patch.v_b"), std=0.5)
    changed = monitor.epoch()
    assert changed["panel_loss_off"] == untouched["panel_loss_off"]
    batch = watched.objective.load(monitor.panel(), -1)
    with torch.no_grad(), only_expert(network.image_encoder, Level.PATCH):
        loss_on = float(watched.objective.loss(network, batch)[0])
    assert changed["panel_loss_on"] == pytest.approx(loss_on)
    off = changed["panel_loss_off"]
    assert changed["panel_gap"] == pytest.approx((off - loss_on) / off)
    assert monitor.epoch() == changed


def test_a_monitoring_report_has_every_number_and_its_rule(source: SliceSource, plans: Plans, tmp_path: Path) -> None:
    watched, network = _patch(source, plans)
    for block in list(expert_blocks(network).values())[1:]:
        torch.nn.init.constant_(block.get_parameter("experts.patch.v_b"), 0.01)
    history = [LINE, {**LINE, "epoch": 2, "loss": 0.5, "skipped_steps": 3}]
    report = watched.finish(history, tmp_path)
    assert read_json(MonitoringReport, tmp_path / "monitoring.json") == report
    assert (tmp_path / "monitoring.png").read_bytes().startswith(b"\x89PNG")
    assert (report.verdict, report.skipped_steps, report.seconds, report.slices_per_second) == ("warn", 3, 20.0, 4.0)
    values = {measure.name: measure for measure in report.measures}
    assert values["loss_ratio"].value == 0.5
    assert values["skipped_steps"].passed is False
    assert "learning rate" in values["skipped_steps"].advice
    qkv = network.image_encoder.get_parameter("blocks.1.block.attn.qkv.weight").chunk(3)[2]
    expert = network.image_encoder.get_submodule("blocks.1.experts.patch")
    assert isinstance(expert, LoRA)
    assert report.blocks["v"][0] == 0
    assert report.blocks["v"][1] == pytest.approx(float((expert.v_b @ expert.v_a).norm() / qkv.norm()), rel=1e-5)
    assert report.blocks["q"] == (0,) * len(network.image_encoder.blocks)
    assert json.loads((tmp_path / "monitoring.json").read_text())["schema_version"] == 2


def test_denoising_is_measured_against_the_noisy_slices(source: SliceSource, plans: Plans) -> None:
    network = _network(Level.PIXEL)
    objective: Any = PixelObjective(source, plans, DENOISING, network, 0)

    class Identity(nn.Module):
        def forward(self, tokens: object) -> Tensor:
            return objective.noisy

    objective.head = Identity()
    original = objective._restore

    def restore(network: SegmentationNetwork, batch: dict[str, object]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        clean, noisy, tokens = original(network, batch)
        objective.noisy = noisy
        return clean, noisy, tokens

    objective._restore = restore
    with torch.no_grad():
        shown = objective.examine(network, objective.load([0, 5, 9, 14], -1))
    assert shown.measures["psnr_gain"] == shown.measures["ssim_gain"] == 0
    assert float(shown.loss) == pytest.approx(shown.measures["noisy"])
    torch.testing.assert_close(shown.columns["restored"], shown.columns["noisy"])
    torch.testing.assert_close(
        shown.columns["error"], (objective.noisy[:, 0] - shown.columns["original"]).abs().clamp(0, 1)
    )


def _unchanged(source: SliceSource, plans: Plans, still: list[int]) -> tuple[Monitor, SegmentationNetwork]:
    """A denoising in whose panel some views are nothing but air, with noise that only exchanges pixels."""
    network, settings = _network(Level.PIXEL), replace(DENOISING, epochs=1, batch=8)
    objective: Any = PixelObjective(source, plans, settings, network, 0)
    original = objective._restore

    def restore(network: SegmentationNetwork, batch: dict[str, object]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        clean, noisy, tokens = original(network, batch)
        air = torch.zeros_like(clean[still])
        replaced = Mixture(NoiseSettings(shares=(0.0, 1.0, 0.0))).draw(["a"] * len(still), seed=0, epoch=0)
        clean[still], noisy[still] = air, Mixture(NoiseSettings()).apply(air, replaced, (False,))
        return clean, noisy, tokens

    objective._restore = restore
    return Monitor("expert_pixel", network, objective, source, settings, CPU, Level.PIXEL), network


def test_views_that_the_noise_left_as_they_were_are_not_scored(source: SliceSource, plans: Plans) -> None:
    watched, network = _unchanged(source, plans, [1])
    with torch.no_grad():
        together = watched.objective.examine(network, watched.objective.load([0, 5, 9], -1)).measures
        alone = watched.objective.examine(network, watched.objective.load([0, 9, 5], -1)).measures
    assert all(math.isfinite(value) for value in together.values())
    # The second of the three is the one that is still; the others' mean does not depend on which that was.
    watched, network = _unchanged(source, plans, [])
    with torch.no_grad():
        one, other = (
            watched.objective.examine(network, watched.objective.load([index], -1)).measures for index in (0, 9)
        )
    assert together["psnr_gain"] == pytest.approx((one["psnr_gain"] + other["psnr_gain"]) / 2, rel=1e-4)
    assert alone["psnr_gain"] != together["psnr_gain"]


def test_a_panel_of_air_still_gives_a_monitoring_report(source: SliceSource, plans: Plans, tmp_path: Path) -> None:
    watched, _ = _unchanged(source, plans, [0, 1, 2, 3])
    report = watched.finish([{**LINE, "panel_gap": 0.0}], tmp_path)
    assert "psnr_gain" not in {measure.name for measure in report.measures}
    assert read_json(MonitoringReport, tmp_path / "monitoring.json") == report


@pytest.mark.parametrize(
    ("settings", "each", "final"),
    [
        ({"batch": 24, "steps_per_epoch": 12, "epochs": 4}, 4, 25),
        ({"batch": 8, "steps_per_epoch": 12, "epochs": 4}, 4, 8),
        ({"batch": 512, "epochs": 80}, 4, 32),
    ],
)
def test_panels_cost_a_fortieth(settings: dict[str, int], each: int, final: int) -> None:
    values: dict[str, Any] = {
        "micro_batch": None,
        "learning_rate": 1.0,
        "weight_decay": 0.0,
        "betas": (0.9, 0.9),
        **settings,
    }
    # The panel depends on how many slices there are and on the settings.
    task: Any = None
    source: Any = range(300)
    monitor = Monitor("stage", nn.Linear(1, 1), task, source, PretrainingSettings(**values), CPU)
    assert (len(monitor.panel()), len(monitor.panel(last=True))) == (each, final)


def test_panels_are_spread_over_the_pool(source: SliceSource) -> None:
    assert spread_evenly(20, 4) == [0, 5, 10, 15]
    assert spread_evenly(3, 32) == [0, 1, 2]
    assert places_of(source.keys([0, 2, 4]), source) == [0.0, 0.5, 1.0]


def test_every_rule_says_what_it_means_and_what_to_do() -> None:
    for name, rule in RULES.items():
        assert MEANINGS[name], name
        assert rule.advice, name
        assert (rule.least is None) != (rule.most is None), name
    good, bad = judge({"gap": 0.2, "data_wait": 0.0}), judge({"gap": 0.2, "data_wait": 0.5})
    assert (verdict(good), verdict(bad)) == ("pass", "warn")
    assert [measure.advice for measure in good] == ["", ""]
    assert judge({"loss": 3.0})[0].passed is None


def test_thresholds_fit_what_a_small_panel_can_show() -> None:
    def judged(panel: int, **values: float) -> Measure:
        chance = {"chance_accuracy": 1 / (2 * panel - 1)}
        return judge({**chance, **values}, Sample(panel))[1]

    # Four slices are seven candidates: seven times chance is the most there can be.
    small = judged(4, accuracy_over_chance=4.0)
    assert (small.passed, small.wanted) == (True, "at least 3.5 (half of the 7 that 4 slices allow)")
    assert judged(4, accuracy_over_chance=3.0).passed is False
    large = judged(32, accuracy_over_chance=4.0)
    assert (large.passed, large.wanted) == (False, "at least 5")
    guessed = judged(3, loss_below_chance=0.42)
    assert guessed.passed is True
    assert guessed.wanted == "at least 0.402 (a quarter of the 1.6 that guessing among so few costs)"
    assert judged(32, loss_below_chance=0.42).passed is False


@pytest.mark.parametrize(("seconds", "wait", "passed"), [(12.0, 0.5, True), (100.0, 0.5, False), (25.0, 0.5, False)])
def test_a_short_stage_may_wait_for_its_files(seconds: float, wait: float, passed: bool) -> None:
    assert judge({"data_wait": wait}, Sample(seconds=seconds))[0].passed is passed


def test_advice_is_a_command() -> None:
    settings = PretrainingSettings(4, 24, learning_rate=1e-2, weight_decay=0.0, betas=(0.9, 0.9))
    measures = judge({"gap": 0.0, "explained": 0.0, "lora_largest": 2.0, "data_wait": 0.5, "loss": 1.0})
    wanted = changes(measures, vars(settings))
    assert wanted == {"epochs": 8, "learning_rate": 5e-3}
    typed = "samora_train 1 SAMoraTrainer 10pct --name 'my run' -c"
    assert mending_command("expert_image", wanted, typed) == (
        "samora_train 1 SAMoraTrainer 10pct --name 'my run-mended' "
        "--set expert_image.epochs=8 --set expert_image.learning_rate=0.005"
    )
    assert mending_command("expert_image", {}, typed) == mending_command("expert_image", wanted, "") == ""
    assert changes(judge({"gap": 0.2}), vars(settings)) == {}


def test_alone_a_rank_counts_as_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(dist, "get_rank", lambda: 2)
    with distributed.alone():
        assert (distributed.rank(), distributed.world_size(), distributed.own_share([1, 2, 3])) == (0, 1, [1, 2, 3])
    assert (distributed.rank(), distributed.world_size()) == (2, 3)
