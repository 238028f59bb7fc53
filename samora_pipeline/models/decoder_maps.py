"""What a decoder of the U-Net's form sees on its way up, for whatever is trained beside it.

Such a decoder has steps ``up``, each followed by a ``join`` with the finer maps, and a 1x1 ``head``: that of ``UNet2d``
and that of fine features (``decoders.skips``).

Shapes: B batch, W channels of a resolution, N input size in pixels, K output maps.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from samora_pipeline.errors import UsageError
from samora_pipeline.models.samora import Network


class Maps(NamedTuple):
    """The lowest maps, the finer ones that are joined on the way up, and those that the head takes (B,W,N,N)."""

    lowest: Tensor
    finer: tuple[Tensor, ...]
    last: Tensor


def decoder_of(network: Network) -> Any:
    """The decoder with ``up``, ``join`` and ``head`` of a network.

    Raises:
        UsageError: ``E-MODEL-09`` it has none of this form.
    """
    for name in ("module", "decoder"):
        decoder = getattr(network, name, None)
        if all(hasattr(decoder, part) for part in ("up", "join", "head")):
            return decoder
    raise UsageError("E-MODEL-09", found=type(getattr(network, "decoder", network)).__name__)


def stages_and_maps(network: Network, images: Tensor, target: Tensor) -> tuple[tuple[Tensor, ...], Maps]:
    """``network.stages(images, target)``, and what its decoder saw meanwhile; raises what ``decoder_of`` raises."""
    decoder, seen = decoder_of(network), list[Tensor]()

    def keep(_part: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0])

    hooks = [part.register_forward_pre_hook(keep) for part in (decoder.up[0], *decoder.join, decoder.head)]
    try:
        stages = network.stages(images, target)
    finally:
        for hook in hooks:
            hook.remove()
    lowest, *joined, last = seen
    return stages, Maps(lowest, tuple(one[:, : one.shape[1] // 2] for one in joined), last)


class BilinearDecoder(nn.Module):
    """A decoder like that of ``network``, with weights of its own, that enlarges bilinearly after a 1x1 convolution."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        decoder = decoder_of(network)
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(step.in_channels, step.out_channels, 1),
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            )
            for step in decoder.up
        )
        self.join, self.head = copy.deepcopy(decoder.join), copy.deepcopy(decoder.head)
        for part in (*self.join.modules(), self.head):
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        self.requires_grad_(True)

    def forward(self, maps: Maps) -> Tensor:
        """The other decoder's maps to logits (B,K,N,N)."""
        features = maps.lowest
        for up, join, finer in zip(self.up, self.join, maps.finer, strict=True):
            features = join(torch.cat((finer, up(features)), dim=1))
        logits: Tensor = self.head(features)
        return logits
