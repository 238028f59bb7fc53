"""What a self-supervised stage has learned, measured on a fixed panel: a few numbers each epoch, a report at the end.

The experts of a run are examined side by side before they are fused: do they differ from each other and the base?
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samora_pipeline import distributed
from samora_pipeline.contracts.json_io import write_json
from samora_pipeline.contracts.model_spec import Level
from samora_pipeline.contracts.monitoring import (
    EXPERTS_FILE,
    EXPERTS_PICTURE,
    MONITORING_FILE,
    MONITORING_PICTURE,
    ExpertsReport,
    MonitoringReport,
)
from samora_pipeline.evaluation.representations import class_probe, effective_rank, linear_cka, number_probe, spread
from samora_pipeline.models.expert_block import expert_blocks, only_expert
from samora_pipeline.models.lora import LoRA
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.reproducibility import derived_seed
from samora_pipeline.run_log import Line, logger
from samora_pipeline.slices.datasets import UnlabelledSource
from trainers.loop.loading import on_device
from trainers.loop.monitor_rules import Sample, judge, verdict
from trainers.loop.pretraining import Examination, Objective
from trainers.settings import PretrainingSettings

LARGEST_PANEL = 32
_SMALLEST_PANEL = 4
_ENOUGH = 24
"""slices from which on a probe is judged; of fewer it is shown"""
_PANEL_EPOCH = -1
"""epochs count from 0, so what is drawn for the panel is drawn for no training step"""
_EACH_SHARE, _FINAL_SHARE = 0.01, 0.015
"""of the forward and backward passes of training that monitors may cost, over all epochs and at the end"""
_PASSES = 2
"""over the panel, with LoRA on and off; a training step costs about three"""

Measures = dict[str, float]


BASE = "base"
_BATCH = 8


@dataclass(frozen=True)
class Monitor:
    """Examines a stage on slices spread evenly over its pool, the same ones every time.

    The panel is as large as a fortieth of the training allows, 4 to 32 slices; the last one is the larger. ``level``
    is that of the stage's expert, None where it trains none. ``taught_by`` and ``warnings`` go into the report.
    """

    stage: str
    network: nn.Module
    objective: Objective[Any, Any]
    source: UnlabelledSource
    settings: PretrainingSettings
    device: torch.device
    level: Level | None = None
    taught_by: str = ""
    warnings: tuple[str, ...] = ()

    def panel(self, *, last: bool = False) -> list[int]:
        """The numbers of the slices that are examined after each epoch, or at the end."""
        pool, settings = len(self.source), self.settings
        per_epoch = min(pool, settings.batch * (settings.steps_per_epoch or pool))
        slices = _FINAL_SHARE * per_epoch * settings.epochs if last else _EACH_SHARE * per_epoch
        # The panel that costs as much as training on so many slices.
        return spread_evenly(pool, max(_SMALLEST_PANEL, min(LARGEST_PANEL, int(3 * slices / _PASSES))))

    def epoch(self) -> Measures:
        """The numbers of one epoch, for its line of log.jsonl."""
        measures, _, _ = self._measure(self.panel())
        return {f"panel_{name}": value for name, value in measures.items()}

    @torch.no_grad()
    def finish(self, history: Sequence[Line], folder: Path) -> MonitoringReport:
        """Examine once more, on the larger panel, and write monitoring.json and monitoring.png."""
        begun = time.monotonic()
        with distributed.alone():
            panel = self.panel(last=True)
            measures, examination, off = self._measure(panel)
            measures |= self._probes(panel, examination, off)
            blocks = self._blocks()
        if blocks:
            reached = [value for values in blocks.values() for value in values if value > 0]
            measures |= {"lora_smallest": min(reached, default=0.0), "lora_largest": max(reached, default=0.0)}
        report = self._report(history, measures, blocks, time.monotonic() - begun)
        write_json(report, folder / MONITORING_FILE)
        from samora_pipeline.reporting.pretraining import draw_monitoring

        columns = {name: value.cpu().numpy() for name, value in examination.columns.items()}
        draw_monitoring(report, history, columns, folder)
        _tell(report, folder / MONITORING_PICTURE)
        return report

    @torch.no_grad()
    def _measure(self, panel: list[int]) -> tuple[Measures, Examination, Examination | None]:
        """The measures of the panel, and what was seen with LoRA on and off."""
        batch = on_device(self.objective.load(panel, _PANEL_EPOCH), self.device)
        with _evaluating(self.network):
            on = self._examine(batch)
            off = None
            if self.level is not None:
                with only_expert(self.network, None):
                    off = self._examine(batch)
        measures: Measures = {"loss": float(on.loss)}
        if off is not None:
            loss_on, loss_off = float(on.loss), float(off.loss)
            measures = {
                "loss_off": loss_off,
                "loss_on": loss_on,
                "gap": (loss_off - loss_on) / max(abs(loss_off), 1e-12),
            }
        measures |= on.measures
        measures |= {"feature_spread": spread(on.features), "feature_rank": effective_rank(on.features)}
        if "accuracy" in measures:
            measures["accuracy_over_chance"] = measures["accuracy"] / measures["chance_accuracy"]
            measures["embedding_rank_share"] = measures["embedding_rank"] / max(1, 2 * len(panel) - 1)
        if off is not None and "teacher_similarity" in measures:
            measures["teacher_similarity_gain"] = measures["teacher_similarity"] - off.measures["teacher_similarity"]
        return measures, on, off

    def _examine(self, batch: dict[str, Any]) -> Examination:
        # Noise that an objective draws from torch's own generator is then the same on and off, and in every epoch.
        torch.manual_seed(derived_seed("panel"))
        # In single precision: what is told is how little on and off differ.
        return self.objective.examine(self.network, batch)

    def _probes(self, panel: list[int], examination: Examination, off: Examination | None) -> Measures:
        keys = self.source.keys(panel)
        places = places_of(keys, self.source)
        datasets, cases = [key.split("/")[0] for key in keys], [key.rpartition("/")[0] for key in keys]
        position = number_probe(examination.features, places, cases)
        measures = {"position_error": position.value}
        if len(keys) >= _ENOUGH:
            measures["position_error_over_chance"] = position.value / max(position.chance, 1e-12)
        if off is not None:
            measures["position_error_off"] = number_probe(off.features, places, cases).value
        if len(set(datasets)) > 1:
            dataset = class_probe(examination.features, datasets, cases)
            measures |= {"dataset_accuracy": dataset.value, "dataset_chance": dataset.chance}
        return measures

    def _blocks(self) -> dict[str, tuple[float, ...]]:
        level = self.level
        if level is None:
            return {}
        blocks = expert_blocks(self.network).values()
        pairs = [_lora_size(block.experts[level.value], block.get_submodule("block.attn.qkv")) for block in blocks]
        return {"q": tuple(q for q, _ in pairs), "v": tuple(v for _, v in pairs)}

    def _report(
        self, history: Sequence[Line], measures: Measures, blocks: dict[str, tuple[float, ...]], last: float
    ) -> MonitoringReport:
        seconds = sum(line["seconds"] for line in history)
        monitoring = last + sum(line.get("monitor_seconds", 0.0) for line in history)
        slices = sum(line["seconds"] * line["slices_per_second"] for line in history)
        wait = sum(line["seconds"] * line["data_wait"] for line in history) / max(seconds, 1e-9)
        skipped = history[-1]["skipped_steps"]
        # An epoch of which every step was left out has no loss.
        losses = [line["loss"] for line in history if "loss" in line]
        measures |= {
            **({"loss_ratio": losses[-1] / max(abs(losses[0]), 1e-12)} if losses else {}),
            "skipped_steps": float(skipped),
            "data_wait": wait,
            "monitor_share": monitoring / max(seconds, 1e-9),
        }
        judged = judge(measures, Sample(len(self.panel(last=True)), seconds=seconds))
        trained = [self.network, self.objective.head]
        return MonitoringReport(
            stage=self.stage,
            verdict=verdict(judged),
            taught_by=self.taught_by,
            epochs=len(history),
            pool_slices=len(self.source),
            panel_slices=len(self.panel(last=True)),
            trained_parameters=sum(p.numel() for part in trained for p in part.parameters() if p.requires_grad),
            seconds=round(seconds, 3),
            monitor_seconds=round(monitoring, 3),
            slices_per_second=round(slices / max(seconds, 1e-9), 2),
            data_wait=round(wait, 4),
            memory_gib=max((line["memory_gib"] for line in history), default=None),
            skipped_steps=skipped,
            measures=judged,
            blocks=blocks,
            warnings=self.warnings,
        )


def spread_evenly(pool: int, size: int) -> list[int]:
    """Numbers of ``size`` slices, evenly spread over a pool that is ordered by dataset, case and position."""
    count = min(pool, size)
    return [pool * number // count for number in range(count)]


def places_of(keys: Sequence[str], source: UnlabelledSource) -> list[float]:
    """Axial positions of slices as a share of their scan: 0 the first, 1 the last slice that the pool has of it."""
    last: dict[str, int] = {}
    for key in source.keys(range(len(source))):
        case, _, index = key.rpartition("/")
        last[case] = max(last.get(case, 1), int(index))
    return [int(index) / last[case] for case, _, index in (key.rpartition("/") for key in keys)]


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Within the context batch norms use and change no statistics of a batch."""
    before = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(before)


def _lora_size(expert: nn.Module, qkv: nn.Module) -> tuple[float, float]:
    """|BA| / |W| (Frobenius) for q and v."""
    if not isinstance(expert, LoRA) or not isinstance(qkv, nn.Linear):
        raise TypeError("an expert is a LoRA on a linear qkv")
    q, _, v = qkv.weight.float().chunk(3)
    return (
        float((expert.q_b.float() @ expert.q_a.float()).norm() / q.norm()),
        float((expert.v_b.float() @ expert.v_a.float()).norm() / v.norm()),
    )


def _tell(report: MonitoringReport, picture: Path) -> None:
    values: Mapping[str, float] = {measure.name: measure.value for measure in report.measures}
    if "gap" in values:
        off, on = values["loss_off"], values["loss_on"]
        shown = f"loss {off:.4f} with the expert off, {on:.4f} with it on, gap {100 * values['gap']:+.1f} %"
        logger.info("%s: %s", report.stage, shown)
    failed = [measure for measure in report.measures if measure.passed is False]
    if not failed:
        logger.info("%s: all monitors pass, see %s", report.stage, picture)
        return
    for measure in failed:
        shown = f"{measure.name} {measure.value:.3g}, wanted {measure.wanted}"
        logger.warning("%s: a monitor warns: %s: %s (%s)", report.stage, shown, measure.advice, picture)


def compare_experts(
    network: SegmentationNetwork,
    levels: tuple[Level, ...],
    source: UnlabelledSource,
    device: torch.device,
    folder: Path,
    warnings: tuple[str, ...],
) -> ExpertsReport:
    """Examine the experts of ``network`` one by one on a panel of the pool; write experts.json and experts.png."""
    panel = spread_evenly(len(source), LARGEST_PANEL)
    network.to(device).eval()
    with distributed.alone(), torch.no_grad():
        features = {BASE: _pooled(network, None, source, panel, device)}
        features |= {level.value: _pooled(network, level, source, panel, device) for level in levels}
    report = _report(features, source, panel, warnings)
    write_json(report, folder / EXPERTS_FILE)
    from samora_pipeline.reporting.pretraining import draw_experts

    draw_experts(report, folder)
    logger.info("experts side by side: %s, see %s", report.verdict, folder / EXPERTS_PICTURE)
    return report


def _report(
    features: dict[str, Tensor], source: UnlabelledSource, panel: list[int], warnings: tuple[str, ...]
) -> ExpertsReport:
    keys = source.keys(panel)
    places, cases = places_of(keys, source), [key.rpartition("/")[0] for key in keys]
    probes = [number_probe(values, places, cases) for values in features.values()]
    similarity = tuple(
        tuple(round(linear_cka(one, other), 6) for other in features.values()) for one in features.values()
    )
    values = {"least_change": 1 - max(similarity[0][1:])}
    pairs = [similarity[i][j] for i in range(1, len(features)) for j in range(i + 1, len(features))]
    if pairs:
        values["similarity"] = max(pairs)
    judged = judge(values, Sample(len(panel)))
    return ExpertsReport(
        verdict=verdict(judged),
        panel_slices=len(panel),
        names=tuple(features),
        similarity=similarity,
        position_error=tuple(round(probe.value, 6) for probe in probes),
        position_chance=round(probes[0].chance, 6),
        measures=judged,
        warnings=warnings,
    )


def _pooled(
    network: SegmentationNetwork, level: Level | None, source: UnlabelledSource, panel: list[int], device: torch.device
) -> Tensor:
    """Mean tokens of the last block under one expert, (B,D); None: the plain base."""
    encoder, parts = network.image_encoder, []
    # In single precision: a small expert differs from the base by less than bfloat16 resolves.
    with only_expert(encoder, level):
        for start in range(0, len(panel), _BATCH):
            images = source.images(panel[start : start + _BATCH]).to(device)
            (tokens,) = encoder.forward_tokens(network.to_rgb(images), (encoder.depth,))
            parts.append(tokens.float().mean(dim=(1, 2)))
    return torch.cat(parts)
