from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from samora_pipeline.models.backbones.sam import SamBackbone
from samora_pipeline.models.backbones.sam2 import Sam2Backbone
from samora_pipeline.models.catalog import BACKBONES


@pytest.fixture
def randomise() -> Callable[[nn.Module, float], None]:
    """Fill every parameter of a module, tables and projections that start at zero included."""

    def fill(module: nn.Module, scale: float = 0.1) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(0, scale)

    torch.manual_seed(0)
    return fill


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> SamBackbone:
    """Three blocks of SAM at small width, two of them windowed; registered as "narrow" for the test."""
    geometry = SamBackbone(embed_dim=48, depth=3, heads=3, global_attn_indexes=(2,), prompt_dim=32, decoder_mlp_dim=64)
    monkeypatch.setitem(BACKBONES._entries, "narrow", geometry)
    return geometry


@pytest.fixture
def reference_encoder() -> Callable[[SamBackbone, int], ImageEncoderViT]:
    """Make segment_anything's own encoder of a geometry, for an input size in pixels."""

    def make(geometry: SamBackbone, size: int) -> ImageEncoderViT:
        return ImageEncoderViT(
            img_size=size,
            embed_dim=geometry.embed_dim,
            depth=geometry.depth,
            num_heads=geometry.heads,
            mlp_ratio=geometry.mlp_ratio,
            out_chans=geometry.prompt_dim,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=geometry.window_size,
            global_attn_indexes=geometry.global_attn_indexes,
        )

    return make


@pytest.fixture
def reference_sam2_encoder() -> Callable[[Sam2Backbone], ImageEncoder]:
    """Make sam2's own encoder of a geometry, put together as its configuration files say; it takes any input size."""

    def make(geometry: Sam2Backbone) -> ImageEncoder:
        trunk = Hiera(
            embed_dim=geometry.embed_dim,
            num_heads=geometry.heads,
            stages=geometry.stages,
            global_att_blocks=geometry.global_attn_indexes,
        )
        neck = FpnNeck(
            position_encoding=PositionEmbeddingSine(num_pos_feats=geometry.prompt_dim),
            d_model=geometry.prompt_dim,
            backbone_channel_list=[geometry.embed_dim * factor for factor in (8, 4, 2, 1)],
            fpn_top_down_levels=[2, 3],
            fpn_interp_model="nearest",
        )
        return ImageEncoder(trunk=trunk, neck=neck, scalp=1)

    return make
