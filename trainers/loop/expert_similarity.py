"""The experts of a run side by side, before they are fused: do they differ from one another and from the plain base?"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from samora_pipeline import distributed
from samora_pipeline.contracts.json_io import write_json
from samora_pipeline.contracts.model_spec import Level
from samora_pipeline.contracts.pretraining_card import EXPERTS_CARD_FILE, EXPERTS_CARD_PICTURE, ExpertsCard
from samora_pipeline.evaluation.representations import linear_cka, number_probe
from samora_pipeline.models.expert_block import only_expert
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.run_log import logger
from samora_pipeline.slices.datasets import UnlabelledSource
from trainers.loop.monitor_rules import judge, verdict
from trainers.loop.monitors import LARGEST_PANEL, places_of, spread_evenly

BASE = "base"
_BATCH = 8


def compare_experts(
    network: SegmentationNetwork,
    levels: tuple[Level, ...],
    source: UnlabelledSource,
    device: torch.device,
    folder: Path,
    stamps: tuple[str, ...],
) -> ExpertsCard:
    """Examine the experts of ``network`` one by one on a panel of the pool; write experts.json and experts.png."""
    panel = spread_evenly(len(source), LARGEST_PANEL)
    network.to(device).eval()
    with distributed.alone(), torch.no_grad():
        features = {BASE: _pooled(network, None, source, panel, device)}
        features |= {level.value: _pooled(network, level, source, panel, device) for level in levels}
    card = _card(features, source, panel, stamps)
    write_json(card, folder / EXPERTS_CARD_FILE)
    from samora_pipeline.reporting.pretraining import draw_experts

    draw_experts(card, folder)
    logger.info("experts side by side: %s, see %s", card.verdict, folder / EXPERTS_CARD_PICTURE)
    return card


def _card(
    features: dict[str, Tensor], source: UnlabelledSource, panel: list[int], stamps: tuple[str, ...]
) -> ExpertsCard:
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
    judged = judge(values)
    return ExpertsCard(
        verdict=verdict(judged),
        panel_slices=len(panel),
        names=tuple(features),
        similarity=similarity,
        position_error=tuple(round(probe.value, 6) for probe in probes),
        position_chance=round(probes[0].chance, 6),
        measures=judged,
        stamps=stamps,
    )


def _pooled(
    network: SegmentationNetwork, level: Level | None, source: UnlabelledSource, panel: list[int], device: torch.device
) -> Tensor:
    """Mean tokens of the last block under one expert, (B,D); None: the plain base."""
    encoder, parts = network.image_encoder, []
    with only_expert(encoder, level), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        for start in range(0, len(panel), _BATCH):
            images = source.images(panel[start : start + _BATCH]).to(device)
            (tokens,) = encoder.forward_tokens(network.to_rgb(images), (encoder.depth,))
            parts.append(tokens.float().mean(dim=(1, 2)))
    return torch.cat(parts)
