"""Parts that are added from outside the repository, named as ``package.module:Class``: one class each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from samora_pipeline.contracts.json_io import parse, to_plain
from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec, ModelSpec, ModuleSpec, NetworkSpec
from samora_pipeline.errors import UsageError
from samora_pipeline.models.assembly import build_network, check_spec, load_trained, public_names, trained_state
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.models.freezing import Part, account, freeze, parameters_by_part, snapshot, verify
from samora_pipeline.models.fusions.fusion import EpochContext, before_epoch, fusions_of
from samora_pipeline.models.samora import Network
from samora_pipeline.weights.sam_checkpoint import base_state, load_base

FUSION = '''
from dataclasses import dataclass

import torch

from samora_pipeline.models.fusions.fusion import Fusion


class Softmax(Fusion):
    """The mean of the experts, weighed by a softmax over trained scores."""

    only_weighs = True

    @dataclass(frozen=True)
    class Options:
        temperature: float = 1.0

    def __init__(self, options, *, num_experts, dim, window):
        super().__init__(options, num_experts=num_experts, dim=dim, window=window)
        self.temperature = options.temperature
        self.scores = torch.nn.Parameter(torch.linspace(0, 1, num_experts))
        self.epochs = []

    @classmethod
    def before_epoch(cls, network, blocks, context):
        for block in blocks:
            block.epochs.append(context.epoch)

    def forward(self, base, experts):
        weights = (self.scores / self.temperature).softmax(0)
        return torch.einsum("e,ebhwd->bhwd", weights, experts - base)
'''

DECODER = '''
from torch import nn

from samora_pipeline.models.decoders.decoder import Decoder


class Convolution(Decoder):
    """A 1x1 convolution on the embedding, for every backbone."""

    def __init__(self, backbone, *, num_outputs, input_size):
        super().__init__()
        self.head = nn.Conv2d(backbone.prompt_dim, num_outputs, 1)

    def forward(self, features, positions, sparse, dense):
        return self.head(features.embedding)
'''

BACKBONE = """
from dataclasses import dataclass

import torch
from segment_anything.modeling import PromptEncoder
from torch import nn

from samora_pipeline.models.backbones.backbone import Backbone, BlockSteps, Encoder, Features, TokenShape, check_size


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = nn.Module()
        self.attn.qkv = nn.Linear(width, 3 * width)
        self.mlp = nn.Linear(width, width)

    def forward(self, x):
        return Steps().leave(self, x + Steps().attend(self, self.attn.qkv(x), x.shape[1:3]))


class Steps(BlockSteps):
    def window(self, block):
        return 0

    def enter(self, block, x):
        return x, x

    def attend(self, block, qkv, size):
        q, k, v = qkv.flatten(1, 2).chunk(3, dim=-1)
        return nn.functional.scaled_dot_product_attention(q, k, v).unflatten(1, size)

    def leave(self, block, x):
        return x + block.mlp(x)


class PlainEncoder(Encoder):
    def __init__(self, size, width, depth):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.embed_dim, self.grid, self.depth = width, size // 16, depth
        self.shapes = (TokenShape(self.grid, width),) * depth
        self.feature_sides = (self.grid,)

    def embed_patches(self, x, token_mask, mask_token):
        tokens = self.patches(x).permute(0, 2, 3, 1)
        return tokens if token_mask is None else torch.where(token_mask[..., None], mask_token, tokens)

    def forward(self, x, *, token_mask=None, mask_token=None):
        (tokens,) = self.forward_tokens(x, (self.depth,), token_mask=token_mask, mask_token=mask_token)
        return Features(tokens.permute(0, 3, 1, 2))


class Plain(Backbone):
    embed_dim = prompt_dim = 32
    depth = 2
    native_size = 64
    small = True
    own_decoder = "outside_decoder:Convolution"
    steps = Steps()

    def grid(self, input_size):
        check_size(input_size, 16)
        return input_size // 16

    def build_encoder(self, input_size):
        return PlainEncoder(input_size, self.embed_dim, self.depth)

    def build_prompt_encoder(self, input_size):
        grid = self.grid(input_size)
        return PromptEncoder(self.prompt_dim, (grid, grid), (input_size, input_size), mask_in_chans=16)

    def file_name(self, name):
        return f"plain.{name}"


PLAIN = Plain()
"""

NETWORK = """
from torch import nn


class Small(nn.Sequential):
    def __init__(self, in_channels, num_outputs, width=4):
        super().__init__(
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, num_outputs, 1),
        )
"""


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four modules of a user's own, importable as if their package were installed."""
    sources = {"fusion": FUSION, "decoder": DECODER, "backbone": BACKBONE, "network": NETWORK}
    for name, source in sources.items():
        (tmp_path / f"outside_{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.delitem(sys.modules, f"outside_{name}", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)


def one_step(network: Network, parts: frozenset[Part]) -> None:
    """Train the parts for one step and check that they learned and nothing else moved."""
    freeze(network, parts)
    before = snapshot(network)
    optimizer = torch.optim.SGD((p for p in network.parameters() if p.requires_grad), lr=0.1)
    images = torch.rand(2, network.in_channels, network.input_size, network.input_size)
    torch.stack([logits.square().mean() for logits in network.stages(images)]).sum().backward()
    optimizer.step()
    verify(network, before)
    assert {part for part, (trained, _) in account(network).items() if trained} == parts


def test_a_fusion_with_a_parameter_of_its_own() -> None:
    name = "outside_fusion:Softmax"
    networks = {}
    for temperature in (0.1, 1):
        torch.manual_seed(0)
        fusion = FusionSpec(name, options={"temperature": temperature})
        networks[temperature] = build_network(ModelSpec("samora_tiny", 64, 2, lora_rank=4, fusion=fusion))
        with torch.no_grad():
            for parameter in parameters_by_part(networks[temperature])[Part.EXPERTS].values():
                parameter.normal_(0, 0.1)
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(networks[0.1](images), networks[1](images))
    one_step(networks[0.1], frozenset({Part.FUSION, Part.DECODER}))
    before_epoch(networks[1], EpochContext(3, 9, lambda slices: torch.tensor(0.0), 1, 1, 0))
    assert [block.epochs for block in fusions_of(networks[1])] == [[3]] * 6


@pytest.mark.parametrize(
    ("options", "code"), [({"temperatur": 2.0}, "E-SET-01"), ({"temperature": "hot"}, "E-SET-03"), ({}, None)]
)
def test_the_options_of_a_fusion_are_checked_by_its_own_dataclass(options: dict[str, object], code: str | None) -> None:
    spec = ModelSpec("samora_tiny", 64, 2, lora_rank=4, fusion=FusionSpec("outside_fusion:Softmax", options=options))
    if code is None:
        check_spec(spec)
        return
    with pytest.raises(UsageError) as caught:
        check_spec(spec)
    assert caught.value.code == code
    assert ("temperature" if code == "E-SET-01" else "float") in caught.value.expected


@pytest.mark.parametrize("backbone", ["samora_tiny", "samora2_tiny"])
def test_a_decoder_that_is_not_sams_works_on_every_backbone_and_every_base(backbone: str) -> None:
    own = BACKBONES.get(backbone).own_decoder
    base = base_state(build_network(ModelSpec(backbone, 64, 4, lora_rank=4, levels=(), decoder=own)))
    network = build_network(ModelSpec(backbone, 64, 3, lora_rank=4, decoder="outside_decoder:Convolution"))
    head = network.decoder.get_parameter("head.weight").detach().clone()
    for copied in (False, True):
        report = load_base(network, base, copy_outputs=copied)
        assert {*report.loaded, *report.dropped} == set(base)
        assert all("mask_decoder." in name for name in report.dropped)
    encoder = {name: tensor for name, tensor in base_state(network).items() if "encoder." in name}
    assert all(torch.equal(tensor, base[name]) for name, tensor in encoder.items())
    assert torch.equal(network.decoder.get_parameter("head.weight"), head)
    assert network(torch.rand(2, 1, 64, 64)).shape == (2, 3, 4, 4)
    one_step(network, frozenset({Part.DECODER}))


def test_a_backbone() -> None:
    spec = ModelSpec("outside_backbone:PLAIN", 64, 2, lora_rank=4, decoder="outside_decoder:Convolution")
    check_spec(spec)
    backbone = BACKBONES.get(spec.backbone)
    assert backbone.small
    network = build_network(spec)
    saved = base_state(network)
    assert set(saved) == {f"plain.{name}" for name in public_names(network)}
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        plain = backbone.build_encoder(64)
        plain.load_state_dict(
            {
                name.removeprefix("plain.image_encoder."): tensor
                for name, tensor in saved.items()
                if "image_encoder" in name
            }
        )
        torch.testing.assert_close(network.embed(images).embedding, plain(images.expand(-1, 3, -1, -1)).embedding)
    other = build_network(spec)
    assert set(load_base(other, saved).loaded) == set(saved)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in base_state(other).items())
    assert sum(account(network)[Part.EXPERTS]) == len(LEVELS) * 2 * 4 * 4 * 32
    one_step(network, frozenset({Part.EXPERTS, Part.DECODER}))
    with pytest.raises(UsageError, match="E-MODEL-06"):
        build_network(ModelSpec("outside_backbone:PLAIN", 64, 2, lora_rank=4))


MODULE = ModuleSpec("outside_network:Small", 32, 3, in_channels=2, options={"width": 8})


def test_any_module_is_a_network() -> None:
    network: Any = NetworkSpec
    spec: NetworkSpec = parse(network, to_plain(MODULE), "model")
    check_spec(spec)
    network = build_network(spec)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert sum(account(network)[Part.NETWORK]) == count == sum(map(sum, account(network).values()))
    one_step(network, frozenset({Part.NETWORK}))
    state = trained_state(network)
    assert set(state) == set(network.state_dict())
    assert any(tensor.any() for name, tensor in state.items() if name.endswith("running_mean"))
    again = build_network(spec).eval()
    load_trained(again, state)
    images = torch.rand(2, 2, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images), network.eval()(images))
    with pytest.raises(ValueError, match="fit"):
        network(torch.rand(1, 1, 32, 32))


@pytest.mark.parametrize(
    ("network", "options", "code"),
    [
        ("outside_network:Small", {"with": 8}, "E-SET-01"),
        ("outside_network:Small", {"in_channels": 8}, "E-SET-01"),
        ("outside_network:Large", {}, "E-NAME-01"),
        ("unet", {}, "E-NAME-01"),
    ],
)
def test_a_network_that_cannot_be_made_is_refused(network: str, options: dict[str, object], code: str) -> None:
    spec = ModuleSpec(network, 32, 3, options=options)
    for use in (check_spec, build_network):
        with pytest.raises(UsageError) as caught:
            use(spec)
        assert caught.value.code == code


def test_logits_of_another_number_of_maps_are_refused() -> None:
    network = build_network(ModuleSpec("torch.nn:Identity", 32, 3, in_channels=2))
    with pytest.raises(ValueError, match="logits"):
        network(torch.rand(1, 2, 32, 32))
