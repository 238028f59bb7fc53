"""A mask decoder for encoders with fine features, once down and then up to the input's size.

Shapes: B batch, P prompt width, g side of the embedding, N input size in pixels, K output maps.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.errors import UsageError
from samora_pipeline.models.backbones.backbone import Backbone, Features
from samora_pipeline.models.backbones.small import SmallBackbone, convolutions
from samora_pipeline.models.decoders.decoder import Decoder


class SkipDecoder(Decoder):
    """A U-Net's lowest level below the embedding, then up to logits (B,K,N,N) by transposed convolutions, each joined
    with the features of its grid. The embedding of having no mask prompt is added to the embedding, as in SAM.

    Raises:
        UsageError: ``E-MODEL-06`` a backbone whose encoder gives no features up to the input's size.
    """

    def __init__(self, backbone: Backbone, *, num_outputs: int, input_size: int) -> None:
        super().__init__()
        if not isinstance(backbone, SmallBackbone):
            raise UsageError(
                "E-MODEL-06",
                "the decoder of fine features does not go with this backbone",
                found=type(backbone).__name__,
                expected="samora_small, or another whose encoder gives features up to the input's size",
                fix=f"--set decoder={backbone.own_decoder}",
            )
        width = backbone.prompt_dim
        self.lowest = convolutions(width, 2 * width)
        finer = (2 * width, width, *reversed(backbone.stem_widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, own, 2, stride=2) for below, own in pairwise(finer))
        self.join = nn.ModuleList(convolutions(2 * own, own) for own in finer[1:])
        self.head = nn.Conv2d(finer[-1], num_outputs, 1)
        self.to(memory_format=torch.channels_last)

    @property
    def output_bias(self) -> Tensor | None:
        """See the base class."""
        return self.head.bias

    def forward(self, features: Features, positions: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
        """Decode to (B,K,N,N); positions are not used."""
        embedding = (features.embedding + dense).contiguous(memory_format=torch.channels_last)
        maps = self.lowest(functional.max_pool2d(embedding, 2))
        for up, join, skip in zip(self.up, self.join, (embedding, *reversed(features.skips)), strict=True):
            maps = join(torch.cat((skip, up(maps)), dim=1))
        logits: Tensor = self.head(maps)
        return logits
