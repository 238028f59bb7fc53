"""The scales of a study: one backbone, one input size and one length of training for all arms.

``tiny`` fits two CPU cores, ``small`` keeps all its state under 60 MiB, ``vit_b`` has the paper's sizes (Tables 7, 8).
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.studies.arms import Arm


@dataclass(frozen=True)
class Scale:
    """``base`` None: the weights that come with the package; ``bootstrap``: trained on the unlabelled pool.

    ``settings`` hold for every arm. ``epochs`` of fine-tuning are multiplied by an arm's ``length``.
    """

    name: str
    backbone: str
    backbone2: str
    base: str | None
    input_size: int
    epochs: int
    settings: tuple[str, ...]

    def backbone_of(self, arm: Arm) -> str:
        """The backbone of an arm."""
        return self.backbone if arm.family == "sam" else self.backbone2

    def base_of(self, arm: Arm) -> str | None:
        """Where an arm's base weights come from; no weights of a small SAM 2 come with the package."""
        return self.base if arm.family == "sam" else "bootstrap"

    def settings_of(self, arm: Arm) -> tuple[str, ...]:
        """The ``--set`` values of an arm, the arm's own last. The schedule is as long as the run, for every arm."""
        epochs = self.epochs * arm.length
        common = (f"finetune.epochs={epochs}", f"finetune.schedule_epochs={epochs}")
        return (*self.settings, *common, *arm.settings)


SCALES: dict[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale(
            "tiny",
            "samora_tiny",
            "samora2_tiny",
            None,
            128,
            60,
            ("finetune.batch=8", "finetune.steps_per_epoch=6"),
        ),
        Scale(
            "small",
            "samora_tiny",
            "samora2_tiny",
            "bootstrap",
            224,
            60,
            ("finetune.batch=16", "finetune.steps_per_epoch=20", "bootstrap.epochs=60"),
        ),
        Scale("vit_b", "sam_vit_b", "sam2_hiera_b+", "bootstrap", 224, 20, ("finetune.batch=32",)),
    )
}
