"""Stage 2 with slices without labels: an averaged network guesses them, and boxes are exchanged with labelled slices.

Bidirectional copy-paste (BCP, Bai et al., CVPR 2023, arXiv 2305.00673): a box of each slice without labels is pasted
into a labelled one, and the other way round. Inside and outside of the box the network learns from the labels and from
what an average of its own weights (mean teacher, arXiv 1703.01780) says about the slice before it is mixed, where that
is confident (as in FixMatch and UniMatch). Intensities of mixed slices are varied strongly.

Shapes: B batch (this rank's part), C channels, N input size in pixels, U unmixed slices, K output maps.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.contracts.random_steps import Range
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.distributed import sum_over_ranks
from samora_pipeline.errors import DataError
from samora_pipeline.inference.postprocessing import keep_largest
from samora_pipeline.models.samora import Network
from samora_pipeline.objectives.segmentation import IGNORED
from samora_pipeline.slices.augmentation import apply_geometry, draw_augmentation
from samora_pipeline.slices.datasets import UnlabelledSource
from samora_pipeline.slices.intensities import apply_intensities, draw_intensities
from samora_pipeline.slices.views import between, draw_uniform
from trainers.consistency_settings import ConsistencySettings
from trainers.finetune_settings import FinetuneSettings
from trainers.loop.loading import Batch
from trainers.loop.loop import Training
from trainers.semi_supervised_settings import CutMixSettings
from trainers.stages.labelled import LabelledTask
from trainers.stages.partners import draw_partners
from trainers.stages.stage import full_precision

GUESSED, TRUE = "guessed_foreground", "true_foreground"


class ConsistencyTask(LabelledTask):
    """The labelled task, and from ``ConsistencySettings.start`` on its mixture with slices without labels.

    Each labelled slice of a step has a partner among ``unlabelled``, drawn by the name of the slice and the epoch.
    """

    def __init__(
        self,
        run: RunConfig,
        settings: FinetuneSettings,
        network: Network,
        slices: Path,
        seed: int,
        unlabelled: UnlabelledSource,
        own: ConsistencySettings,
    ) -> None:
        super().__init__(run, settings, network, slices, seed)
        self._own = own
        self._unlabelled, self._region_order = unlabelled, run.labels.region_order
        # What the network guesses are class indices, with regions label values.
        self._values = tuple(dict.fromkeys(run.labels.region_order)) or range(1, run.labels.num_outputs)

    def training(self) -> Training:
        """See ``LabelledTask.training``; the average starts as a copy of the network as it is now."""
        training = super().training()
        self._average = Average(self._network, self._own)
        return replace(training, carried=self._average.tensors, after_step=self._average.after_step)

    def weight(self, epoch: int) -> float:
        """The weight of guessed labels in an epoch, from 0."""
        return self._own.weight_at(epoch / self._settings.epochs)

    def load(self, indices: list[int], epoch: int) -> Batch:
        """What the labelled task has, and once guessed labels weigh something: partners (B,C,N,N) and boxes (B,N,N)."""
        batch = super().load(indices, epoch)
        if self.weight(epoch) == 0:
            return batch
        keys, drawn = self.source.keys(indices), {"seed": self._seed, "epoch": epoch}
        partners, pairs = draw_partners(keys, self._unlabelled, "partner", **drawn)
        if isinstance(self._own, CutMixSettings):
            batch |= self._others_of(keys, epoch)
        ways = [f"{pair} {way}" for way in ("inward", "outward") for pair in pairs]
        return batch | {
            "partners": self._unlabelled.images(partners),
            "moves": draw_augmentation(pairs, self._input_size, self._settings.augmentation, self._flips, **drawn),
            "unmixed": draw_uniform(keys, 1, "unmixed", **drawn)[:, 0] < self._own.unmixed,
            "boxes": draw_boxes(keys, self._input_size, self._own.box, **drawn),
            "strong": draw_intensities(ways, self._own.strong, purpose="strong", **drawn),
        }

    def _others_of(self, keys: Sequence[str], epoch: int) -> Batch:
        """For partners to exchange boxes with: more slices without labels, and their own boxes and intensities."""
        drawn = {"seed": self._seed, "epoch": epoch}
        seconds, pairs = draw_partners(keys, self._unlabelled, "second", **drawn)
        return {
            "seconds": self._unlabelled.images(seconds),
            "second_moves": draw_augmentation(
                pairs, self._input_size, self._settings.augmentation, self._flips, **drawn
            ),
            "second_boxes": draw_boxes(pairs, self._input_size, self._own.box, **drawn),
            "second_strong": draw_intensities(pairs, self._own.strong, purpose="strong", **drawn),
        }

    def loss(self, batch: Batch, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of pixels with labels plus ``weight`` times that of pixels with guessed ones.

        Both are the loss of ``LabelledTask`` on the same logits; in each the pixels of the other are ignored. Metrics
        are those of the pixels with labels, the loss of the guessed ones, and the share of foreground in both.
        """
        if "partners" not in batch:
            return super().loss(batch, epoch)
        with full_precision(batch["images"]):
            images, targets = apply_geometry(batch["images"], batch["targets"], batch["drawn"])
            others, _ = apply_geometry(batch["partners"], None, batch["moves"])
            plain = apply_intensities(images, batch["drawn"].intensities)[batch["unmixed"]]
            mixed = apply_intensities(exchange(images, others, batch["boxes"]), batch["strong"])
        guess, trusted, sure = self._sure(others)
        ignored = torch.full_like(guess, IGNORED)
        labels = torch.cat((targets[batch["unmixed"]], exchange(targets, ignored, batch["boxes"])))
        guesses = torch.cat((ignored[batch["unmixed"]], exchange(ignored, sure, batch["boxes"])))
        images = torch.cat((plain, mixed))
        if "seconds" in batch:
            between, guessed = self._between(batch, others, sure)
            images, guesses = torch.cat((images, between)), torch.cat((guesses, guessed))
            labels = torch.cat((labels, ignored))
        stages = self._network.stages(images, torch.maximum(labels, guesses))
        loss, metrics = self.loss_of_stages(stages, labels, epoch)
        guessed, _ = self.loss_of_stages(stages, guesses, epoch)
        metrics |= {"guessed_loss": guessed.detach(), "trusted": share(trusted, torch.ones_like(trusted))}
        metrics |= {GUESSED: share(guess > 0, guess >= 0), TRUE: share(targets > 0, targets >= 0)}
        return loss + self.weight(epoch) * guessed, metrics

    def _sure(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Guessed labels (B,N,N) of images, where they are trusted, and the guesses with all others ignored."""
        guess, trusted = self._guess(images)
        if self._own.largest:
            guess = largest_components(guess, self._values)
        return guess, trusted, torch.where(trusted, guess, torch.full_like(guess, IGNORED))

    def _between(self, batch: Batch, others: Tensor, sure: Tensor) -> tuple[Tensor, Tensor]:
        """Slices without labels (B,C,N,N) with boxes of others, and what is guessed of both (B,N,N)."""
        boxes = batch["second_boxes"]
        with full_precision(others):
            seconds, _ = apply_geometry(batch["seconds"], None, batch["second_moves"])
            mixed = apply_intensities(exchange(others, seconds, boxes)[: len(others)], batch["second_strong"])
        return mixed, exchange(sure, self._sure(seconds)[2], boxes)[: len(others)]

    @torch.no_grad()
    def _guess(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the average sees in images (B,C,N,N): label values (B,N,N), and where it is confident of them."""
        logits = self._average.network(images).float()
        logits = functional.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
        if self._regions is None:
            sure, labels = logits.softmax(1).max(1)
            return labels, sure > self._own.confidence
        probabilities = logits.sigmoid()
        labels = torch.zeros_like(logits[:, 0], dtype=torch.int64)
        for probability, value in zip(probabilities.unbind(1), self._region_order, strict=True):
            labels[probability > 0.5] = value
        return labels, torch.maximum(probabilities, 1 - probabilities).amin(1) > self._own.confidence


class Average:
    """The moving average of what is trained in a network; what is frozen is shared with it, buffers are copied.

    ``network`` is in evaluation, but for its batch norms, which use the statistics of what they see and move none: the
    running ones are those of the network itself, and averaged weights under them saw nothing but background
    (decision 124). ``tensors`` are all that changes, by name.
    """

    def __init__(self, network: Network, settings: ConsistencySettings) -> None:
        self._settings = settings
        frozen = {id(parameter): parameter for parameter in network.parameters() if not parameter.requires_grad}
        self.network = copy.deepcopy(network, frozen).eval().requires_grad_(False)
        for part in self.network.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.train()
                part.momentum = 0.0
        trained = [name for name, source in network.named_parameters() if source.requires_grad]
        own, theirs = (dict(one.named_parameters()) for one in (self.network, network))
        self._parameters: list[tuple[Tensor, Tensor]] = [(own[name], theirs[name]) for name in trained]
        self._buffers = list(zip(self.network.buffers(), network.buffers(), strict=True))
        self._rare = torch.zeros((), dtype=torch.int64)
        self.tensors: dict[str, Tensor] = {name: own[name] for name in trained}
        self.tensors |= {**dict(self.network.named_buffers()), "rare_steps": self._rare}

    @torch.no_grad()
    def after_step(self, step: int, values: Mapping[str, float]) -> None:
        """Follow the network after its step number ``step``, from 1, and watch the foreground of guessed labels.

        Raises:
            DataError: ``E-TRAIN-03`` there was next to none for too long.
        """
        share_of_new = 1 - min(self._settings.decay, 1 - 1 / (step + 1))
        for mean, now in self._parameters:
            mean.lerp_(now, share_of_new)
        for mean, now in self._buffers:
            mean.copy_(now)
        if GUESSED not in values:
            return
        rare = values[GUESSED] < self._settings.rare * values[TRUE]
        self._rare.copy_(self._rare + 1 if rare else torch.zeros_like(self._rare))
        if self._rare >= self._settings.patience:
            found = f"{values[GUESSED]:.2%} foreground in guessed labels, {values[TRUE]:.2%} in true ones"
            raise DataError("E-TRAIN-03", found=f"{found}, and {self._rare} steps in a row with so little")


def draw_boxes(keys: Sequence[str], size: int, sides: Range, *, seed: int, epoch: int) -> Tensor:
    """Draw one box for each slice of ``size`` (N) pixels, inside of it: (B,N,N), true in the box.

    ``sides``: lowest and highest height and width as shares of the side, drawn apart.
    """
    extent = torch.arange(size)
    uniform = draw_uniform(keys, 4, "box", seed=seed, epoch=epoch)
    lengths = (between(uniform[:, :2], sides) * size).long().clamp(1, size)
    first = (uniform[:, 2:] * (size - lengths + 1)).long()
    inside = (extent >= first[..., None]) & (extent < (first + lengths)[..., None])
    return inside[:, 0, :, None] & inside[:, 1, None, :]


def largest_components(labels: Tensor, values: Iterable[int]) -> Tensor:
    """Labels (B,N,N) in which of each of ``values`` only the largest component of a slice is left; 0 instead."""
    slices = labels.cpu().numpy().astype(np.uint8)
    for value in values:
        slices = np.stack([keep_largest(one, [value]) for one in slices])
    return torch.from_numpy(slices.astype(np.int64)).to(labels.device)


def exchange(own: Tensor, other: Tensor, boxes: Tensor) -> Tensor:
    """Exchange boxes (B,N,N) of two batches (B,...,N,N): own with boxes of other, then other with boxes of own."""
    inside = boxes if own.ndim == boxes.ndim else boxes[:, None]
    return torch.cat((torch.where(inside, other, own), torch.where(inside, own, other)))


def share(some: Tensor, every: Tensor) -> Tensor:
    """Which part of ``every`` (bool) is in ``some`` (bool), over all ranks."""
    counts = sum_over_ranks(torch.stack((some.sum(), every.sum())).float())
    return counts[0] / counts[1].clamp(min=1)
