"""What a decoder is.

Shapes: B batch, P prompt width, g side of the embedding grid, K output maps, n side of the output.
"""

from abc import abstractmethod
from typing import Protocol

from torch import Tensor, nn

from samora_pipeline.models.backbones.backbone import Backbone, Features


class Decoder(nn.Module):
    """From features to output maps."""

    @property
    def frozen(self) -> tuple[nn.Module, ...]:
        """What of it stays as it is, whoever trains the rest."""
        return ()

    def public_names(self) -> dict[str, str]:
        """Names in SAM's public layout (``mask_decoder.``...) of its tensors that public weights are read into.

        The values are its own names for them. A decoder that starts at random everywhere has none.
        """
        return {}

    @property
    def output_bias(self) -> Tensor | None:
        """The trained bias (K,) of the output maps, where they have one."""
        return None

    @abstractmethod
    def forward(self, features: Features, positions: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
        """Decode to logits (B,K,n,n).

        Args:
            features: the embedding (B,P,g,g) of the image encoder, and its finer features where it has any.
            positions: (1,P,g,g), the encoding of the grid's positions.
            sparse: (1,0,P), no point or box prompts.
            dense: (1,P,g,g), the embedding of having no mask prompt.
        """

    def stages(
        self, features: Features, positions: Tensor, sparse: Tensor, dense: Tensor, target: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Decode to the logits of every stage that the loss sees, from first to last; ``forward`` gives the last.

        ``target`` (B,N,N), label values with -1 for ignored pixels, may steer a decoder's noise in training; it
        never changes what a decoder in evaluation mode returns.
        """
        return (self.forward(features, positions, sparse, dense),)


class DecoderFactory(Protocol):
    """Makes a decoder; a subclass of Decoder with this constructor is one."""

    def __call__(self, backbone: Backbone, *, num_outputs: int, input_size: int) -> Decoder:
        """``num_outputs`` is K; ``input_size`` the side of the network's input in pixels."""
