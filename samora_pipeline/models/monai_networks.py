"""Networks of MONAI on slices (extra ``networks``), named as what they are.

Others of MONAI's, or of any library, are reached as ``package.module:Class`` (``models.module``).
"""

from collections.abc import Sequence

import torch
from monai.networks.nets.swin_unetr import SwinUNETR
from monai.networks.nets.unetr import UNETR
from torch import nn

from samora_pipeline.errors import UsageError


def unetr_2d(
    in_channels: int,
    num_outputs: int,
    input_size: int,
    feature_size: int = 16,
    hidden_size: int = 768,
    mlp_dim: int = 3072,
    num_heads: int = 12,
) -> nn.Module:
    """UNETR (Hatamizadeh et al., arXiv 2103.10504) on slices, from patches of 16 pixels; 87.3 M parameters at 224 px.

    Raises:
        UsageError: ``E-MODEL-01`` the input size is no multiple of 16.
    """
    _check(input_size, 16)
    return UNETR(
        in_channels,
        num_outputs,
        img_size=(input_size, input_size),
        feature_size=feature_size,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        num_heads=num_heads,
        spatial_dims=2,
    )


def swin_unetr_2d(
    in_channels: int,
    num_outputs: int,
    input_size: int,
    feature_size: int = 24,
    depths: Sequence[int] = (2, 2, 2, 2),
    num_heads: Sequence[int] = (3, 6, 12, 24),
) -> nn.Module:
    """Swin UNETR (Hatamizadeh et al., arXiv 2201.01266) on slices: a Swin encoder with a convolutional decoder.

    It is not Swin-Unet, whose decoder is made of Swin blocks and whose encoder starts from ImageNet.

    Raises:
        UsageError: ``E-MODEL-01`` the input size is no multiple of 32.
    """
    _check(input_size, 32)
    device = torch.get_default_device()
    # It reads values while it is built, which the device meta has none of.
    with torch.device("cpu"):
        network = SwinUNETR(
            in_channels, num_outputs, depths=depths, num_heads=num_heads, feature_size=feature_size, spatial_dims=2
        )
    return network.to(device)


def _check(input_size: int, multiple: int) -> None:
    if input_size % multiple:
        nearest = max(multiple, round(input_size / multiple) * multiple)
        raise UsageError("E-MODEL-01", found=f"{input_size} pixels", multiple=multiple, nearest=nearest)
