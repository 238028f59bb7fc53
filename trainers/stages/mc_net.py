"""Mutual consistency of two decoders (MC-Net, Wu et al., MICCAI 2021, arXiv 2103.02911).

A second decoder, which enlarges otherwise, learns from the labels too. On all slices each has to say what the other
says when that is sharpened. Written from the behaviour of the public code (github.com/ycwu1997/MC-Net).

Shapes: B slices, K output maps, N input size in pixels.
"""

from itertools import permutations
from pathlib import Path

import torch
from torch import Tensor

from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.models.decoder_maps import BilinearDecoder, stages_and_maps
from samora_pipeline.models.samora import Network
from samora_pipeline.reproducibility import seed_everything
from samora_pipeline.slices.datasets import UnlabelledSource
from trainers.finetune_settings import FinetuneSettings
from trainers.semi_supervised_settings import MCNetSettings
from trainers.stages.semi_supervised import Mixed, SemiSupervisedTask, batch_mean


class MCNetTask(SemiSupervisedTask[MCNetSettings]):
    """The network's own decoder, of transposed convolutions, predicts; the bilinear one is thrown away.

    In the public 2-D code the one that is kept is bilinear, and the other one has transposed convolutions.
    """

    head: BilinearDecoder

    def __init__(
        self,
        run: RunConfig,
        settings: FinetuneSettings,
        network: Network,
        slices: Path,
        seed: int,
        unlabelled: UnlabelledSource,
        own: MCNetSettings,
    ) -> None:
        super().__init__(run, settings, network, slices, seed, unlabelled, own)
        seed_everything(seed, "head")
        self.head = BilinearDecoder(network)

    def losses(self, mixed: Mixed, share: float, epoch: int) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """See ``SemiSupervisedTask.losses``; the loss of labels is the sum of both decoders', nothing is detached."""
        count = mixed.labelled
        stages, maps = stages_and_maps(self._network, *mixed)
        other = self.head(maps)
        targets = mixed.targets[:count]
        loss, metrics = self.loss_of_stages(tuple(one[:count] for one in stages), targets, epoch)
        second, _ = self.loss_of_stages((other[:count],), targets, epoch)
        both = self.probabilities(stages[-1]), self.probabilities(other)
        pairs = permutations(both, 2)
        errors = [batch_mean((one - sharpened(two, self._own.temperature)).square()) for one, two in pairs]
        return loss + second, metrics, torch.stack(errors).sum()


def sharpened(probability: Tensor, temperature: float) -> Tensor:
    """Probabilities closer to 0 or 1, each class against all others; of more than two they do not sum to 1."""
    power = 1 / temperature
    own, rest = probability**power, (1 - probability) ** power
    return own / (own + rest)
