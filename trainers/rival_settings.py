"""Settings of stage 2 of methods by others: frozen, complete, and free of torch (see ``trainers.settings``)."""

from dataclasses import dataclass
from typing import ClassVar

from trainers.finetune_settings import FinetuneSettings


@dataclass(frozen=True)
class PublicStartSettings(FinetuneSettings):
    """``FinetuneSettings`` of a TransUNet; ``weights``: the file that its encoder starts from, None: random."""

    kind: ClassVar[str] = "finetune_public_start"

    weights: str | None = None
