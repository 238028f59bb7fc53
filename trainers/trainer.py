"""What a trainer is: which experts a network has, which of its parts learn from labels, and with which settings.

Adding one is a short class of constants and a line in ``catalog``.
"""

from __future__ import annotations

from typing import ClassVar

from samora_pipeline.contracts.level import LEVELS, Level
from samora_pipeline.contracts.model_spec import ModelSpec
from trainers.config import SAMORA, ModelSettings, Settings, shrunk
from trainers.recipes import NO_PRETRAINING, RECIPES, SCRATCH, with_lengths, with_objectives

TINY_BACKBONES = ("samora_tiny", "samora2_tiny")


class Trainer:
    """A method, as constants.

    ``levels`` are the experts it has unless ``--levels`` says otherwise. ``recipes`` (``trainers.recipes``) are ways
    to come by them, the default first. ``parts`` (``models.freezing.Part``) learn in stage 2. ``settings`` are those
    of the paper. ``block_adapters``: whether the encoder has SAM-Adapter's.
    """

    levels: ClassVar[tuple[Level, ...]] = LEVELS
    recipes: ClassVar[tuple[str, ...]] = tuple(RECIPES)
    parts: ClassVar[frozenset[str]] = frozenset({"fusion", "decoder", "prompt", "adapter"})
    settings: ClassVar[Settings] = SAMORA
    default_backbone: ClassVar[str] = "sam_vit_b"
    block_adapters: ClassVar[bool] = False

    def default_recipe(self, backbone: str) -> str:
        """The first recipe; with a tiny backbone ``scratch``, because the tiny teachers have no public weights."""
        return SCRATCH if backbone in TINY_BACKBONES and SCRATCH in self.recipes else self.recipes[0]

    def settings_for(self, backbone: str, recipe: str = NO_PRETRAINING) -> Settings:
        """The settings before ``--set``: the paper's with the recipe's objectives, or their CPU form when tiny."""
        settings = with_objectives(self.settings, RECIPES[recipe])
        return with_lengths(shrunk(settings) if backbone in TINY_BACKBONES else settings, RECIPES[recipe])

    def spec(
        self,
        backbone: str,
        model: ModelSettings,
        levels: tuple[Level, ...],
        *,
        input_size: int,
        in_channels: int,
        num_outputs: int,
    ) -> ModelSpec:
        """The network of a run; a single expert needs no fusion."""
        return ModelSpec(
            backbone=backbone,
            input_size=input_size,
            num_outputs=num_outputs,
            in_channels=in_channels,
            levels=levels,
            lora_rank=model.lora_rank,
            fusion=model.fusion if len(levels) > 1 else None,
            decoder=model.decoder,
            block_adapters=self.block_adapters,
        )
