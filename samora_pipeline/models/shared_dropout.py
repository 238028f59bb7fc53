"""Dropout that a batch sees as a whole, however many parts it is worked on in."""

from torch import Tensor, nn

from samora_pipeline.batch_parts import dropout


class SharedDropout(nn.Module):
    """As ``nn.Dropout``, by ``batch_parts.dropout``: the size of a part changes no draw."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """(B,...) with a ``share`` of the entries dropped in training."""
        return dropout(x, self.share) if self.training else x
