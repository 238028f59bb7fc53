"""The segmentation network: image encoder with experts, prompt encoder without prompts, decoder.

Shapes: B batch, C channels of a stored slice, N input size in pixels, P prompt width, g side of the embedding grid,
K output maps, n side of the output (4g for SAMed's decoder, N for H-SAM's).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.contracts.model_spec import ModelSpec, NetworkSpec
from samora_pipeline.models.backbones.backbone import Backbone, Encoder, Features
from samora_pipeline.models.branch_products import reduced_type
from samora_pipeline.models.decoders.decoder import Decoder
from samora_pipeline.models.kept import kept
from samora_pipeline.models.sam_adapter import BlockAdapters

RGB = 3


class Network(nn.Module):
    """Images (B,C,N,N), floats in [0,1], to logits; made by ``assembly.build_network``.

    ``in_channels`` is C, ``input_size`` N, ``input_shape`` (N,N), or (D,H,W) of a network on whole volumes.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.in_channels = spec.in_channels
        self.input_size = spec.input_size
        self.input_shape = spec.input_shape

    @property
    def output_bias(self) -> Tensor | None:
        """The trained bias (K,) of the logits; None where they have none of their own."""
        return None

    @torch.no_grad()
    def start_with_foreground(self, probability: float, *, regions: bool) -> None:
        """Let the foreground have this probability in every pixel; no effect without an ``output_bias``.

        With outputs of equal probability the cross-entropy of many classes falls slowly, and the Dice of small organs
        is next to zero until it has fallen. Exclusive classes share the probability, each of ``regions`` has it.
        """
        bias = self.output_bias
        if bias is None:
            return
        odds = math.log(probability / (1 - probability))
        bias.fill_(odds if regions else 0.0)
        if not regions:
            bias[0] = math.log(len(bias) - 1) - odds

    def stages(self, images: Tensor, target: Tensor | None = None) -> tuple[Tensor, ...]:
        """Segment as ``forward`` does, to all logits that the loss sees; ``forward`` gives the last or their mean.

        ``target`` (B,N,N), label values with -1 for ignored pixels, may steer noise in training (``Decoder.stages``).
        """
        return (self(images),)

    def check(self, images: Tensor) -> None:
        """Refuse images of another shape than the network was built for.

        Raises:
            ValueError: another number of channels or another size.
        """
        expected = (self.in_channels, *self.input_shape)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(f"images of shape {tuple(images.shape)} do not fit a network for (B, {expected})")


class SegmentationNetwork(Network):
    """The network around an image encoder of the SAM kind.

    The input convention is SAMed's: intensities in [0,1] go in as they are. One channel is repeated to three, three
    are taken as they are, any other number goes through a trained 1x1 convolution that starts as the mean of the
    channels. With ``block_adapters`` the encoder is SAM-Adapter's.
    """

    def __init__(
        self,
        spec: ModelSpec,
        backbone: Backbone,
        image_encoder: Encoder,
        decoder: Decoder,
        block_adapters: BlockAdapters | None,
    ) -> None:
        super().__init__(spec)
        self.backbone = backbone
        self.image_encoder = image_encoder
        self.prompt_encoder = backbone.build_prompt_encoder(spec.input_size)
        self.decoder = decoder
        self.block_adapters = block_adapters
        self.averages = spec.decoder_stages == "mean"
        mixed = spec.in_channels not in (1, RGB)
        self.adapter: nn.Module | None = _mean_of_channels(spec.in_channels) if mixed else None

    def forward(self, images: Tensor) -> Tensor:
        """Segment images (B,C,N,N), floats in [0,1], to logits (B,K,n,n), those of the spec's ``decoder_stages``.

        Raises:
            ValueError: another number of channels or another size than the network was built for.
        """
        if self.averages:
            return _mean_at_last_size(self.stages(images))
        return self.decoder(self.embed(images), *self._no_prompts())

    def stages(self, images: Tensor, target: Tensor | None = None) -> tuple[Tensor, ...]:
        """Segment as ``forward`` does, to the logits of every stage of the decoder, from first to last."""
        return self.decoder.stages(self.embed(images), *self._no_prompts(), target)

    @property
    def output_bias(self) -> Tensor | None:
        """See the base class."""
        return self.decoder.output_bias

    def embed(self, images: Tensor) -> Features:
        """Encode images (B,C,N,N) to an embedding (B,P,g,g) and, where the backbone has them, finer features."""
        rgb = self.to_rgb(images)
        if self.block_adapters is None:
            return self.image_encoder(rgb)
        additions = self.block_adapters(rgb, self.image_encoder.get_submodule("patch_embed")(rgb))
        return self.image_encoder(rgb, additions=additions)

    def _no_prompts(self) -> tuple[Tensor, Tensor, Tensor]:
        """The encoding of positions (1,P,g,g), no sparse prompts (1,0,P) and the dense no-mask prompt (1,P,g,g)."""
        sparse, dense = self.prompt_encoder(points=None, boxes=None, masks=None)
        frequencies = list(self.prompt_encoder.buffers())
        positions = kept(
            self.prompt_encoder, "positions", frequencies, self.prompt_encoder.get_dense_pe, reduced_type(dense)
        )
        return positions, sparse, dense

    def to_rgb(self, images: Tensor) -> Tensor:
        """Images (B,C,N,N) to what the encoder takes, (B,3,N,N)."""
        self.check(images)
        if self.adapter is not None:
            return self.adapter(images)
        return images.expand(-1, RGB, -1, -1)


def _mean_at_last_size(stages: tuple[Tensor, ...]) -> Tensor:
    """The mean of logits (B,K,.,.) at the size of the last, the others interpolated (as H-SAM's test script does)."""
    size = stages[-1].shape[-2:]
    exact = [one.to(torch.promote_types(one.dtype, torch.float32)) for one in stages]
    resized = [functional.interpolate(one, size, mode="bilinear", align_corners=False) for one in exact]
    return torch.stack(resized).mean(0)


def _mean_of_channels(in_channels: int) -> nn.Conv2d:
    adapter = nn.Conv2d(in_channels, RGB, kernel_size=1, bias=False)
    nn.init.constant_(adapter.weight, 1 / in_channels)
    return adapter
