"""The settings of self-training: frozen, complete, and free of torch (see ``trainers.settings``)."""

from dataclasses import dataclass

from samora_pipeline.contracts.random_steps import STRONG_INTENSITIES, IntensitySettings


@dataclass(frozen=True)
class SelfTrainingSettings:
    """How a student learns from the soft labels of its teachers (``stages.self_training``). All ours.

    Beside each labelled slice of a step it sees one of the pool, whose loss weighs ``weight``. ``strong``: intensities
    of these slices, so that the student sees more than its teachers did (noisy student, arXiv 1911.04252).
    """

    weight: float = 1.0
    strong: IntensitySettings = STRONG_INTENSITIES
