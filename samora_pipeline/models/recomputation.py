"""Networks whose blocks can be computed again in the backward pass, so that nothing but their inputs is kept.

Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): one more forward pass, and the same result, random numbers
and running statistics included.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from samora_pipeline.models.global_norm import held_statistics


class Recomputing(nn.Module):
    """A network that runs its blocks by ``run_block``; with ``checkpointing`` it keeps their inputs alone."""

    checkpointing: bool = False

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """Tokens or maps (B,...) through a block, which without gradients is all that happens."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return block(x)
        return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), held_statistics(block)))


def recomputes(network: nn.Module) -> bool:
    """Whether some part of a network computes its activations again."""
    return any(isinstance(part, Recomputing) and part.checkpointing for part in network.modules())


def can_recompute(network: nn.Module) -> bool:
    """Whether some part of a network keeps activations that it could compute again."""
    return any(isinstance(part, Recomputing) and not part.checkpointing for part in network.modules())


def recompute(network: nn.Module) -> None:
    """Make every part of a network that can do it compute its activations again from now on."""
    for part in network.modules():
        if isinstance(part, Recomputing):
            part.checkpointing = True


def has_batch_norm(network: nn.Module) -> bool:
    """Whether samples of a batch share statistics in a network, so that it matters which are seen together."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in network.modules())
