"""The segmentation network: image encoder with experts, prompt encoder without prompts, decoder.

Shapes: B batch, C channels of a stored slice, N input size in pixels, P prompt width, g side of the embedding grid,
K output maps, n side of the output (4g for SAMed's decoder).
"""

from __future__ import annotations

from segment_anything.modeling import PromptEncoder
from torch import Tensor, nn

from samora_pipeline.models.backbones.backbone import Encoder, Features
from samora_pipeline.models.decoders.decoder import Decoder

RGB = 3


class SegmentationNetwork(nn.Module):
    """Images to logits; made by ``assembly.build_network``.

    The input convention is SAMed's: intensities in [0,1] go in as they are. One channel is repeated to three, three
    are taken as they are, any other number goes through a trained 1x1 convolution that starts as the mean of the
    channels.
    """

    def __init__(
        self,
        image_encoder: Encoder,
        prompt_encoder: PromptEncoder,
        decoder: Decoder,
        *,
        in_channels: int,
        input_size: int,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.input_size = input_size
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.decoder = decoder
        self.adapter: nn.Module | None = None if in_channels in (1, RGB) else _mean_of_channels(in_channels)

    def forward(self, images: Tensor) -> Tensor:
        """Segment images (B,C,N,N), floats in [0,1], to logits (B,K,n,n).

        Raises:
            ValueError: another number of channels or another size than the network was built for.
        """
        sparse, dense = self.prompt_encoder(points=None, boxes=None, masks=None)
        positions = self.prompt_encoder.get_dense_pe()
        logits: Tensor = self.decoder(self.embed(images), positions, sparse, dense)
        return logits

    def embed(self, images: Tensor) -> Features:
        """Encode images (B,C,N,N) to an embedding (B,P,g,g) and, where the backbone has them, finer features."""
        features: Features = self.image_encoder(self.to_rgb(images))
        return features

    def to_rgb(self, images: Tensor) -> Tensor:
        """Images (B,C,N,N) to what the encoder takes, (B,3,N,N)."""
        expected = (self.in_channels, self.input_size, self.input_size)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(f"images of shape {tuple(images.shape)} do not fit a network for (B, {expected})")
        if self.adapter is not None:
            adapted: Tensor = self.adapter(images)
            return adapted
        return images.expand(-1, RGB, -1, -1)


def _mean_of_channels(in_channels: int) -> nn.Conv2d:
    adapter = nn.Conv2d(in_channels, RGB, kernel_size=1, bias=False)
    nn.init.constant_(adapter.weight, 1 / in_channels)
    return adapter
