from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from samora_pipeline.contracts.model_spec import FusionSpec, Level, ModelSpec, Scope
from samora_pipeline.errors import SamoraError
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.catalog import FUSIONS
from samora_pipeline.models.freezing import Part, account, freeze, parameters_by_part, snapshot, verify
from samora_pipeline.models.samora import SegmentationNetwork

STAGE_2 = frozenset({Part.FUSION, Part.DECODER, Part.PROMPT, Part.ADAPTER})
SAMED = frozenset({Part.EXPERTS, Part.DECODER, Part.PROMPT, Part.PROMPT_UNUSED})
AUTOSAM = frozenset({Part.DECODER, Part.ADAPTER})
SAM_ADAPTER = frozenset({Part.BLOCK_ADAPTERS, Part.DECODER, Part.PROMPT, Part.ADAPTER})


def tiny(scope: Scope = "block", residual: str = "delta", name: str = "hl_attn") -> SegmentationNetwork:
    has_residual = "residual" in {field.name for field in fields(FUSIONS.get(name).Options)}
    fusion = FusionSpec(name, scope=scope, options={"residual": residual} if has_residual else {})
    return build_network(ModelSpec("samora_tiny", 64, num_outputs=3, in_channels=2, fusion=fusion, lora_rank=4))


def step(network: SegmentationNetwork) -> None:
    optimizer = torch.optim.AdamW((p for p in network.parameters() if p.requires_grad), lr=1e-3)
    network(torch.rand(2, 2, 64, 64)).square().sum().backward()
    optimizer.step()


def test_every_parameter_is_in_exactly_one_part() -> None:
    network = tiny()
    parts = parameters_by_part(network)
    names = [name for owned in parts.values() for name in owned]
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())
    assert {part for part in Part if not parts[part]} == {Part.DECODER_FROZEN, Part.BLOCK_ADAPTERS, Part.NETWORK}
    assert list(parts[Part.PROMPT]) == ["prompt_encoder.no_mask_embed.weight"]


# Nothing asks SAM's quality head, and key biases cancel in the softmax.
UNASKED = ("iou_prediction_head", "k_proj.bias", ".k.bias")


def check_gradients(network: SegmentationNetwork, trainable: frozenset[Part], unasked: tuple[str, ...]) -> None:
    freeze(network, trainable)
    network(torch.rand(2, 2, 64, 64)).square().sum().backward()
    for part, owned in parameters_by_part(network).items():
        reached = {name for name, p in owned.items() if p.grad is not None and p.grad.any()}
        unused = {name for name in owned if any(pattern in name for pattern in unasked)}
        assert reached - unused == (set(owned) - unused if part in trainable else set())


@pytest.mark.parametrize("name", FUSIONS.names())
@pytest.mark.parametrize("scope", ["block", "attention"])
@pytest.mark.parametrize("residual", ["delta", "paper"])
@pytest.mark.parametrize("trainable", [STAGE_2, frozenset({Part.EXPERTS}), frozenset({Part.BASE, Part.FUSION})])
def test_gradient_reaches_exactly_the_declared_parts(
    name: str, scope: Scope, residual: str, trainable: frozenset[Part], randomise: Callable[..., None]
) -> None:
    network = tiny(scope, residual, name)
    randomise(network, 0.05)
    check_gradients(network, trainable, UNASKED)


# SAM 2's score of objects is not asked either, and a bias of all scores of H-SAM's mask attention cancels.
UNASKED_THERE = (*UNASKED, "pred_obj_score_head", "select.bias")


@pytest.mark.parametrize("name", FUSIONS.names())
@pytest.mark.parametrize(("backbone", "decoder"), [("samora_tiny", "hsam"), ("samora2_tiny", "sam2")])
def test_gradient_reaches_exactly_the_declared_parts_of_our_other_models(
    name: str, backbone: str, decoder: str, randomise: Callable[..., None]
) -> None:
    """Both stages of H-SAM's decoder are in its loss."""
    spec = ModelSpec(backbone, 64, num_outputs=3, in_channels=2, fusion=FusionSpec(name), decoder=decoder, lora_rank=4)
    network = build_network(spec)
    randomise(network, 0.05)
    if decoder == "hsam":
        # Where all scores are negative the last ReLU of the mask attention lets nothing through.
        torch.nn.init.ones_(network.decoder.get_parameter("mask_attention.select.bias"))
    freeze(network, STAGE_2)
    before = snapshot(network)
    torch.stack([logits.square().sum() for logits in network.stages(torch.rand(2, 2, 64, 64))]).sum().backward()
    for part, owned in parameters_by_part(network).items():
        reached = {key for key, p in owned.items() if p.grad is not None and p.grad.any()}
        unused = {key for key in owned if any(pattern in key for pattern in UNASKED_THERE)}
        assert reached - unused == (set(owned) - unused if part in STAGE_2 else set()), part
    verify(network, before)


@pytest.mark.parametrize("trainable", [AUTOSAM, SAM_ADAPTER])
def test_gradient_reaches_exactly_the_parts_of_baselines_without_experts(
    trainable: frozenset[Part], randomise: Callable[..., None]
) -> None:
    adapted = Part.BLOCK_ADAPTERS in trainable
    decoder = "samed" if adapted else "autosam"
    spec = ModelSpec(
        "samora_tiny", 64, 3, in_channels=2, levels=(), decoder=decoder, block_adapters=adapted, lora_rank=4
    )
    network = build_network(spec)
    randomise(network, 0.05)
    # The map of a class in AutoSAM comes from its first mask token.
    check_gradients(network, trainable, UNASKED if adapted else (*UNASKED, "output_hypernetworks_mlps.1."))
    before = snapshot(network)
    step(network)
    verify(network, before)


def test_account_of_samed_and_of_stage_2_on_vit_b() -> None:
    with torch.device("meta"):
        samed = build_network(ModelSpec("sam_vit_b", 224, num_outputs=9, levels=(Level.IMAGE,), lora_rank=4))
        samora = build_network(ModelSpec("sam_vit_b", 224, num_outputs=9, lora_rank=4))
    freeze(samed, SAMED)
    freeze(samora, STAGE_2)
    assert sum(trainable for trainable, _ in account(samed).values()) == 4_913_621
    counts = account(samora)
    assert counts[Part.FUSION] == (9_464_832, 0)
    assert counts[Part.PROMPT] == (256, 0)
    assert counts[Part.EXPERTS] == (0, 3 * 147_456)
    assert counts[Part.BASE] == (0, 86_624_512)


def test_an_honest_first_step_is_accepted() -> None:
    network = tiny()
    freeze(network, STAGE_2)
    before = snapshot(network)
    step(network)
    verify(network, before)


def test_an_expert_alone_and_samed_pass_although_prompts_are_unused() -> None:
    network = build_network(
        ModelSpec("samora_tiny", 64, num_outputs=3, in_channels=2, levels=(Level.IMAGE,), lora_rank=4)
    )
    freeze(network, SAMED)
    before = snapshot(network)
    step(network)
    verify(network, before)


def test_a_frozen_parameter_that_moved_is_reported() -> None:
    network = tiny()
    freeze(network, STAGE_2)
    before = snapshot(network)
    step(network)
    with torch.no_grad():
        weight = network.get_parameter("image_encoder.blocks.3.experts.patch.q_a")
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    with pytest.raises(SamoraError, match=r"E-MODEL-04[\s\S]*blocks\.3\.experts\.patch\.q_a"):
        verify(network, before)


def test_a_part_without_gradient_is_reported() -> None:
    network = tiny()
    freeze(network, STAGE_2)
    before = snapshot(network)
    step(network)
    for parameter in parameters_by_part(network)[Part.FUSION].values():
        parameter.grad = None
    with pytest.raises(SamoraError, match='E-MODEL-05 no gradient reached the part "fusion"'):
        verify(network, before)


def test_gates_have_nothing_to_learn_while_experts_have_no_effect() -> None:
    """Recipe ``none``: the gates of MoLE get no gradient, which is no fault; HL-Attn's parameters would."""
    network = tiny(name="mole")
    freeze(network, STAGE_2)
    before = snapshot(network)
    step(network)
    assert all(p.grad is not None and not p.grad.any() for p in parameters_by_part(network)[Part.FUSION].values())
    verify(network, before)
    with torch.no_grad():
        network.get_parameter("image_encoder.blocks.2.experts.patch.v_b").fill_(0.1)
    with pytest.raises(SamoraError, match='E-MODEL-05 no gradient reached the part "fusion"'):
        verify(network, snapshot(network))


class Recorded:
    """Counts the tensors that autograd keeps, and how many it had kept after each block of the encoder."""

    def __init__(self, network: SegmentationNetwork) -> None:
        self.kept = 0
        self.after_block: list[int] = []
        for block in network.image_encoder.blocks:
            block.register_forward_hook(lambda *_: self.after_block.append(self.kept))

    def pack(self, tensor: Tensor) -> Tensor:
        self.kept += 1
        return tensor


def with_late_fusions(*, in_channels: int = 1) -> SegmentationNetwork:
    """A network whose first three blocks are frozen as a whole."""
    torch.manual_seed(1)
    network = build_network(ModelSpec("samora_tiny", 64, num_outputs=3, in_channels=in_channels, lora_rank=4))
    freeze(network, STAGE_2)
    for block in list(network.image_encoder.blocks)[:3]:
        block.fusion.requires_grad_(False)
    return network


@pytest.mark.parametrize(("in_channels", "recorded"), [(1, False), (2, True)])
def test_frozen_blocks_before_the_first_trained_one_are_not_recorded(in_channels: int, recorded: bool) -> None:
    """Autograd leaves them out by itself, unless a trained adapter in front of them needs their gradient."""
    network = with_late_fusions(in_channels=in_channels)
    seen = Recorded(network)
    with torch.autograd.graph.saved_tensors_hooks(seen.pack, lambda tensor: tensor):
        network(torch.rand(2, in_channels, 64, 64)).sum().backward()
    assert (seen.after_block[2] > 0) is recorded
    assert seen.after_block[3] > seen.after_block[2]


def test_running_them_without_gradients_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    network = with_late_fusions()
    images = torch.rand(2, 1, 64, 64)

    def gradients() -> dict[str, Tensor]:
        network.zero_grad()
        network(images).square().sum().backward()
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    as_it_is = gradients()
    for block in list(network.image_encoder.blocks)[:3]:
        monkeypatch.setattr(block, "forward", torch.no_grad()(block.forward))
    without = gradients()
    assert as_it_is.keys() == without.keys()
    assert all(torch.equal(as_it_is[name], without[name]) for name in as_it_is)


@pytest.mark.parametrize("scope", ["block", "attention"])
def test_in_the_first_block_only_the_fusion_is_recorded(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network(ModelSpec("samora_tiny", 64, num_outputs=3, fusion=FusionSpec(scope=scope), lora_rank=4))
    freeze(network, STAGE_2)
    first: Any = network.image_encoder.blocks[0]
    attended: list[Tensor] = []
    original = first._attend

    def attend(*inputs: Tensor) -> Tensor:
        attended.append(original(*inputs))
        return attended[-1]

    monkeypatch.setattr(first, "_attend", attend)
    assert first(torch.rand(1, 4, 4, 96)).requires_grad
    assert [tensor.requires_grad for tensor in attended] == [False]
