"""The settings of stage 2: frozen, complete, and free of torch (see ``trainers.settings``)."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

from samora_pipeline.contracts.random_steps import AugmentationSettings
from trainers.self_training_settings import SelfTrainingSettings
from trainers.semi_supervised_settings import Unlabelled
from trainers.settings import Betas, Length, StageSettings, length_of


@dataclass(frozen=True)
class FinetuneSettings(StageSettings):
    """Stage 2 (loss Eq. 9; learning rate Eq. 11).

    ``learns``: the parts of the network that are trained (``models.freezing.Part``); everything else is frozen.
    ``warmup`` counts iterations: 25 epochs would be longer than the run. ``schedule_epochs`` is the length of the
    schedule where it differs from the epochs that are run (SAMed stops early). The maximum of iterations in Eq. 11 is
    that of the schedule; the 18,600 in A.1 are SAMed's, of 200 epochs. ``loss_at``: ``decoder`` resizes the label to
    the logits, ``input`` the logits to the label. ``schedule``: Eq. 11 or, after the same warm-up, half a cosine.
    ``mask_tokens``: where the base has another number of outputs, ours start ``random`` or as copies of its tokens.
    Where a decoder has two stages each has both terms, weighed by ``objectives.segmentation.stage_weights``.
    ``micro_batch``: slices on one device at a time, at most (None: as many as fit); it changes no result.
    ``norm_batch``: slices, over all ranks, whose statistics a batch norm takes together, None for all. ``held_out``:
    labelled cases kept out of training, on which post-processing is chosen; 0 leaves it off. ``foreground_prior``:
    the probability that all foreground has together before the first step (the bias of the last layer, as in RetinaNet,
    arXiv 1708.02002, section 4.1); None: what random weights give. ``consistency``: how
    slices without labels take part; None: not at all. ``self_training``: how soft labels of other runs do.
    """

    kind: ClassVar[str] = "finetune"

    learns: tuple[str, ...]
    epochs: int
    batch: int
    learning_rate: float
    cross_entropy: float
    dice: float
    weight_decay: float
    warmup: int
    micro_batch: int | None = None
    norm_batch: int | None = None
    fusion_rate: float = 1.0  # times learning_rate, for the fusion; Table 8 has one rate for all
    decay: Literal["matrices", "all"] = "matrices"  # MAE: no vectors, and ours: no LoRA; SAMed's and H-SAM's code: all
    betas: Betas = (0.9, 0.999)
    schedule: Literal["polynomial", "cosine"] = "polynomial"
    exponent: float = 1.0  # Eq. 11 as printed; SAMed and H-SAM have 0.9
    schedule_epochs: int | None = None
    steps_per_epoch: int | None = None
    loss_at: Literal["decoder", "input"] = "decoder"  # SAMed's code: low-resolution logits against a resized label
    mask_tokens: Literal["random", "copied"] = "random"  # SAMed's code
    clip_norm: float | None = None
    held_out: int = 0
    foreground_prior: float | None = None
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    consistency: Unlabelled | None = None
    self_training: SelfTrainingSettings | None = None

    def small(self) -> Self:
        """54 epochs of 6 steps.

        The loss is taken at input size: with logits of 32 to 56 pixels a side, resizing the labels instead would lose
        the small organs. Outputs start as copies of the base's: from random tokens, a few hundred steps may end before
        neighbouring structures part. The fusion has a tenth of the rate, without which it may diverge (decision 99).
        """
        return replace(
            self,
            epochs=54,
            batch=8,
            schedule_epochs=None,
            warmup=25,
            steps_per_epoch=6,
            fusion_rate=0.1,
            loss_at="input",
            mask_tokens="copied",
        )

    def short(self) -> Self:
        """Two steps on at most four slices each."""
        return replace(self, epochs=1, steps_per_epoch=2, batch=min(self.batch, 4), schedule_epochs=None)

    def length(self, slices: int) -> Length:
        """See ``StageSettings.length``."""
        return length_of(self.epochs, self.batch, self.steps_per_epoch, slices)
