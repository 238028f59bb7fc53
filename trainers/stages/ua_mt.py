"""Uncertainty-aware mean teacher (UA-MT, Yu et al., MICCAI 2019, arXiv 1907.07034).

An average of the network sees slices without labels under noise. The network follows it where several passes of the
average agree. Written from the behaviour of the public code (github.com/yulequan/UA-MT, without its extra labels).

Shapes: B slices without labels, K output maps, N input size in pixels.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from samora_pipeline.batch_parts import normal_like
from samora_pipeline.models.shared_dropout import SharedDropout
from trainers.consistency_settings import ConsistencySettings
from trainers.loop.loop import Training
from trainers.semi_supervised_settings import UAMTSettings
from trainers.stages.consistency import Average
from trainers.stages.semi_supervised import Mixed, SemiSupervisedTask, batch_mean

_SMALLEST = 1e-6
"""added to a probability before its logarithm"""


class UAMTTask(SemiSupervisedTask[UAMTSettings]):
    """The average, in training with its dropout, is the target; gradients go through the network alone."""

    def training(self) -> Training:
        """See ``LabelledTask.training``; the average starts as a copy of the network as it is now."""
        training = super().training()
        self.average = Average(self._network, ConsistencySettings(decay=self._own.decay))
        for part in self.average.network.modules():
            if isinstance(part, SharedDropout | nn.modules.dropout._DropoutNd):
                part.train()
        return replace(training, carried=self.average.tensors, after_step=self.average.after_step)

    def losses(self, mixed: Mixed, share: float, epoch: int) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """See ``SemiSupervisedTask.losses``; the squared difference is a mean over pixels that count, and classes."""
        count = mixed.labelled
        stages = self._network.stages(*mixed)
        loss, metrics = self.loss_of_stages(tuple(one[:count] for one in stages), mixed.targets[:count], epoch)
        target, certain = self.target(mixed.images[count:], share)
        squared = (self.probabilities(stages[-1][count:]) - target).square().mean(1)
        metrics |= {"certain": batch_mean(certain.float())}
        return loss, metrics, batch_mean(squared, certain)

    @torch.no_grad()
    def target(self, images: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """What the average says about images (B,C,N,N): (B,K,N,N), and where it is certain enough: (B,N,N).

        The public code keeps ln 2 as the largest entropy; here it is that of as many classes as there are.
        """
        own = self._own
        target = self.probabilities(self.average.network(self._noisy(images)))
        sums = torch.zeros_like(target)
        # In pairs, so that batch norms see as many slices as there.
        for _ in range(own.passes // 2):
            pair = torch.cat((self._noisy(images), self._noisy(images)))
            sums += sum(self.probabilities(self.average.network(pair)).chunk(2))
        mean = sums / (own.passes // 2 * 2)
        entropy = -(mean * (mean + _SMALLEST).log()).sum(1)
        level = own.first + (own.last - own.first) * own.rise(share)
        return target, entropy < level * math.log(target.shape[1])

    def _noisy(self, images: Tensor) -> Tensor:
        limit = self._own.largest_noise
        return images + (normal_like(images) * self._own.noise).clamp(-limit, limit)
