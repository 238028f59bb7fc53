"""The settings of slices without labels in stage 2: frozen, complete, and free of torch (see ``trainers.settings``)."""

from dataclasses import dataclass

from samora_pipeline.contracts.random_steps import STRONG_INTENSITIES, IntensitySettings, Range
from samora_pipeline.errors import UsageError


@dataclass(frozen=True)
class ConsistencySettings:
    """How slices without labels take part in stage 2 (``stages.consistency``). Where no source is named: ours.

    ``decay`` is the largest of the averaged network, after n steps at most 1 - 1 / (n + 1). Its labels count where
    its ``confidence`` is higher. They weigh nothing before ``start``, rise to ``weight`` at ``full``, both shares of
    the epochs. ``box``: sides of the exchanged boxes as shares of the slice. ``unmixed``: probability of a labelled
    slice to be seen as it is as well. ``largest``: of every class that is guessed in a slice only the largest component
    is kept, as BCP does; the others become background. ``strong``: intensities of mixed slices. ``rare``: the training
    has collapsed when for ``patience`` steps in a row the guessed labels had less foreground than this share of the
    true ones'.

    Raises:
        UsageError: ``E-SET-04`` a share outside its range.
    """

    decay: float = 0.99  # BCP (arXiv 2305.00673)
    confidence: float = 0.85
    weight: float = 0.5  # BCP
    start: float = 0.12
    full: float = 0.3
    box: Range = (0.4, 0.8)  # BCP: always 2/3
    unmixed: float = 0.5
    largest: bool = False
    strong: IntensitySettings = STRONG_INTENSITIES
    rare: float = 0.2
    patience: int = 100

    def __post_init__(self) -> None:
        shares = {name: (vars(self)[name],) for name in ("decay", "confidence", "unmixed", "rare")}
        for name, values in {**shares, "start and full": (self.start, self.full), "box": self.box}.items():
            if list(values) != sorted(values) or not 0 <= values[0] <= values[-1] <= 1:
                raise UsageError("E-SET-04", what=f"{name} must be from 0 to 1, in order", found=str(values))

    def weight_at(self, share: float) -> float:
        """The weight of guessed labels when this share of the epochs is over."""
        if share >= self.full:
            return self.weight
        return self.weight * max(0.0, share - self.start) / (self.full - self.start)
