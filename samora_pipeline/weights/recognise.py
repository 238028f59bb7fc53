"""Which public checkpoint a file is, told by the names and shapes of its tensors and never by its own name.

Layouts: the state dicts of segment_anything, sam2, EfficientSAM, MobileSAM and MAE, the converted SimCLRv2 checkpoint
(``resnet`` and ``head``) and the TensorFlow one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from samora_pipeline.errors import DataError
from samora_pipeline.weights.catalog import ASSETS

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """Tensors that an asset has, with their shapes, and names that would make it another network."""

    has: Shapes
    lacks: tuple[str, ...] = ()

    def misfits(self, shapes: Shapes) -> list[str]:
        """What speaks against a file, in words."""
        wanted = [f"{name} {shape}" for name, shape in self.has.items() if shapes.get(name) != shape]
        return [f"lacks {text}" for text in wanted] + [f"has {name}" for name in self.lacks if name in shapes]


def _sam(width: int, depth: int) -> Layout:
    has = {
        "image_encoder.pos_embed": (1, 64, 64, width),
        f"image_encoder.blocks.{depth - 1}.attn.qkv.weight": (3 * width, width),
        "prompt_encoder.no_mask_embed.weight": (1, 256),
        "mask_decoder.mask_tokens.weight": (4, 256),
    }
    return Layout(has, (f"image_encoder.blocks.{depth}.norm1.weight",))


def _efficient_sam(width: int) -> Layout:
    has = {
        "image_encoder.pos_embed": (1, 197, width),
        "image_encoder.blocks.11.mlp.fc1.weight": (4 * width, width),
        "prompt_encoder.invalid_points.weight": (1, 256),
        "mask_decoder.mask_tokens.weight": (4, 256),
    }
    return Layout(has, ("image_encoder.blocks.12.norm1.weight",))


def _sam2(width: int, depth: int, side: int) -> dict[str, tuple[int, ...]]:
    return {
        "image_encoder.trunk.pos_embed": (1, width, side, side),
        f"image_encoder.trunk.blocks.{depth - 1}.attn.qkv.weight": (24 * width, 8 * width),
        "sam_mask_decoder.mask_tokens.weight": (4, 256),
        "no_mem_embed": (1, 1, 256),
    }


_SAM21_ONLY = {"no_obj_embed_spatial": (1, 64), "obj_ptr_tpos_proj.weight": (64, 256)}
_MOBILE_SAM = {
    "image_encoder.layers.1.blocks.1.attn.attention_biases": (4, 49),
    "image_encoder.layers.2.blocks.5.attn.qkv.weight": (480, 160),
    "image_encoder.layers.3.blocks.1.attn.qkv.weight": (960, 320),
    "prompt_encoder.no_mask_embed.weight": (1, 256),
    "mask_decoder.mask_tokens.weight": (4, 256),
}
_MAE_ENCODER = {
    "cls_token": (1, 1, 1024),
    "pos_embed": (1, 197, 1024),
    "patch_embed.proj.weight": (1024, 3, 16, 16),
    "blocks.23.attn.qkv.weight": (3072, 1024),
    "norm.weight": (1024,),
}
_MAE_DECODER = {
    "mask_token": (1, 1, 512),
    "decoder_blocks.7.attn.qkv.weight": (1536, 512),
    "decoder_pred.weight": (768, 512),
}
# A classifier that was fine-tuned from MAE, or another ViT-L/16, has a head.
_OTHER_VIT = ("head.weight", "blocks.24.norm1.weight")
_SIMCLR = {
    "resnet.net.0.0.weight": (64, 3, 3, 3),
    "resnet.net.1.blocks.0.net.2.mixing_conv.0.weight": (32, 128, 1, 1),
    "resnet.net.4.blocks.2.net.2.main_conv.0.weight": (2048, 1024, 3, 3),
    "head.layers.6.weight": (128, 4096),
}
_SIMCLR_TF = {
    "base_model/conv2d/kernel": (3, 3, 3, 64),
    "base_model/conv2d_86/kernel": (1, 1, 1024, 4096),
    "head_contrastive/nl_2/dense/kernel": (4096, 128),
}

LAYOUTS = {
    "sam_vit_b": _sam(768, 12),
    "sam_vit_l": _sam(1024, 24),
    "sam_vit_h": _sam(1280, 32),
    "sam2_hiera_b+": Layout(_sam2(112, 24, 14), tuple(_SAM21_ONLY)),
    "sam2.1_hiera_b+": Layout(_sam2(112, 24, 14) | _SAM21_ONLY),
    "sam2.1_hiera_tiny": Layout(_sam2(96, 12, 7) | _SAM21_ONLY),
    "sam2.1_hiera_small": Layout(_sam2(96, 16, 7) | _SAM21_ONLY),
    "efficient_sam_vitt": _efficient_sam(192),
    "efficient_sam_vits": _efficient_sam(384),
    "mobile_sam": Layout(_MOBILE_SAM, ("image_encoder.layers.2.blocks.6.attn.qkv.weight",)),
    "simclr_r50_2x_sk1": Layout(_SIMCLR, ("resnet.net.3.blocks.6.net.0.weight",)),
    "simclr_r50_2x_sk1_tf": Layout(_SIMCLR_TF, ("base_model/conv2d_87/kernel",)),
    "mae_vit_l_full": Layout(_MAE_ENCODER | _MAE_DECODER, _OTHER_VIT),
    "mae_vit_l_encoder": Layout(_MAE_ENCODER, (*_OTHER_VIT, *_MAE_DECODER)),
}
"""the layout of each public checkpoint, by its name in the catalogue"""


def recognise(path: Path) -> str:
    """Return the name of the asset whose layout a file has.

    Raises:
        DataError: ``E-WEIGHT-07`` the file cannot be read, ``E-WEIGHT-12`` its content is none of the layouts.
    """
    from samora_pipeline.weights.files import read_shapes

    shapes = read_shapes(path)
    reasons = {name: layout.misfits(shapes) for name, layout in LAYOUTS.items()}
    closest = min(reasons, key=lambda name: len(reasons[name]))
    if not reasons[closest]:
        return closest
    first = next(iter(shapes), "none")
    found = f"{len(shapes)} tensors, first {first}; nearest to {closest}, but {reasons[closest][0]}"
    raise DataError("E-WEIGHT-12", path=path, assets=", ".join(ASSETS), found=found)
