"""What a teacher has to offer, so that continual pre-training and distillation do not depend on which one it is.

Shapes: B batch, C channels of a stored slice, N side of any slice, T the teacher's own input size, D width of a
feature, g side of its grid.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.contracts.model_spec import Level
from samora_pipeline.errors import UsageError

RGB = 3


class FeatureShape(NamedTuple):
    """Width D of a feature and side g of its grid; ``grid`` 0: one vector for the whole image."""

    width: int
    grid: int


class Teacher(nn.Module):
    """A self-supervised network with everything that its own pre-training needs.

    Slices come in as they are stored, with values in [0,1]; size, channels and statistics that the network expects are
    its own affair (``prepare``). ``input_size`` is T, the size it works at. ``shapes`` are the features that can be
    distilled, by name; the first is the default.
    """

    level: Level
    input_size: int
    shapes: Mapping[str, FeatureShape]

    @abstractmethod
    def features(self, images: Tensor, name: str) -> Tensor:
        """Features of images (B,C,N,N) in [0,1]: (B,D), or (B,g,g,D) where they have a grid.

        Raises:
            KeyError: a name that is not in ``shapes``.
        """

    @abstractmethod
    def normalise(self, images: Tensor) -> Tensor:
        """Images (B,3,T,T) in [0,1] to the statistics that the published weights expect."""

    @property
    def default_feature(self) -> str:
        """The feature that is distilled unless another is asked for."""
        return next(iter(self.shapes))

    def prepare(self, images: Tensor) -> Tensor:
        """Slices (B,C,N,N) in [0,1] to the network's input (B,3,T,T).

        One channel is repeated to three, three are taken as they are, of any other number the mean is repeated:
        published weights expect pictures. Another size is resized bilinearly, with antialiasing.
        """
        if images.shape[1] not in (1, RGB):
            images = images.mean(dim=1, keepdim=True)
        if images.shape[-1] != self.input_size:
            images = functional.interpolate(
                images.float(), size=(self.input_size, self.input_size), mode="bilinear", antialias=True
            )
        return self.normalise(images.expand(-1, RGB, -1, -1))

    def freeze(self) -> None:
        """Stop all training of it: no gradients, and norms that neither use nor change statistics of a batch."""
        self.requires_grad_(False)
        self.eval()


class TeacherDesign(ABC):
    """One member of a family: how it is built with random weights.

    ``level`` is that of the expert that it teaches, ``native_size`` the input size in pixels that the published weights
    were trained at.
    """

    level: ClassVar[Level]
    native_size: int

    @abstractmethod
    def build(self, input_size: int | None = None) -> Teacher:
        """A teacher for ``input_size`` pixels (None: the native size); refuses sizes that do not fit (E-TEACH-01)."""

    def size(self, input_size: int | None, multiple: int) -> int:
        """The input size, or the native one for None.

        Raises:
            UsageError: ``E-TEACH-01`` when it is no positive multiple of ``multiple``, the teacher's patch or stride.
        """
        size = self.native_size if input_size is None else input_size
        if size <= 0 or size % multiple:
            nearest = max(1, round(size / multiple)) * multiple
            raise UsageError("E-TEACH-01", multiple=multiple, nearest=nearest, found=f"{size} px")
        return size
