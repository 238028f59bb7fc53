"""The contract that every registered trainer meets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from samora_pipeline.contracts.model_spec import LEVELS, ModelSpec
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.models.expert_block import expert_blocks
from samora_pipeline.models.freezing import Part, account, freeze
from trainers.methods import TRAINERS
from trainers.recipes import NO_PRETRAINING, RECIPES
from trainers.runs.choices import choose_method, network_spec
from trainers.runs.request import Request, choose_levels, choose_recipe
from trainers.settings import DenoisingSettings


def _spec(name: str, backbone: str, *, size: int = 224, outputs: int = 9) -> ModelSpec:
    method = choose_method(Request("1", name, "full", backbone=backbone))
    spec = network_spec(method, input_size=size, channels=1, num_outputs=outputs)
    assert isinstance(spec, ModelSpec)
    return spec


def _learns(name: str) -> frozenset[Part]:
    return frozenset(map(Part, TRAINERS.get(name).finetune.learns))


WHOLE = [name for name in TRAINERS.names() if TRAINERS.get(name).network is not None]


@pytest.mark.parametrize("name", WHOLE)
def test_trainer_of_a_whole_network(name: str) -> None:
    trainer = TRAINERS.get(name)()
    assert (TRAINERS.get(name).__doc__ or "").strip()
    assert (trainer.levels, trainer.recipes) == ((), (NO_PRETRAINING,))
    assert trainer.finetune.learns == ("network",)
    volume = (16, 32, 128) if trainer.takes_volumes else None
    method = choose_method(Request("1", name, "full"))
    spec = network_spec(method, input_size=128, channels=2, num_outputs=3, volume=volume)
    assert spec.input_shape == (volume or (128, 128))
    with torch.device("meta"):
        network = build_network(spec)
        assert network(torch.zeros(1, 2, *spec.input_shape)).shape == (1, 3, *spec.input_shape)


@pytest.mark.parametrize("name", [name for name in TRAINERS.names() if name not in WHOLE])
def test_trainer(name: str) -> None:
    trainer = TRAINERS.get(name)()
    assert (TRAINERS.get(name).__doc__ or "").strip()
    assert set(trainer.levels) <= set(LEVELS)
    assert choose_levels(trainer, None) == trainer.levels
    assert choose_recipe(trainer, None, small=False) in ("full", NO_PRETRAINING)
    assert set(trainer.recipes) <= set(RECIPES)
    assert trainer.backbone in BACKBONES.names()
    parts = _learns(name)
    assert Part.BASE not in parts
    tiny = "samora2_tiny" if trainer.backbone.startswith("sam2") else "samora_tiny"
    small = choose_method(Request("1", name, "full", backbone=tiny))
    expected = trainer.stages(small.recipe, trainer.levels, small=True)
    if "expert_pixel" in expected:
        # The run has every option of the noise.
        resolved, given = small.stages["expert_pixel"], expected["expert_pixel"]
        assert isinstance(resolved, DenoisingSettings)
        assert isinstance(given, DenoisingSettings)
        assert resolved.noise.name == given.noise.name
        expected["expert_pixel"] = replace(given, noise=resolved.noise)
    assert small.stages == expected
    for backbone in (tiny, trainer.backbone):
        with torch.device("meta"):
            network = build_network(_spec(name, backbone))
        freeze(network, parts)
        counts = account(network)
        assert all(frozen == 0 for part, (_, frozen) in counts.items() if part in parts)
        assert all(trainable == 0 for part, (trainable, _) in counts.items() if part not in parts)
        assert counts[Part.BASE][1] > 0
        assert counts[Part.DECODER][0] > 0


def test_samed_trains_as_many_parameters_as_its_code() -> None:
    with torch.device("meta"):
        network = build_network(_spec("SAMedTrainer", "sam_vit_b", size=512))
    freeze(network, _learns("SAMedTrainer"))
    assert sum(trainable for trainable, _ in account(network).values()) == 4_913_621


@pytest.mark.parametrize(("size", "trained"), [(224, 12_483_140), (512, 23_966_672)])
def test_h_sam_trains_as_many_parameters_as_its_code(size: int, trained: int) -> None:
    spec = replace(_spec("HSAMTrainer", "sam_vit_b", size=size), decoder="hsam_released")
    with torch.device("meta"):
        network = build_network(spec)
    freeze(network, _learns("HSAMTrainer"))
    assert sum(trainable for trainable, _ in account(network).values()) == trained


@pytest.mark.parametrize(("baseline", "ours"), [("SAMedTrainer", "SAMoraTrainer"), ("HSAMTrainer", "HSAMoraTrainer")])
@pytest.mark.parametrize("size", [224, 512])
def test_ours_adds_as_many_parameters_as_table_3_says(baseline: str, ours: str, size: int) -> None:
    counts = []
    for name in (baseline, ours):
        with torch.device("meta"):
            network = build_network(_spec(name, "sam_vit_b", size=size))
        counts.append(sum(sum(part) for part in account(network).values()))
    # 118.5 M against 108.8 M, and 122.0 M against 112.3 M.
    assert counts[1] - counts[0] == pytest.approx(9.7e6, abs=0.1e6)


def test_in_h_samora_only_fusion_decoder_and_one_prompt_learn() -> None:
    with torch.device("meta"):
        network = build_network(_spec("HSAMoraTrainer", "sam_vit_b"))
    freeze(network, _learns("HSAMoraTrainer"))
    learning = {part: trainable for part, (trainable, _) in account(network).items() if trainable}
    assert learning == {Part.FUSION: 9_464_832, Part.DECODER: 12_183_943, Part.PROMPT: 256}


def test_lora_on_sam_2_is_as_wide_as_the_output_of_each_block() -> None:
    """165,760 parameters; sized by the input they would be fewer in the three blocks that change stage."""
    with torch.device("meta"):
        network = build_network(_spec("SAMed2Trainer", "sam2_hiera_b+"))
    assert sum(account(network)[Part.EXPERTS]) == 165_760
    experts: list[Any] = [block.experts["image"] for block in expert_blocks(network.image_encoder).values()]
    assert [expert.q_b.shape[0] for expert in experts] == [112] * 2 + [224] * 3 + [448] * 16 + [896] * 3
    assert [expert.q_a.shape[1] for expert in experts] == [112] * 3 + [224] * 3 + [448] * 16 + [896] * 2


@pytest.mark.parametrize("size", [224, 512])
def test_samora_2_adds_more_parameters_than_table_3_says(size: int) -> None:
    """11.4 M against 10.6 M: HL-Attn works on the outputs of the blocks, the paper's number fits their inputs."""
    counts = []
    for name in ("SAMed2Trainer", "SAMora2Trainer"):
        with torch.device("meta"):
            counts.append(account(build_network(_spec(name, "sam2_hiera_b+", size=size))))
    baseline, ours = (sum(sum(part) for part in count.values()) for count in counts)
    # Two steps per block with q, k, v and out at width 128 (112 in the first stage), biases included.
    widths = [(112, 112)] * 2 + [(width, 128) for width in [224] * 3 + [448] * 16 + [896] * 3]
    fusion = sum(2 * (4 * dim * width + 3 * width + dim) for dim, width in widths)
    assert sum(counts[1][Part.FUSION]) == fusion
    assert ours - baseline == fusion + 2 * 165_760
    assert ours - baseline == pytest.approx(11.38e6, abs=0.1e6)
    # Encoder, prompts, nine masks and LoRA, and the embedding of having no memory.
    assert baseline == 74_195_510 + 256
