"""Batch norm whose statistics are those of the global batch, on every device, and may be held while recomputing.

Shapes: B batch (this rank's part), C channels, any further axes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from samora_pipeline.distributed import sum_with_all_gradients, world_size
from samora_pipeline.objectives.features import at_least_single


class GlobalBatchNorm(nn.SyncBatchNorm):
    """Batch norm over the samples of all ranks, as SimCLRv2's ``global_bn``; inputs (B,C,...).

    Torch's own class does this on accelerators only. On a CPU the same arithmetic is done here, with sums in
    ``float32`` at least and a variance around the common mean. Ranks may hold different numbers of samples, or none.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that torch gives it
        """Normalise (B,C,...) and, in training, move the running statistics."""
        if self.training and world_size() > 1 and input.device.type == "cpu":
            return self._over_ranks(input)
        if world_size() == 1:
            # Also a rank that works for itself (``distributed.alone``), which torch's own class does not know of.
            return nn.modules.batchnorm._BatchNorm.forward(self, input)
        return super().forward(input)

    def _over_ranks(self, x: Tensor) -> Tensor:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        values = at_least_single(x)
        own_count = values.new_full((1,), values.numel() / max(1, values.shape[1]))
        sums = sum_with_all_gradients(torch.cat((values.sum(axes), own_count)))
        count = sums[-1].detach().clamp(min=1)
        mean = sums[:-1] / count
        centred = values - mean.view(shape)
        variance = sum_with_all_gradients(centred.square().sum(axes)) / count
        self._move_statistics(mean.detach(), variance.detach(), count)
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        return (normalised * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _move_statistics(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.num_batches_tracked is None or self.running_mean is None or self.running_var is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum or 0.0
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), share)


@contextmanager
def held_statistics(module: nn.Module) -> Iterator[None]:
    """Hold the running statistics of all batch norms in ``module``, for a forward pass that is only a repetition."""
    norms = [part for part in module.modules() if isinstance(part, GlobalBatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
