"""Settings of stage 2 on whole volumes: frozen, complete, and free of torch (see ``trainers.settings``)."""

from dataclasses import asdict, dataclass, field
from typing import ClassVar

from samora_pipeline.contracts.random_steps import STRONG_INTENSITIES, VolumeAugmentationSettings
from samora_pipeline.errors import UsageError
from trainers.finetune_settings import FinetuneSettings


@dataclass(frozen=True)
class VolumeFinetuneSettings(FinetuneSettings):
    """``FinetuneSettings`` where a batch counts whole volumes; logits have the size of the labels.

    Raises:
        UsageError: ``E-SET-06`` slices without labels.
    """

    kind: ClassVar[str] = "finetune_volumes"

    augmentation: VolumeAugmentationSettings = field(default_factory=VolumeAugmentationSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, given in {"--consistency": self.consistency, "--taught-by": self.self_training}.items():
            if given is not None:
                fix = f"the same command without {option}, or with UNetTrainer"
                raise UsageError("E-SET-06", found=option, expected="labelled volumes alone", fix=fix)


# Ours: 400 steps of two volumes, whatever their number. Intensities are varied as strongly as those of guessed slices:
# a volume is seen a hundred times and more, and its grey values are soon known by heart (decision 182).
VOLUMES_TRAINED_WHOLE = VolumeFinetuneSettings(
    learns=("network",),
    epochs=200,
    steps_per_epoch=2,
    batch=2,
    learning_rate=1e-3,
    cross_entropy=0.5,
    dice=0.5,
    weight_decay=1e-2,
    warmup=20,
    schedule="cosine",
    clip_norm=5.0,
    foreground_prior=0.05,
    augmentation=VolumeAugmentationSettings(**asdict(STRONG_INTENSITIES)),
)
