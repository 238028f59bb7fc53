"""Settings of stage 2 of methods by others: frozen, complete, and free of torch (see ``trainers.settings``)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from trainers.methods import TRAINED_WHOLE
from trainers.settings import FinetuneSettings


@dataclass(frozen=True)
class PublicStartSettings(FinetuneSettings):
    """``FinetuneSettings`` of a TransUNet; ``weights``: the file that its encoder starts from, None: random."""

    kind: ClassVar[str] = "finetune_public_start"

    weights: str | None = None


# The rate is that of UNETR's public code, with AdamW; all else is what the U-Net has, so that networks differ in
# nothing but themselves. TransUNet's own recipe is SGD at 0.01 over 150 epochs of 24 slices.
TRANSFORMER = replace(TRAINED_WHOLE, learning_rate=1e-4)
PUBLIC_START = PublicStartSettings(**vars(TRANSFORMER))
