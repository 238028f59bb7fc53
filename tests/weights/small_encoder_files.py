"""The public files of EfficientSAM and MobileSAM: every name and shape, written out, and random values for them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]


TOKENS = "mask_decoder.mask_tokens.", "mask_decoder.iou_token."


def total(shapes: Shapes) -> int:
    """The number of values."""
    return sum(math.prod(shape) for shape in shapes.values())


def layer(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def neck(width: int) -> Shapes:
    convolutions = {"image_encoder.neck.0.weight": (256, width, 1, 1), "image_encoder.neck.2.weight": (256, 256, 3, 3)}
    return {**convolutions, **norm("image_encoder.neck.1", 256), **norm("image_encoder.neck.3", 256)}


def two_way(mlp: tuple[str, str]) -> Shapes:
    """SAM's two-way transformer of width 256 with inner width 128; the layers of its MLP are called ``mlp``."""
    shapes: Shapes = {}
    for number in (0, 1):
        at = f"mask_decoder.transformer.layers.{number}"
        for attention, inner in (
            ("self_attn", 256),
            ("cross_attn_token_to_image", 128),
            ("cross_attn_image_to_token", 128),
        ):
            shapes |= attended(f"{at}.{attention}", inner)
        shapes |= layer(f"{at}.mlp.{mlp[0]}", 2048, 256) | layer(f"{at}.mlp.{mlp[1]}", 256, 2048)
        for place in (1, 2, 3, 4):
            shapes |= norm(f"{at}.norm{place}", 256)
    return {
        **shapes,
        **attended("mask_decoder.transformer.final_attn_token_to_image", 128),
        **norm("mask_decoder.transformer.norm_final_attn", 256),
        "mask_decoder.iou_token.weight": (1, 256),
        "mask_decoder.mask_tokens.weight": (4, 256),
    }


def attended(name: str, inner: int) -> Shapes:
    shapes = layer(f"{name}.out_proj", 256, inner)
    for part in ("q_proj", "k_proj", "v_proj"):
        shapes |= layer(f"{name}.{part}", inner, 256)
    return shapes


def heads(names: tuple[str, str, str]) -> Shapes:
    """The hyper-networks of four masks and the quality head; ``names`` are those of their layers."""
    shapes: Shapes = {}
    for mask in range(4):
        at = f"mask_decoder.output_hypernetworks_mlps.{mask}"
        for name, outputs in zip(names, (256, 256, 32), strict=True):
            shapes |= layer(f"{at}.{name}", outputs, 256)
    for name, outputs in zip(names, (256, 256, 4), strict=True):
        shapes |= layer(f"mask_decoder.iou_prediction_head.{name}", outputs, 256)
    return shapes


def upscaling(first: str, normed: str, second: str) -> Shapes:
    return {
        f"mask_decoder.{first}.weight": (256, 64, 2, 2),
        f"mask_decoder.{first}.bias": (64,),
        **norm(f"mask_decoder.{normed}", 64),
        f"mask_decoder.{second}.weight": (64, 32, 2, 2),
        f"mask_decoder.{second}.bias": (32,),
    }


def efficient_sam_shapes(width: int) -> Shapes:
    """What is below ``model`` in efficient_sam_vitt.pt (192) and efficient_sam_vits.pt (384)."""
    shapes: Shapes = {
        "image_encoder.pos_embed": (1, 197, width),
        "image_encoder.patch_embed.proj.weight": (width, 3, 16, 16),
        "image_encoder.patch_embed.proj.bias": (width,),
    }
    for block in range(12):
        at = f"image_encoder.blocks.{block}"
        shapes |= norm(f"{at}.norm1", width) | norm(f"{at}.norm2", width)
        shapes |= layer(f"{at}.attn.qkv", 3 * width, width) | layer(f"{at}.attn.proj", width, width)
        shapes |= layer(f"{at}.mlp.fc1", 4 * width, width) | layer(f"{at}.mlp.fc2", width, 4 * width)
    shapes |= neck(width) | two_way(("layers.0.0", "fc")) | heads(("layers.0.0", "layers.1.0", "fc"))
    shapes |= upscaling(*(f"final_output_upscaling_layers.{part}" for part in ("0.0", "0.1", "1.0")))
    shapes["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] = (2, 128)
    for prompt in ("invalid_points", "point_embeddings", "bbox_top_left_embeddings", "bbox_bottom_right_embeddings"):
        shapes[f"prompt_encoder.{prompt}.weight"] = (1, 256)
    return shapes


def convolution(name: str, outputs: int, inputs: int, side: int) -> Shapes:
    """A convolution without bias and its batch norm."""
    statistics = {f"{name}.bn.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {f"{name}.c.weight": (outputs, inputs, side, side), **statistics, f"{name}.bn.num_batches_tracked": ()}


def tiny_vit() -> Iterator[Shapes]:
    yield convolution("patch_embed.seq.0", 32, 3, 3) | convolution("patch_embed.seq.2", 64, 32, 3)
    for block in (0, 1):
        at = f"layers.0.blocks.{block}"
        yield convolution(f"{at}.conv1", 256, 64, 1) | convolution(f"{at}.conv2", 256, 1, 3)
        yield convolution(f"{at}.conv3", 64, 256, 1)
    for stage, (width, wider) in enumerate(((64, 128), (128, 160), (160, 320))):
        at = f"layers.{stage}.downsample"
        yield convolution(f"{at}.conv1", wider, width, 1) | convolution(f"{at}.conv2", wider, 1, 3)
        yield convolution(f"{at}.conv3", wider, wider, 1)
    for stage, width, depth, window in ((1, 128, 2, 7), (2, 160, 6, 14), (3, 320, 2, 7)):
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}"
            yield {f"{at}.attn.attention_biases": (width // 32, window * window)}
            yield norm(f"{at}.attn.norm", width) | layer(f"{at}.attn.qkv", 3 * width, width)
            yield layer(f"{at}.attn.proj", width, width) | convolution(f"{at}.local_conv", width, 1, 3)
            yield norm(f"{at}.mlp.norm", width)
            yield layer(f"{at}.mlp.fc1", 4 * width, width) | layer(f"{at}.mlp.fc2", width, 4 * width)
    yield norm("norm_head", 320) | layer("head", 1000, 320)


def mobile_sam_shapes() -> Shapes:
    """What is in mobile_sam.pt."""
    shapes = {f"image_encoder.{name}": shape for part in tiny_vit() for name, shape in part.items()}
    shapes |= neck(320) | two_way(("lin1", "lin2")) | heads(("layers.0", "layers.1", "layers.2"))
    shapes |= upscaling("output_upscaling.0", "output_upscaling.1", "output_upscaling.3")
    shapes["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] = (2, 128)
    for prompt in (*(f"point_embeddings.{kind}" for kind in range(4)), "not_a_point_embed", "no_mask_embed"):
        shapes[f"prompt_encoder.{prompt}.weight"] = (1, 256)
    for place, outputs, inputs, side in ((0, 4, 1, 2), (3, 16, 4, 2), (6, 256, 16, 1)):
        at = f"prompt_encoder.mask_downscaling.{place}"
        shapes |= {f"{at}.weight": (outputs, inputs, side, side), f"{at}.bias": (outputs,)}
    shapes |= norm("prompt_encoder.mask_downscaling.1", 4) | norm("prompt_encoder.mask_downscaling.4", 16)
    return shapes


def random_state(shapes: Shapes, seed: int = 0) -> State:
    """Values that keep a deep network's signal alive, and none of them where it could hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = 1 + 0.3 * value.abs()
        elif len(shape) > 1 and "biases" not in name and not name.startswith(("prompt_encoder.", *TOKENS)):
            state[name] = value / math.sqrt(max(1, math.prod(shape[1:])))
        elif name.endswith(".weight") and len(shape) == 1:
            state[name] = 1 + 0.2 * value
        else:
            state[name] = 0.3 * value
    return state


def write(state: State, path: Path, *, wrapped: bool) -> Path:
    """Save a file as its authors did; EfficientSAM's are ``wrapped`` in a dict."""
    torch.save({"model": state} if wrapped else state, path)
    return path
