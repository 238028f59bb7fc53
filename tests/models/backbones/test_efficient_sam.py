"""EfficientSAM against a literal restatement that reads the names of its public files, and against timm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec, Level, ModelSpec
from samora_pipeline.errors import DataError
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.weights.catalog import ASSETS
from samora_pipeline.weights.files import read_weights
from samora_pipeline.weights.recognise import recognise
from samora_pipeline.weights.sam_checkpoint import base_state, load_base
from tests.weights.small_encoder_files import State, efficient_sam_shapes, random_state, total, write

MEAN, DEVIATION = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
WIDTHS = {"efficient_sam_vitt": (192, 3), "efficient_sam_vits": (384, 6)}
NO_PROMPTS = {"invalid_points", "point_embeddings", "bbox_top_left_embeddings", "bbox_bottom_right_embeddings"}


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def normed(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * state[f"{name}.weight"]
        + state[f"{name}.bias"]
    )


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Head by head, (B,L,C) each."""
    found = []
    for one, other, value in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        scores = one @ other.transpose(1, 2) / math.sqrt(one.shape[-1])
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        found.append(weights / weights.sum(-1, keepdim=True) @ value)
    return torch.cat(found, -1)


def bicubic(inputs: int, outputs: int) -> Tensor:
    """The matrix that stretches a row of values, with Keys' kernel for a = -0.75 and repeated ends."""
    matrix = torch.zeros(outputs, inputs)
    for row in range(outputs):
        place = (row + 0.5) * inputs / outputs - 0.5
        for step in range(math.floor(place) - 1, math.floor(place) + 3):
            x = abs(place - step)
            near = 1.25 * x**3 - 2.25 * x**2 + 1
            far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[row, min(max(step, 0), inputs - 1)] += near if x <= 1 else far
    return matrix


def encode(state: State, images: Tensor, heads: int) -> Tensor:
    """Images (B,3,N,N) in [0,1] to embeddings (B,256,g,g)."""
    at, grid = "image_encoder", images.shape[-1] // 16
    pixels = (images - MEAN) / DEVIATION
    kernel = state[f"{at}.patch_embed.proj.weight"].flatten(1)
    rows = []
    for top in range(grid):
        for left in range(grid):
            patch = pixels[:, :, 16 * top : 16 * top + 16, 16 * left : 16 * left + 16].flatten(1)
            rows.append(patch @ kernel.T + state[f"{at}.patch_embed.proj.bias"])
    table = state[f"{at}.pos_embed"][0, 1:].view(14, 14, -1)
    if grid != 14:
        stretch = bicubic(14, grid)
        table = torch.einsum("ia,jb,abc->ijc", stretch, stretch, table)
    x = torch.stack(rows, 1) + table.flatten(0, 1)
    for number in range(12):
        block = f"{at}.blocks.{number}"
        q, k, v = linear(state, f"{block}.attn.qkv", normed(state, f"{block}.norm1", x, 1e-6)).chunk(3, -1)
        x = x + linear(state, f"{block}.attn.proj", attention(q, k, v, heads))
        inner = linear(state, f"{block}.mlp.fc1", normed(state, f"{block}.norm2", x, 1e-6))
        x = x + linear(state, f"{block}.mlp.fc2", gelu(inner))
    x = normed(state, f"{at}.neck.1", x @ state[f"{at}.neck.0.weight"].flatten(1).T, 1e-6)
    maps = x.transpose(1, 2).unflatten(2, (grid, grid))
    maps = functional.conv2d(maps, state[f"{at}.neck.2.weight"], padding=1)
    return normed(state, f"{at}.neck.3", maps.permute(0, 2, 3, 1), 1e-6).permute(0, 3, 1, 2)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def looked(state: State, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of the decoder with its projections, eight heads."""
    q, k, v = (linear(state, f"{name}.{part}_proj", x) for part, x in (("q", q), ("k", k), ("v", v)))
    return linear(state, f"{name}.out_proj", attention(q, k, v, 8))


def decode(state: State, embedding: Tensor) -> Tensor:
    """Embeddings (B,256,g,g) to maps of four mask tokens (B,4,4g,4g), without prompts."""
    at, grid = "mask_decoder", embedding.shape[-1]
    centres = 2 * (torch.arange(grid) + 0.5) / grid - 1
    places = torch.stack((centres.expand(grid, grid), centres[:, None].expand(grid, grid)), -1).flatten(0, 1)
    angles = 2 * math.pi * places @ state["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
    positions = torch.cat((angles.sin(), angles.cos()), -1)
    tokens = torch.cat((state[f"{at}.iou_token.weight"], state[f"{at}.mask_tokens.weight"])).expand(
        len(embedding), -1, -1
    )
    queries, keys = tokens, embedding.flatten(2).transpose(1, 2)
    for number in (0, 1):
        name = f"{at}.transformer.layers.{number}"
        if number:
            queries = queries + tokens
        queries = queries + looked(state, f"{name}.self_attn", queries, queries, queries)
        queries = normed(state, f"{name}.norm1", queries, 1e-5)
        read = looked(state, f"{name}.cross_attn_token_to_image", queries + tokens, keys + positions, keys)
        queries = normed(state, f"{name}.norm2", queries + read, 1e-5)
        inner = linear(state, f"{name}.mlp.fc", gelu(linear(state, f"{name}.mlp.layers.0.0", queries)))
        queries = normed(state, f"{name}.norm3", queries + inner, 1e-5)
        told = looked(state, f"{name}.cross_attn_image_to_token", keys + positions, queries + tokens, queries)
        keys = normed(state, f"{name}.norm4", keys + told, 1e-5)
    name = f"{at}.transformer"
    last = looked(state, f"{name}.final_attn_token_to_image", queries + tokens, keys + positions, keys)
    queries = normed(state, f"{name}.norm_final_attn", queries + last, 1e-5)
    name = f"{at}.final_output_upscaling_layers"
    maps = keys.transpose(1, 2).unflatten(2, (grid, grid))
    maps = functional.conv_transpose2d(maps, state[f"{name}.0.0.weight"], state[f"{name}.0.0.bias"], stride=2)
    # One group: mean and variance over channels and pixels.
    centred = maps - maps.mean((1, 2, 3), keepdim=True)
    maps = centred / (centred.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
    maps = gelu(maps * state[f"{name}.0.1.weight"].view(-1, 1, 1) + state[f"{name}.0.1.bias"].view(-1, 1, 1))
    maps = gelu(functional.conv_transpose2d(maps, state[f"{name}.1.0.weight"], state[f"{name}.1.0.bias"], stride=2))
    weights = []
    for mask in range(4):
        name = f"{at}.output_hypernetworks_mlps.{mask}"
        x = gelu(linear(state, f"{name}.layers.0.0", queries[:, 1 + mask]))
        weights.append(linear(state, f"{name}.fc", gelu(linear(state, f"{name}.layers.1.0", x))))
    return torch.einsum("bkc,bchw->bkhw", torch.stack(weights, 1), maps)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """efficient_sam_vitt.pt with random values."""
    state = random_state(efficient_sam_shapes(192))
    return write(state, tmp_path_factory.mktemp("weights") / "any.pt", wrapped=True)


@pytest.fixture(scope="module")
def state(file: Path) -> State:
    return read_weights(file)


def spec(size: int, **changes: Any) -> ModelSpec:
    return ModelSpec("efficient_sam_vitt", size, **{"num_outputs": 4, "in_channels": 3, "levels": (), **changes})


@pytest.mark.parametrize("name", WIDTHS)
def test_names_and_shapes_account_for_the_published_file(name: str) -> None:
    """The rest is names and an archive's headers."""
    shapes = efficient_sam_shapes(WIDTHS[name][0])
    rest = (ASSETS[name].size or 0) - 4 * total(shapes)
    assert 0 < rest < 600 * len(shapes)


@pytest.mark.parametrize("size", [224, 128, 512])
def test_a_network_is_the_published_one_without_prompts(state: State, size: int) -> None:
    network = build_network(spec(size, lora_rank=4)).eval()
    report = load_base(network, state)
    assert {name.split(".")[1] for name in report.dropped} == NO_PROMPTS
    assert sorted((*report.loaded, *report.dropped)) == sorted(state)
    assert all(name.startswith("prompt_encoder.") for name in report.kept)
    images = torch.rand(2 if size < 512 else 1, 3, size, size)
    with torch.no_grad():
        embedding = encode(state, images, heads=3)
        got = network.embed(images)
        assert got.skips == ()
        torch.testing.assert_close(got.embedding, embedding, rtol=1e-4, atol=2e-5 * float(embedding.abs().max()))
        expected, maps = decode(state, embedding), network(images)
    assert maps.shape == (len(images), 4, size // 4, size // 4)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=5e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", WIDTHS)
def test_timm_agrees(name: str) -> None:
    timm = pytest.importorskip("timm.models.vision_transformer", reason="timm is not installed")
    width, heads = WIDTHS[name]
    state = random_state(efficient_sam_shapes(width))
    theirs = timm.VisionTransformer(
        embed_dim=width, num_heads=heads, class_token=False, global_pool="", num_classes=0, norm_layer=None
    ).eval()
    theirs.norm = torch.nn.Identity()
    own = {name.removeprefix("image_encoder."): tensor for name, tensor in state.items() if "neck" not in name}
    own["pos_embed"] = own["pos_embed"][:, 1:]
    theirs.load_state_dict({name: own[name] for name in theirs.state_dict()})
    network = build_network(ModelSpec(name, 224, 4, in_channels=3, levels=(), lora_rank=4)).eval()
    load_base(network, state)
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs.forward_features((images - MEAN) / DEVIATION)
        (got,) = network.image_encoder.forward_tokens(images, (12,))
    torch.testing.assert_close(got.flatten(1, 2), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_experts_on_it(state: State) -> None:
    """New experts under HL-Attn change nothing; one that has learned is W + B A in the rows of q and v."""
    images = torch.rand(1, 3, 224, 224)
    fused = build_network(spec(224, levels=LEVELS, fusion=FusionSpec(), lora_rank=4)).eval()
    single = build_network(spec(224, levels=(Level.PATCH,), lora_rank=4)).eval()
    for network in (fused, single):
        load_base(network, state)
    changed = dict(state)
    blocks: Any = single.image_encoder.blocks
    with torch.no_grad():
        expected = encode(state, images, heads=3)
        atol = 2e-5 * float(expected.abs().max())
        torch.testing.assert_close(fused.embed(images).embedding, expected, rtol=1e-4, atol=atol)
        for number, block in enumerate(blocks):
            lora = block.experts["patch"]
            for part in (lora.q_b, lora.v_b):
                part.normal_(0, 0.1)
            weight = changed[f"image_encoder.blocks.{number}.attn.qkv.weight"].clone()
            weight[:192] += lora.q_b @ lora.q_a
            weight[384:] += lora.v_b @ lora.v_a
            changed[f"image_encoder.blocks.{number}.attn.qkv.weight"] = weight
        moved = encode(changed, images, heads=3)
        assert float((moved - expected).abs().max()) > 100 * atol
        torch.testing.assert_close(single.embed(images).embedding, moved, rtol=1e-4, atol=atol)


def test_another_number_of_outputs_and_other_decoders(state: State) -> None:
    for decoder in ("samed", "hsam", "autosam"):
        network = build_network(spec(64, num_outputs=3, decoder=decoder, lora_rank=4)).eval()
        report = load_base(network, state, copy_outputs=True)
        assert {*report.loaded, *report.dropped} == set(state)
        with torch.no_grad():
            assert torch.isfinite(network(torch.rand(1, 3, 64, 64))).all()


def test_a_base_of_ours_is_read_back_whole(state: State) -> None:
    """The decoder of a base that was trained on a pool has all of the prompt encoder."""
    torch.manual_seed(1)
    trained = build_network(spec(64, lora_rank=4))
    saved = base_state(trained)
    torch.manual_seed(2)
    other = build_network(spec(128, lora_rank=4))
    report = load_base(other, saved)
    assert (report.kept, report.dropped, report.resized) == ((), (), ())
    assert all(torch.equal(tensor, saved[name]) for name, tensor in base_state(other).items())


def test_the_file_of_the_other_size_is_refused_by_name(state: State) -> None:
    with torch.device("meta"):
        network = build_network(ModelSpec("efficient_sam_vits", 224, 4, levels=(), lora_rank=4))
    with pytest.raises(DataError, match=r"E-WEIGHT-06[\s\S]*looks like efficient_sam_vitt"):
        load_base(network, state)


def test_files_are_recognised(file: Path, tmp_path: Path) -> None:
    assert recognise(file) == "efficient_sam_vitt"
    small = {name: torch.zeros(1).expand(shape) for name, shape in efficient_sam_shapes(384).items()}
    assert recognise(write(small, tmp_path / "x.pt", wrapped=True)) == "efficient_sam_vits"


def test_hidden_patches_cannot_be_seen() -> None:
    encoder = BACKBONES.get("efficient_sam_vitt").build_encoder(64)
    mask = torch.rand(1, 4, 4) < 0.5
    images, other, token = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64), torch.randn(192)
    pixels = mask.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None]
    with torch.no_grad():
        first = encoder(images, token_mask=mask, mask_token=token)
        second = encoder(torch.where(pixels, other, images), token_mask=mask, mask_token=token)
    assert torch.equal(first.embedding, second.embedding)
