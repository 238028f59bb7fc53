"""The settings of everything that is drawn at random while training: they change a result, so they are recorded.

Free of torch, so that a command line is checked before it is imported.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from samora_pipeline.errors import UsageError

Range = tuple[float, float]
"""lowest and highest value, drawn uniformly unless a docstring says otherwise"""


@dataclass(frozen=True)
class IntensitySettings:
    """How the intensities of a slice in [0,1] are varied, in the order of the fields; at first nothing is.

    ``contrast`` (about the mean) and ``brightness`` are factors. ``curve``: probability of a random monotone curve
    from 0 to 1, as in Models Genesis (arXiv 2004.07882). ``gamma``: an exponent, drawn on a logarithmic scale.
    ``bias``: by how much a smooth field may raise or lower intensities, as a share. ``blur`` is a probability,
    ``blur_sigma`` a share of the side. ``low_resolution`` is a probability, ``resolution`` the share of the side that
    is left of a slice before it is brought back to its size. ``noise``: standard deviation of Gaussian noise.
    """

    contrast: Range = (1.0, 1.0)
    brightness: Range = (1.0, 1.0)
    curve: float = 0.0
    gamma: Range = (1.0, 1.0)
    bias: Range = (0.0, 0.0)
    blur: float = 0.0
    blur_sigma: Range = (0.5 / 224, 2.0 / 224)
    low_resolution: float = 0.0
    resolution: Range = (0.5, 1.0)
    noise: Range = (0.0, 0.0)


# Ours, for slices whose labels are guessed: wide enough that a guess has to be made from shapes.
STRONG_INTENSITIES = IntensitySettings(
    contrast=(0.5, 1.5),
    brightness=(0.75, 1.25),
    curve=0.3,
    gamma=(0.4, 2.5),
    bias=(0.0, 0.5),
    blur=0.2,
    low_resolution=0.1,
    noise=(0.0, 0.08),
)


@dataclass(frozen=True)
class AugmentationSettings(IntensitySettings):
    """Labelled slices. Rotation (degrees either way), flips (probability) and scale are A.3's; all else is ours.

    A.3 names elastic deformation, contrast and brightness without numbers. ``elastic`` is a probability;
    displacements have a standard deviation of ``elastic_size`` and are smooth over ``elastic_smoothness``, both as
    shares of the side: H-SAM's strength at 224 pixels. The views of ``IntensitySettings`` beyond contrast and
    brightness are off unless they are asked for.
    """

    rotation: float = 15.0
    flip: float = 0.5
    scale: Range = (0.9, 1.1)
    elastic: float = 0.5
    elastic_size: float = 0.018
    elastic_smoothness: float = 0.08
    contrast: Range = (0.8, 1.2)
    brightness: Range = (0.8, 1.2)
    scheme: Literal["composed", "samed", "hsam"] = "composed"  # the other two: ``slices.released``


@dataclass(frozen=True)
class VolumeAugmentationSettings(AugmentationSettings):
    """Labelled volumes. All of it is ours.

    ``rotation`` turns within the slices and ``tilt`` about their rows and columns, degrees either way: most volumes are
    thin, and what is tilted far leaves them. ``flip`` is the probability for each axis, where the plan allows flips.
    ``translation``: a share of the volume either way along each axis.

    Raises:
        UsageError: ``E-SET-06`` what exists for slices alone.
    """

    flip: float = 0.0
    elastic: float = 0.0
    tilt: float = 5.0
    translation: float = 0.05

    def __post_init__(self) -> None:
        if self.elastic or self.scheme != "composed":
            found = f"elastic={self.elastic:g}, scheme={self.scheme}"
            fix = "the same command without them, or with UNetTrainer"
            raise UsageError("E-SET-06", found=found, expected="elastic=0, scheme=composed", fix=fix)


@dataclass(frozen=True)
class ViewSettings:
    """Strength of the views of unlabelled slices.

    ``area`` and ``aspect`` describe the crop as a share of the slice, ``rotation`` is in degrees either way.
    ``contrast`` and ``brightness`` are factors, ``gamma`` an exponent drawn on a logarithmic scale. ``blur`` is a
    probability, ``blur_sigma`` a share of the side (SimCLR's 0.1 to 2 pixels at 224).
    """

    area: Range = (0.2, 1.0)
    aspect: Range = (3 / 4, 4 / 3)
    rotation: float = 15.0
    contrast: Range = (0.6, 1.4)
    brightness: Range = (0.6, 1.4)
    gamma: Range = (0.7, 1.4)
    blur: float = 0.5
    blur_sigma: Range = (0.1 / 224, 2.0 / 224)


# SimCLRv2 crops down to 8 % of the area; 8 % of a body slice is often nothing but air, so 20 % as in MAE. Hue,
# saturation and grayscale do nothing to one channel. Strength 0.4 and gamma are ours, rotation is SAMora's A.3.
CONTRASTIVE_VIEWS = ViewSettings()
# Teacher and student see the same view, which therefore only has to vary the slice (strengths are ours).
DISTILLATION_VIEWS = ViewSettings(
    area=(0.5, 1.0), contrast=(0.8, 1.2), brightness=(0.8, 1.2), gamma=(0.8, 1.25), blur=0.0
)
# MAE crops and flips, nothing else.
MASKED_VIEWS = ViewSettings(rotation=0.0, contrast=(1.0, 1.0), brightness=(1.0, 1.0), gamma=(1.0, 1.0), blur=0.0)


@dataclass(frozen=True)
class NoiseSpec:
    """The noise of the pixel level: a name of ``slices.noise.NOISES`` and the options of that noise."""

    name: str = "mixture"
    options: dict[str, Any] = field(default_factory=dict)
