"""MobileSAM against a literal restatement that reads the names of its public file, SAM's own decoder, and timm."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec, Level, ModelSpec
from samora_pipeline.errors import DataError
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.weights.catalog import ASSETS
from samora_pipeline.weights.files import read_weights
from samora_pipeline.weights.recognise import recognise
from samora_pipeline.weights.sam_checkpoint import base_state, load_base
from tests.models.backbones.test_efficient_sam import DEVIATION, MEAN, gelu, linear, normed
from tests.weights.small_encoder_files import State, mobile_sam_shapes, random_state, total, write

STAGES = ((1, 2, 7), (2, 6, 14), (3, 2, 7))
"""number, blocks and window of the stages with attention"""
QKV = [f"image_encoder.layers.{stage}.blocks.{block}.attn.qkv" for stage, depth, _ in STAGES for block in range(depth)]


def convolved(state: State, name: str, maps: Tensor, stride: int = 1) -> Tensor:
    """A convolution and its norm with stored statistics, (B,C,H,W)."""
    kernel = state[f"{name}.c.weight"]
    groups = maps.shape[1] // kernel.shape[1]
    maps = functional.conv2d(maps, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
    mean, variance, weight, bias = (
        state[f"{name}.bn.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (maps - mean) / (variance + 1e-5).sqrt() * weight + bias


def biases(state: State, name: str, window: int) -> Tensor:
    """(heads,L,L): distances are numbered as they first appear between the tokens of a window, row by row."""
    table, numbers = state[f"{name}.attention_biases"], dict[tuple[int, int], int]()
    places = [(row, column) for row in range(window) for column in range(window)]
    index = [[numbers.setdefault((abs(a[0] - b[0]), abs(a[1] - b[1])), len(numbers)) for b in places] for a in places]
    return table[:, torch.tensor(index)]


def attended(state: State, name: str, x: Tensor, bias: Tensor) -> Tensor:
    """One window, (B,L,C): rows of qkv are those of each head in turn, and there q, k and v."""
    found = []
    for head, part in enumerate(linear(state, f"{name}.qkv", normed(state, f"{name}.norm", x, 1e-5)).split(96, -1)):
        q, k, v = part.split(32, -1)
        scores = q @ k.transpose(1, 2) / math.sqrt(32) + bias[head]
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        found.append(weights / weights.sum(-1, keepdim=True) @ v)
    return linear(state, f"{name}.proj", torch.cat(found, -1))


def block(state: State, name: str, x: Tensor, window: int) -> Tensor:
    """Tokens (B,H,W,C), window by window."""
    height, width = x.shape[1:3]
    rows, columns = -height % window, -width % window
    padded = functional.pad(x, (0, 0, 0, columns, 0, rows))
    bias, out = biases(state, f"{name}.attn", window), torch.empty_like(padded)
    for top in range(0, height + rows, window):
        for left in range(0, width + columns, window):
            part = padded[:, top : top + window, left : left + window]
            seen = attended(state, f"{name}.attn", part.flatten(1, 2), bias)
            out[:, top : top + window, left : left + window] = seen.unflatten(1, (window, window))
    x = x + out[:, :height, :width]
    x = convolved(state, f"{name}.local_conv", x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    inner = gelu(linear(state, f"{name}.mlp.fc1", normed(state, f"{name}.mlp.norm", x, 1e-5)))
    return x + linear(state, f"{name}.mlp.fc2", inner)


def merged(state: State, name: str, x: Tensor, stride: int) -> Tensor:
    maps = gelu(convolved(state, f"{name}.conv1", x.permute(0, 3, 1, 2)))
    maps = convolved(state, f"{name}.conv3", gelu(convolved(state, f"{name}.conv2", maps, stride)))
    return maps.permute(0, 2, 3, 1)


def tokens(state: State, images: Tensor) -> Tensor:
    """Images (B,3,N,N) in [0,1] to the last tokens (B,g,g,320)."""
    at = "image_encoder"
    maps = gelu(convolved(state, f"{at}.patch_embed.seq.0", (images - MEAN) / DEVIATION, 2))
    maps = convolved(state, f"{at}.patch_embed.seq.2", maps, 2)
    for number in (0, 1):
        name = f"{at}.layers.0.blocks.{number}"
        inner = gelu(convolved(state, f"{name}.conv2", gelu(convolved(state, f"{name}.conv1", maps))))
        maps = gelu(maps + convolved(state, f"{name}.conv3", inner))
    x = maps.permute(0, 2, 3, 1)
    for stage, depth, window in STAGES:
        x = merged(state, f"{at}.layers.{stage - 1}.downsample", x, 1 if stage == 3 else 2)
        for number in range(depth):
            x = block(state, f"{at}.layers.{stage}.blocks.{number}", x, window)
    return x


def encode(state: State, images: Tensor) -> Tensor:
    """Images (B,3,N,N) in [0,1] to embeddings (B,256,g,g)."""
    at = "image_encoder"
    x = tokens(state, images)
    x = normed(state, f"{at}.neck.1", x @ state[f"{at}.neck.0.weight"].flatten(1).T, 1e-6)
    maps = functional.conv2d(x.permute(0, 3, 1, 2), state[f"{at}.neck.2.weight"], padding=1)
    return normed(state, f"{at}.neck.3", maps.permute(0, 2, 3, 1), 1e-6).permute(0, 3, 1, 2)


def decode(state: State, embedding: Tensor) -> Tensor:
    """The maps of four mask tokens by segment_anything's own classes, without prompts."""
    side = embedding.shape[-1]
    prompts = PromptEncoder(256, (side, side), (16 * side, 16 * side), 16)
    decoder = MaskDecoder(
        transformer_dim=256, transformer=TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048)
    )
    for part, prefix in ((prompts, "prompt_encoder."), (decoder, "mask_decoder.")):
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        part.load_state_dict(own)
    sparse, dense = prompts(points=None, boxes=None, masks=None)
    maps, _ = decoder.predict_masks(embedding, prompts.get_dense_pe(), sparse, dense)
    return maps


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mobile_sam.pt with random values."""
    state = random_state(mobile_sam_shapes())
    return write(state, tmp_path_factory.mktemp("weights") / "any.pt", wrapped=False)


@pytest.fixture(scope="module")
def state(file: Path) -> State:
    return read_weights(file)


def spec(size: int, **changes: Any) -> ModelSpec:
    return ModelSpec("mobile_sam", size, **{"num_outputs": 4, "in_channels": 3, "levels": (), **changes})


def test_names_and_shapes_account_for_the_published_file() -> None:
    """The rest is names and an archive's headers."""
    shapes = mobile_sam_shapes()
    rest = (ASSETS["mobile_sam"].size or 0) - 4 * total(shapes)
    assert 0 < rest < 600 * len(shapes)


# 64 and 512 px: grids that are no multiple of a window, or smaller than it.
@pytest.mark.parametrize("size", [224, 64, 512])
def test_a_network_is_the_published_one_without_prompts(state: State, size: int) -> None:
    network = build_network(spec(size, lora_rank=4)).eval()
    report = load_base(network, state)
    assert set(report.dropped) == {name for name in state if re.match(r"image_encoder\.(norm_)?head\.", name)}
    assert sorted((*report.loaded, *report.dropped)) == sorted(state)
    assert (report.kept, report.resized) == ((), ())
    images = torch.rand(2 if size < 512 else 1, 3, size, size)
    with torch.no_grad():
        embedding = encode(state, images)
        got = network.embed(images).embedding
        torch.testing.assert_close(got, embedding, rtol=1e-4, atol=2e-5 * float(embedding.abs().max()))
        expected, maps = decode(state, embedding), network(images)
    assert maps.shape == (len(images), 4, size // 4, size // 4)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=5e-5 * float(expected.abs().max()))


def test_a_written_base_has_the_layout_of_the_file(state: State) -> None:
    network = build_network(spec(64, lora_rank=4))
    report = load_base(network, state)
    saved = base_state(network)
    assert saved.keys() == set(report.loaded)
    assert all(torch.equal(saved[name], state[name]) for name in saved)


def test_stored_statistics_stay_in_training(state: State) -> None:
    """A slice in a batch under training is what it is alone."""
    network = build_network(spec(64, lora_rank=4))
    load_base(network, state)
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        together, alone = network.train().embed(images).embedding[:1], network.eval().embed(images[:1]).embedding
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    saved = base_state(network)
    assert all(torch.equal(saved[name], state[name]) for name in saved)


def test_timm_agrees(state: State) -> None:
    timm = pytest.importorskip("timm.models.tiny_vit", reason="timm is not installed")
    theirs = timm.tiny_vit_5m_224(num_classes=1000).eval()
    theirs.stages[3].downsample.conv2.conv.stride = (1, 1)
    own: State = {}
    for name, value in state.items():
        name = name.removeprefix("image_encoder.").replace(".c.weight", ".conv.weight")
        name = name.replace("seq.0", "conv1").replace("seq.2", "conv2").replace("norm_head", "head.norm")
        name = re.sub(r"^head\.(weight|bias)", r"head.fc.\1", name)
        name = re.sub(r"^layers\.(\d)\.downsample", lambda m: f"stages.{int(m[1]) + 1}.downsample", name)
        own[name.replace("layers.", "stages.", 1)] = value
    theirs.load_state_dict({name: own[name] for name in theirs.state_dict()})
    network = build_network(spec(224, lora_rank=4)).eval()
    load_base(network, state)
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs.forward_features((images - MEAN) / DEVIATION).permute(0, 2, 3, 1)
        (got,) = network.image_encoder.forward_tokens(images, (10,))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def with_lora(state: State, experts: list[Any]) -> State:
    """The file with W + B A in the rows of q and of v of every head."""
    changed = dict(state)
    for name, lora in zip(QKV, experts, strict=True):
        weight = changed[f"{name}.weight"].clone()
        for part, delta in ((0, lora.q_b @ lora.q_a), (2, lora.v_b @ lora.v_a)):
            for head, rows in enumerate(delta.split(32)):
                weight[96 * head + 32 * part : 96 * head + 32 * part + 32] += rows
        changed[f"{name}.weight"] = weight
    return changed


def test_experts_on_it(state: State) -> None:
    """New experts under HL-Attn change nothing; one that has learned is W + B A in the rows of q and v."""
    images = torch.rand(1, 3, 224, 224)
    fused = build_network(spec(224, levels=LEVELS, fusion=FusionSpec(), lora_rank=4)).eval()
    single = build_network(spec(224, levels=(Level.PATCH,), lora_rank=4)).eval()
    for network in (fused, single):
        load_base(network, state)
    blocks: Any = single.image_encoder.blocks
    experts = [one.experts["patch"] for one in blocks]
    with torch.no_grad():
        expected = encode(state, images)
        atol = 2e-5 * float(expected.abs().max())
        torch.testing.assert_close(fused.embed(images).embedding, expected, rtol=1e-4, atol=atol)
        for lora in experts:
            lora.q_b.normal_(0, 0.1)
            lora.v_b.normal_(0, 0.1)
        moved = encode(with_lora(state, experts), images)
        assert float((moved - expected).abs().max()) > 100 * atol
        torch.testing.assert_close(single.embed(images).embedding, moved, rtol=1e-4, atol=atol)


def test_gradients_reach_every_expert() -> None:
    torch.manual_seed(0)
    network = build_network(spec(64, levels=LEVELS, fusion=FusionSpec(), lora_rank=4))
    blocks: Any = network.image_encoder.blocks
    for one in blocks:
        for parameter in (*one.experts.parameters(), *one.fusion.parameters()):
            nn.init.normal_(parameter, 0, 0.1)
    network(torch.rand(2, 3, 64, 64)).square().sum().backward()
    for one in blocks:
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in one.experts.parameters())


def test_other_files_are_refused_and_this_one_by_others(state: State, file: Path) -> None:
    assert recognise(file) == "mobile_sam"
    with torch.device("meta"):
        other = build_network(ModelSpec("sam_vit_b", 224, 4, levels=(), lora_rank=4))
        network = build_network(spec(224, lora_rank=4))
        of_sam = base_state(other)
    with pytest.raises(DataError, match=r"E-WEIGHT-06[\s\S]*looks like mobile_sam"):
        load_base(other, state)
    with pytest.raises(DataError, match=r"E-WEIGHT-06[\s\S]*looks like sam_vit_b"):
        load_base(network, of_sam)


def test_hidden_squares_cannot_be_seen() -> None:
    encoder = BACKBONES.get("mobile_sam").build_encoder(64)
    mask = torch.rand(1, 4, 4) < 0.5
    images, other, token = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64), torch.randn(64)
    pixels = mask.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None]
    with torch.no_grad():
        first = encoder(images, token_mask=mask, mask_token=token)
        second = encoder(torch.where(pixels, other, images), token_mask=mask, mask_token=token)
    assert torch.equal(first.embedding, second.embedding)
