"""The scales of a study: one backbone, one input size and one length of training for all variants.

``tiny`` fits two CPU cores, ``small`` keeps all its state under 60 MiB, ``vit_b`` has the paper's sizes (Tables 7, 8).
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.studies.variants import Variant


@dataclass(frozen=True)
class Scale:
    """``base`` None: the weights that come with the package; ``bootstrap``: trained on the unlabelled pool.

    ``settings`` hold for every variant. ``epochs`` of fine-tuning are multiplied by a variant's ``length``.
    """

    name: str
    backbone: str
    backbone2: str
    base: str | None
    input_size: int
    epochs: int
    settings: tuple[str, ...]

    def backbone_of(self, variant: Variant) -> str:
        """The backbone of a variant."""
        return self.backbone if variant.family == "sam" else self.backbone2

    def base_of(self, variant: Variant) -> str | None:
        """Where a variant's base weights come from; no weights of a small SAM 2 come with the package."""
        return self.base if variant.family == "sam" else "bootstrap"

    def settings_of(self, variant: Variant) -> tuple[str, ...]:
        """The ``--set`` values of a variant, its own last. The schedule is as long as the run, for all variants."""
        epochs = self.epochs * variant.length
        common = (f"finetune.epochs={epochs}", f"finetune.schedule_epochs={epochs}")
        return (*self.settings, *common, *variant.settings)


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
