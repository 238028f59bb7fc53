"""Smoothness and class separation (SS-Net, Wu et al., MICCAI 2022, arXiv 2208.09278).

Slices that are changed so that the prediction changes most have to look the same (virtual adversarial training), and
features of a class have to resemble remembered ones of labelled slices. Written from the behaviour of the public code
(github.com/ycwu1997/SS-Net), which weighs remembered features alike, remembers those that score lowest, and never the
background's.

Shapes: B slices of either kind, K output maps, N input size in pixels, P pixels of a slice, W channels of the last
maps, M features that are remembered of a class, F their width.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline import batch_parts
from samora_pipeline.batch_parts import normal_like
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.distributed import gather_over_ranks, sum_over_ranks
from samora_pipeline.models.decoder_maps import decoder_of, stages_and_maps
from samora_pipeline.models.global_norm import GlobalBatchNorm, held_statistics
from samora_pipeline.models.samora import Network
from samora_pipeline.reproducibility import seed_everything
from samora_pipeline.slices.datasets import UnlabelledSource
from samora_pipeline.slices.views import draw_uniform
from trainers.finetune_settings import FinetuneSettings
from trainers.loop.loading import Batch
from trainers.loop.loop import Training
from trainers.semi_supervised_settings import SSNetSettings
from trainers.stages.semi_supervised import Mixed, SemiSupervisedTask

_WIDTH = 32
_SMOOTH = 1e-10


class Separation(nn.Module):
    """What is trained beside the network: projection, prediction, and a score of features for each class."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.project, self.predict = _layers(width, _WIDTH, nn.ReLU()), _layers(_WIDTH, _WIDTH, nn.ReLU())
        self.scores = nn.ModuleList(_layers(_WIDTH, 1, nn.LeakyReLU(0.2)) for _ in range(classes))


class SSNetTask(SemiSupervisedTask[SSNetSettings]):
    """What is remembered belongs to the state of the training; a step compares with what earlier ones have left."""

    head: Separation

    def __init__(
        self,
        run: RunConfig,
        settings: FinetuneSettings,
        network: Network,
        slices: Path,
        seed: int,
        unlabelled: UnlabelledSource,
        own: SSNetSettings,
    ) -> None:
        super().__init__(run, settings, network, slices, seed, unlabelled, own)
        self._classes = run.model.num_outputs
        seed_everything(seed, "head")
        self.head = Separation(decoder_of(network).head.in_channels, self._classes)
        self._found: list[tuple[Tensor, Tensor]] = []

    def training(self) -> Training:
        """See ``LabelledTask.training``; nothing is remembered yet."""
        training = super().training()
        device = next(self._network.parameters()).device
        self.memory = torch.zeros(self._classes, self._own.memory, _WIDTH, device=device)
        self.remembered = torch.zeros(self._classes, dtype=torch.int64, device=device)
        self._found = []
        carried = {"memory": self.memory, "remembered": self.remembered}
        return replace(training, carried=carried, after_step=self.after_step)

    def load(self, indices: list[int], epoch: int) -> Batch:
        """See ``SemiSupervisedTask.load``; also the pixels (2B,P) that are compared, as shares of a slice."""
        keys = self.source.keys(indices)
        drawn = [
            draw_uniform(keys, self._own.pixels, purpose, seed=self._seed, epoch=epoch)
            for purpose in ("pixels", "other pixels")
        ]
        return super().load(indices, epoch) | {"pixels": torch.cat(drawn)}

    def loss(self, batch: Batch, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``SemiSupervisedTask.loss``."""
        self._pixels = (batch["pixels"].double() * self._input_size**2).long().clamp(max=self._input_size**2 - 1)
        return super().loss(batch, epoch)

    def losses(self, mixed: Mixed, share: float, epoch: int) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """See ``SemiSupervisedTask.losses``."""
        count = mixed.labelled
        stages, maps = stages_and_maps(self._network, *mixed)
        loss, metrics = self.loss_of_stages(tuple(one[:count] for one in stages), mixed.targets[:count], epoch)
        probability = self.probabilities(stages[-1]).detach()
        smoothness = self._smoothness(mixed.images, probability)
        guess = self._at_pixels(probability.argmax(1, keepdim=True)).flatten(1)
        truth = self._at_pixels(mixed.targets[:, None]).flatten(1)
        features = self._at_pixels(maps.last).float()
        if torch.is_grad_enabled():
            batch = batch_parts.current()
            if batch is None or batch.number == 0:
                self._found = []
            self._found.append(self._candidates(features[:count], guess[:count], truth[:count]))
        described = self.head.predict(self.head.project(features.flatten(0, 1))).view(*guess.shape, _WIDTH)
        separation = self._contrast(described[:count], truth[:count]) + self._contrast(described[count:], guess[count:])
        metrics |= {"smoothness_loss": smoothness.detach(), "separation_loss": separation.detach()}
        return loss, metrics, smoothness + self._own.separation * separation

    @torch.no_grad()
    def after_step(self, step: int, values: Mapping[str, float]) -> None:
        """Remember of each class that was found those features of the step, over all ranks, that score lowest."""
        parts, self._found = self._found, []
        scores, features = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        # Ranks behind each other along the candidates, which are axis 1.
        scores, features = (gather_over_ranks(part.transpose(0, 1)).transpose(0, 1) for part in (scores, features))
        lowest, order = scores.sort(1)
        kept = lowest[:, : self._own.memory].isfinite().sum(1)
        for label in range(1, self._classes):
            if kept[label] > 0:
                chosen = features[label, order[label, : self._own.memory]]
                self.memory[label] = functional.pad(chosen, (0, 0, 0, self._own.memory - len(chosen)))
                self.remembered[label] = kept[label]

    @torch.no_grad()
    def _candidates(self, features: Tensor, guess: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """For each class its lowest scores (K,M) and their features (K,M,F), of labelled pixels seen as what they are.

        Scores are infinite where a class has fewer. The networks beside the network are in evaluation for this.
        """
        self.head.eval()
        projected = self.head.project(features.flatten(0, 1))
        right = ((guess == truth) & (truth > 0)).flatten() & projected.isfinite().all(1)
        lowest = []
        for label, score in enumerate(self.head.scores):
            own = score(projected)[:, 0].sigmoid()
            own = torch.where(right & (truth.flatten() == label), own, torch.full_like(own, torch.inf))
            lowest.append(own.topk(min(self._own.memory, len(own)), largest=False, sorted=True))
        self.head.train()
        return torch.stack([one.values for one in lowest]), torch.stack([projected[one.indices] for one in lowest])

    def _contrast(self, described: Tensor, labels: Tensor) -> Tensor:
        """How far features (B,P,F) are from those remembered of their class: a mean of 1 - cosine, weighed by scores.

        A class of which nothing is remembered has 0, and counts among the classes.
        """
        rows, named = described.flatten(0, 1), labels.flatten()
        above, below = [], []
        for label, score in enumerate(self.head.scores):
            weight = score(rows.detach())[:, 0].sigmoid() * (named == label)
            kept = self.memory[label, : int(self.remembered[label])]
            distance = 1 - functional.normalize(rows, dim=1) @ functional.normalize(kept, dim=1).T
            far = distance.mean(1) if len(kept) else distance.sum(1)
            above.append((weight * far).sum())
            below.append(weight.sum())
        sums = sum_over_ranks(torch.stack((*above, *below))).view(2, -1)
        return (sums[0] / sums[1].clamp(min=_SMOOTH)).mean()

    def _smoothness(self, images: Tensor, probability: Tensor) -> Tensor:
        """The Dice loss of the adversarially changed slices (2B,C,N,N) against ``probability`` (2B,K,N,N) before."""
        half = len(images) // 2
        normal = torch.cat((normal_like(images[:half]), normal_like(images[half:])))
        # Uniform numbers from -1/2 to 1/2, by the draw that all parts of a batch share.
        change = _unit(torch.special.ndtr(normal) - 0.5).requires_grad_()
        with held_statistics(self._network):
            with torch.enable_grad():
                seen = self.probabilities(self._network.stages(images + self._own.search * change)[-1])
                (slope,) = torch.autograd.grad(_soft_dice(seen, probability), change)
            seen = self.probabilities(self._network.stages(images + self._own.reach * _unit(slope))[-1])
        return _soft_dice(seen, probability)

    def _at_pixels(self, maps: Tensor) -> Tensor:
        """Maps (2B,W,N,N) at the pixels of the step: (2B,P,W)."""
        places = self._pixels[:, None].expand(-1, maps.shape[1], -1)
        return maps.flatten(2).gather(2, places).mT


def _soft_dice(one: Tensor, other: Tensor) -> Tensor:
    """1 - Dice of probabilities (B,K,N,N) over the global batch, the mean over all classes."""
    axes = (0, 2, 3)
    sums = torch.stack(((one * other).sum(axes), one.square().sum(axes), other.square().sum(axes)))
    overlap, first, second = sum_over_ranks(sums)
    loss: Tensor = (1 - (2 * overlap + _SMOOTH) / (first + second + _SMOOTH)).mean()
    return loss


def _unit(change: Tensor) -> Tensor:
    """Changes (B,C,N,N) of length 1 for each slice."""
    return functional.normalize(change.detach().flatten(1), dim=1, eps=1e-8).view_as(change)


def _layers(inputs: int, outputs: int, between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, _WIDTH), GlobalBatchNorm(_WIDTH), between, nn.Linear(_WIDTH, outputs))
