"""MAE against timm's transformer and a literal restatement with shuffled and restored tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from samora_pipeline.models.teachers.mae import (
    MAE_TINY,
    MAE_VIT_L,
    Block,
    MaeDesign,
    MaeTeacher,
    position_table,
    visible_places,
    visible_tokens,
)
from samora_pipeline.slices.views import draw_token_masks, visible_count

SMALL = MaeDesign(
    embed_dim=32, depth=4, heads=4, decoder_dim=16, decoder_depth=2, decoder_heads=2, patch_size=8, native_size=32
)


@pytest.fixture
def teacher() -> MaeTeacher:
    torch.manual_seed(0)
    network = SMALL.build().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            assert parameter.requires_grad != name.endswith("pos_embed")
    return network


def hidden_places(count: int, grid: int, hidden: int) -> Tensor:
    noise = torch.rand(count, grid * grid, generator=torch.Generator().manual_seed(5))
    return (noise.argsort(dim=1).argsort(dim=1) < hidden).view(count, grid, grid)


def test_counts_at_full_size() -> None:
    with torch.device("meta"):
        network = MAE_VIT_L.build()
        images = torch.rand(2, 1, 224, 224)
        tokens = network.features(images, "tokens")
    count = {name: parameter.numel() for name, parameter in network.named_parameters()}
    decoder = {name: n for name, n in count.items() if name.startswith("decoder") or name == "mask_token"}
    assert sum(count.values()) == 329_541_888
    assert sum(decoder.values()) == 26_240_256
    assert sum(count.values()) - sum(decoder.values()) == 303_301_632
    assert tokens.shape == (2, 14, 14, 1024)


def test_public_names_and_shapes() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in MAE_VIT_L.build().state_dict().items()}
    block = {
        "norm1.weight": (1024,),
        "norm1.bias": (1024,),
        "attn.qkv.weight": (3072, 1024),
        "attn.qkv.bias": (3072,),
        "attn.proj.weight": (1024, 1024),
        "attn.proj.bias": (1024,),
        "norm2.weight": (1024,),
        "norm2.bias": (1024,),
        "mlp.fc1.weight": (4096, 1024),
        "mlp.fc1.bias": (4096,),
        "mlp.fc2.weight": (1024, 4096),
        "mlp.fc2.bias": (1024,),
    }
    expected = {
        "cls_token": (1, 1, 1024),
        "pos_embed": (1, 197, 1024),
        "patch_embed.proj.weight": (1024, 3, 16, 16),
        "patch_embed.proj.bias": (1024,),
        "norm.weight": (1024,),
        "norm.bias": (1024,),
        "decoder_embed.weight": (512, 1024),
        "decoder_embed.bias": (512,),
        "mask_token": (1, 1, 512),
        "decoder_pos_embed": (1, 197, 512),
        "decoder_norm.weight": (512,),
        "decoder_norm.bias": (512,),
        "decoder_pred.weight": (768, 512),
        "decoder_pred.bias": (768,),
    }
    expected |= {f"blocks.{n}.{name}": shape for n in range(24) for name, shape in block.items()}
    expected |= {
        f"decoder_blocks.{n}.{name}": tuple(side // 2 for side in shape)
        for n in range(8)
        for name, shape in block.items()
    }
    assert shapes == expected


def test_tokens_equal_timms_transformer(teacher: MaeTeacher) -> None:
    timm = pytest.importorskip("timm.models.vision_transformer", reason="timm is not installed")
    reference = timm.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=4, num_classes=0, global_pool="token", qkv_bias=True
    ).eval()
    encoder = {n: t for n, t in teacher.state_dict().items() if n in reference.state_dict()}
    reference.load_state_dict(encoder, strict=True)
    images = torch.rand(3, 1, 32, 32)
    with torch.no_grad():
        expected = reference.forward_features(teacher.prepare(images))[:, 1:].unflatten(1, (4, 4))
        torch.testing.assert_close(teacher.features(images, "tokens"), expected, rtol=1e-4, atol=1e-5)
        taps = reference.forward_intermediates(
            teacher.prepare(images), indices=[2], norm=False, intermediates_only=True
        )
        torch.testing.assert_close(
            teacher.features(images, "tokens_18_of_24"), taps[0].permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5
        )


class LiteralBlock(nn.Module):
    """A pre-norm block, head by head and token by token, with the tensors of ours."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        assert isinstance(block, Block)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        block, width = self.block, x.shape[-1]
        heads = block.attn.heads
        side = width // heads
        qkv = block.attn.qkv(self._norm(x, block.norm1))
        pieces = []
        for head in range(heads):
            q, k, v = (qkv[..., part * width + head * side :][..., :side] for part in range(3))
            scores = torch.exp(torch.einsum("bid,bjd->bij", q, k) / math.sqrt(side))
            pieces.append(torch.einsum("bij,bjd->bid", scores / scores.sum(-1, keepdim=True), v))
        x = x + block.attn.proj(torch.cat(pieces, dim=-1))
        hidden = block.mlp.get_submodule("fc1")(self._norm(x, block.norm2))
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        return x + block.mlp.get_submodule("fc2")(hidden)

    def _norm(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / (variance + 1e-6).sqrt() * norm.weight + norm.bias


def literal_mae(teacher: MaeTeacher, images: Tensor, order: Tensor, kept: int) -> Tensor:
    """MAE's own route: shuffle, keep the first, append mask tokens, restore the order (sections 3 and A of MAE)."""
    statistics = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]
    prepared = torch.stack([(images[:, 0] - mean) / std for mean, std in statistics], dim=1)
    restored = []
    for picture, places in zip(prepared, order.tolist(), strict=True):
        weight, bias = teacher.patch_embed.proj.weight, teacher.patch_embed.proj.bias
        tokens = []
        for row in range(4):
            for column in range(4):
                patch = picture[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                tokens.append((weight * patch).sum(dim=(1, 2, 3)) + bias)
        x = torch.stack(tokens) + teacher.pos_embed[0, 1:]
        x = torch.cat((teacher.cls_token[0] + teacher.pos_embed[0, :1], x[places[:kept]]))[None]
        for block in teacher.blocks:
            x = LiteralBlock(block)(x)
        x = teacher.decoder_embed(LiteralBlock._norm(LiteralBlock(teacher.blocks[0]), x, teacher.norm))[0]
        shuffled = [*x[1:], *[teacher.mask_token[0, 0]] * (16 - kept)]
        full = [x[0]] + [shuffled[places.index(place)] for place in range(16)]
        y = (torch.stack(full) + teacher.decoder_pos_embed[0])[None]
        for block in teacher.decoder_blocks:
            y = LiteralBlock(block)(y)
        y = LiteralBlock._norm(LiteralBlock(teacher.blocks[0]), y, teacher.decoder_norm)
        restored.append(teacher.decoder_pred(y)[0, 1:])
    return torch.stack(restored)


def reconstructed(teacher: MaeTeacher, images: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    return teacher.decode(teacher.encode(teacher.prepare(images), hidden), hidden)


def test_reconstruction_equals_the_shuffled_one(teacher: MaeTeacher) -> None:
    images = torch.rand(3, 1, 32, 32)
    order = torch.stack([torch.randperm(16) for _ in range(3)])
    hidden = torch.ones(3, 16, dtype=torch.bool).scatter(1, order[:, :4], False).view(3, 4, 4)
    with torch.no_grad():
        expected = literal_mae(teacher, images, order, kept=4)
        found = reconstructed(teacher, images, hidden)
    torch.testing.assert_close(found.flatten(1, 2), expected, rtol=1e-4, atol=1e-5)
    assert teacher.prepare(images).shape == (3, 3, 32, 32)


def test_hidden_patches_are_never_seen(teacher: MaeTeacher) -> None:
    images, hidden = torch.rand(2, 1, 32, 32), hidden_places(2, 4, 12)
    pixels = hidden.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    other = torch.where(pixels, torch.rand_like(images), images)
    with torch.no_grad():
        own = reconstructed(teacher, images, hidden)
        assert torch.equal(own, reconstructed(teacher, other, hidden))
        assert not torch.equal(own, reconstructed(teacher, 1 - other, hidden))
        assert teacher.visible_features(images, hidden).shape == (2, 4, 32)


def test_49_of_196_patches_and_the_class_token_are_encoded() -> None:
    seen = []
    hidden = hidden_places(1, 14, 147)
    tiny = MAE_TINY.build(224)
    tiny.norm.register_forward_hook(lambda _module, inputs, _output: seen.append(tuple(inputs[0].shape)))
    with torch.no_grad():
        prediction = reconstructed(tiny, torch.rand(1, 1, 224, 224), hidden)
    assert seen == [(1, 50, 96)]
    assert prediction.shape == (1, 14, 14, 768)


@pytest.mark.parametrize(("grid", "share"), [(14, 0.75), (14, 0.6), (8, 0.75), (5, 0.3)])
def test_lightly_hides_as_many_patches(grid: int, share: float) -> None:
    lightly = pytest.importorskip("lightly.models.utils", reason="lightly is not installed")
    kept, hidden = lightly.random_token_mask((2, 1 + grid * grid), mask_ratio=share)
    mask = draw_token_masks(["a", "b"], grid, share, seed=0, epoch=0)
    assert mask.flatten(1).sum(dim=1).tolist() == [hidden.shape[1]] * 2
    # Its count includes the class token, which is never hidden.
    assert visible_places(mask).shape == (2, kept.shape[1] - 1)


@pytest.mark.parametrize(("grid", "share"), [(14, 0.75), (14, 0.6), (8, 0.75), (5, 0.3), (3, 0.0), (4, 0.9)])
def test_who_knows_how_many_are_visible_need_not_count_them(grid: int, share: float, teacher: MaeTeacher) -> None:
    mask = draw_token_masks(["a", "b", "c"], grid, share, seed=1, epoch=0)
    assert torch.equal(visible_places(mask, visible_count(grid, share)), visible_places(mask))
    # Not even at the places of a device that has no values to wait for.
    assert visible_places(mask.to("meta"), visible_count(grid, share)).shape[0] == 3
    if grid == teacher.grid:
        images = torch.rand(3, 1, 32, 32)
        with torch.no_grad():
            known = teacher.visible_features(images, mask, visible_count(grid, share))
            assert torch.equal(known, teacher.visible_features(images, mask))


def test_all_samples_must_hide_the_same_number() -> None:
    hidden = torch.zeros(2, 4, 4, dtype=torch.bool)
    hidden[1, 0, 0] = True
    with pytest.raises(ValueError, match=r"\[15, 16\]"):
        visible_places(hidden)
    assert visible_places(hidden[:0]).shape == (0, 0)


def test_visible_tokens_are_those_of_the_mask_row_by_row() -> None:
    tokens, hidden = torch.randn(2, 4, 4, 3), hidden_places(2, 4, 11)
    for picked, grid, mask in zip(visible_tokens(tokens, hidden), tokens, hidden, strict=True):
        assert torch.equal(picked, grid[~mask])


@pytest.mark.parametrize("place", [(0, 3), (2, 1)])
def test_tokens_lie_row_by_row(teacher: MaeTeacher, place: tuple[int, int]) -> None:
    images = torch.zeros(1, 1, 32, 32)
    bright = images.clone()
    bright[..., 8 * place[0] : 8 * place[0] + 8, 8 * place[1] : 8 * place[1] + 8] = 1
    with torch.no_grad():
        change = (teacher.features(bright, "tokens") - teacher.features(images, "tokens"))[0].norm(dim=-1)
    assert divmod(int(change.argmax()), 4) == place


def test_positions_are_the_published_sines() -> None:
    """Eight numbers per place: sine and cosine of the column, then of the row, at rates 1 and 1 / 100."""
    table = position_table(8, 3, 3)[0].double()
    assert not table[0].any()
    for row in range(3):
        for column in range(3):
            waves = [f(place * rate) for place in (column, row) for f in (math.sin, math.cos) for rate in (1, 0.01)]
            np.testing.assert_allclose(table[1 + 3 * row + column], waves, atol=1e-7)


def test_positions_of_a_finer_grid_keep_their_place_in_the_image() -> None:
    coarse, fine = (position_table(16, grid, 4)[0, 1:].view(grid, grid, 16) for grid in (4, 12))
    torch.testing.assert_close(fine[1::3, 1::3], coarse, rtol=0, atol=1e-6)


def test_intensities_undo_the_statistics(teacher: MaeTeacher) -> None:
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(teacher.intensities(teacher.prepare(images)), images)
