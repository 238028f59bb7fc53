"""The objective of stage 2: augmented labelled slices and the loss of Eq. 9 on every stage of the decoder."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.models.freezing import Part, parameters_by_part
from samora_pipeline.models.fusions.fusion import EpochContext, before_epoch
from samora_pipeline.models.recomputation import can_recompute, has_batch_norm, recompute
from samora_pipeline.models.reduced_weights import ReducedWeights
from samora_pipeline.models.samora import Network
from samora_pipeline.objectives.segmentation import SegmentationTerms, low_resolution, segmentation_loss, stage_weights
from samora_pipeline.optimization.optimizers import adamw, parameter_groups, warmup_cosine, warmup_polynomial
from samora_pipeline.slices.augmentation import allowed_flips, apply_augmentation, draw_augmentation
from samora_pipeline.slices.datasets import EpochOrder, LabelledSource, SliceSource, labelled_ids
from samora_pipeline.transfers import to_device
from trainers.finetune_settings import FinetuneSettings
from trainers.loop.loading import Batch
from trainers.loop.loop import Training
from trainers.settings import FINETUNE
from trainers.stages.stage import full_precision


class LabelledTask:
    """Labelled slices, augmented as in appendix A.3, and the loss of Eq. 9 on every stage of the decoder."""

    def __init__(self, run: RunConfig, settings: FinetuneSettings, network: Network, slices: Path, seed: int) -> None:
        self._network, self._plans, self._settings, self._seed = network, run.plans, settings, seed
        self._input_size = run.model.input_size
        self.source = self.read(run, slices)
        self._regions = torch.from_numpy(run.labels.region_masks()) if run.labels.regions else None
        self._flips = allowed_flips(run.plans)
        # What is trained beside the network, and thrown away.
        self.head: nn.Module | None = None

    def read(self, run: RunConfig, slices: Path) -> LabelledSource:
        """What is learned from, of the cases stored in the folder ``slices``."""
        ids = labelled_ids(run.selection, slices)
        return SliceSource(slices, ids, run.plans, self._input_size, run.labels, neighbours=run.model.neighbours)

    def training(self) -> Training:
        """Describe the training for the loop."""
        settings, network = self._settings, self._network
        order = EpochOrder(len(self.source), settings.batch, self._seed)
        steps = len(_batches(order, settings, 0))
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        buffers = dict(network.named_buffers())
        networks: list[nn.Module] = [network]
        if self.head is not None:
            trained |= {f"head.{name}": parameter for name, parameter in self.head.named_parameters()}
            buffers |= {f"head.{name}": buffer for name, buffer in self.head.named_buffers()}
            networks.append(self.head)
        parts = parameters_by_part(network)
        groups = parameter_groups(
            trained.values(),
            settings.weight_decay,
            experts=parts[Part.EXPERTS].values(),
            fusion=parts[Part.FUSION].values(),
            fusion_rate=settings.fusion_rate,
            decay_all=settings.decay == "all",
        )
        return Training(
            stage=FINETUNE,
            parameters=trained,
            buffers=buffers,
            optimizer=adamw(groups, betas=settings.betas),
            learning_rate=_schedule(settings, steps),
            batches=partial(_batches, order, settings),
            load=self.load,
            loss=self.loss,
            epochs=settings.epochs,
            micro_batch=settings.micro_batch,
            coupled=True,
            norm_batch=(settings.norm_batch or settings.batch) if has_batch_norm(network) else None,
            recompute=partial(recompute, network) if can_recompute(network) else None,
            clip_norm=settings.clip_norm,
            before_epoch=self.before_epoch,
            names=self.source.keys,
            weights=ReducedWeights(networks),
        )

    def before_epoch(self, epoch: int) -> None:
        """What a fusion does between epochs, such as LoRAHub's search for the weights of the experts."""
        device = next(self._network.parameters()).device

        def loss(indices: list[int]) -> Tensor:
            images, targets = (
                to_device(part, device) for part in (self.source.images(indices), self.source.targets(indices))
            )
            return self.loss_of(images, targets, epoch)[0]

        before_epoch(
            self._network,
            EpochContext(
                epoch=epoch,
                epochs=self._settings.epochs,
                loss=loss,
                slices=len(self.source),
                micro_batch=self._settings.micro_batch or self._settings.batch,
                seed=self._seed,
            ),
        )

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Images (B,C,N,N), targets (B,N,N) and the parameters of their augmentation."""
        drawn = draw_augmentation(
            self.source.keys(indices),
            self._input_size,
            self._settings.augmentation,
            self._flips,
            seed=self._seed,
            epoch=epoch,
        )
        return {"images": self.source.images(indices), "targets": self.source.targets(indices), "drawn": drawn}

    def loss(self, batch: Batch, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """0.2 cross-entropy + 0.8 Dice of the global batch.

        Each stage of the decoder has both terms, weighed by ``stage_weights``, and its own loss among the metrics.
        """
        with full_precision(batch["images"]):
            images, targets = apply_augmentation(batch["images"], batch["targets"], batch["drawn"])
        return self.loss_of(images, targets, epoch)

    def loss_of(self, images: Tensor, targets: Tensor, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of images (B,C,N,N) and targets (B,N,N) as they are, and its metrics."""
        return self.loss_of_stages(self._network.stages(images, targets), targets, epoch)

    def loss_of_stages(
        self, stages: tuple[Tensor, ...], targets: Tensor, epoch: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the logits (B,K,h,w) of every stage of the decoder against targets (B,N,N), and its metrics."""
        terms = [self._terms(logits, targets) for logits in stages]
        weights = stage_weights(len(terms), epoch, self._settings.epochs)
        loss, entropy, dice = (
            torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum()
            for parts in zip(*terms, strict=True)
        )
        metrics = {"cross_entropy": entropy, "dice_loss": dice}
        if len(terms) > 1:
            metrics |= {f"stage_{number}_loss": term.loss.detach() for number, term in enumerate(terms, start=1)}
        return loss, metrics

    def _terms(self, logits: Tensor, targets: Tensor) -> SegmentationTerms:
        """The loss of one stage, at its own resolution or at the input's."""
        if self._settings.loss_at == "input":
            logits = functional.interpolate(logits, targets.shape[-2:], mode="bilinear", align_corners=False)
        height, width = logits.shape[-2:]
        return segmentation_loss(
            logits,
            low_resolution(targets, (height, width)),
            cross_entropy=self._settings.cross_entropy,
            dice=self._settings.dice,
            regions=self._regions,
        )


def _schedule(settings: FinetuneSettings, steps: int) -> Callable[[int], float]:
    """The learning rate by step, for ``steps`` of them in an epoch."""
    iterations = steps * (settings.schedule_epochs or settings.epochs)
    rule = warmup_cosine if settings.schedule == "cosine" else partial(warmup_polynomial, exponent=settings.exponent)
    return partial(rule, base=settings.learning_rate, warmup=settings.warmup, iterations=iterations)


def _batches(order: EpochOrder, settings: FinetuneSettings, epoch: int) -> list[list[int]]:
    return order.batches(epoch)[: settings.steps_per_epoch]
