"""SimCLRv2 (arXiv 2006.10029), the teacher of the image level: a ResNet with selective kernels and its head.

Shapes: B batch, C channels of a stored slice, N side of a slice, T the network's input size, D encoder width.
"""

from dataclasses import dataclass

from torch import Tensor

from samora_pipeline.contracts.level import Level
from samora_pipeline.models.teachers.resnet_sk import ProjectionHead, ResNetGeometry, ResNetSK
from samora_pipeline.models.teachers.teacher import FeatureShape, Teacher, TeacherDesign

_STRIDE = 32


class SimclrTeacher(Teacher):
    """Encoder and projection head.

    Its features: ``pooled`` (B,D), the output of the encoder, which is what the contrastive loss shaped; ``map32`` and
    ``map16``, the maps of the last and the third group at a thirty-second and a sixteenth of T, the latter D/2 wide.
    """

    level = Level.IMAGE

    def __init__(self, geometry: ResNetGeometry, input_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.encoder = ResNetSK(geometry)
        *_, third, last = geometry.widths
        self.head = ProjectionHead(last)
        self.shapes = {
            "pooled": FeatureShape(last, 0),
            "map32": FeatureShape(last, input_size // _STRIDE),
            "map16": FeatureShape(third, 2 * input_size // _STRIDE),
        }

    def normalise(self, images: Tensor) -> Tensor:
        """SimCLRv2 takes [0,1] as it is, without mean and standard deviation."""
        return images

    def features(self, images: Tensor, name: str) -> Tensor:
        """Features of images (B,C,N,N) in [0,1]: (B,D) pooled, else a grid (B,g,g,D), by the name in ``shapes``."""
        grid = self.shapes[name].grid
        *_, third, last = self.encoder(self.prepare(images))
        if grid == 0:
            return last.mean(dim=(2, 3))
        return (third if name == "map16" else last).permute(0, 2, 3, 1)

    def embed(self, images: Tensor) -> Tensor:
        """Images (B,C,N,N) in [0,1] to embeddings (B,128) for the contrastive loss, which normalises them."""
        return self.head(self.features(images, "pooled"))


@dataclass(frozen=True)
class SimclrDesign(TeacherDesign):
    """Sizes of one SimCLRv2 network, and how it is built."""

    geometry: ResNetGeometry
    native_size: int = 224
    level = Level.IMAGE

    def build(self, input_size: int | None = None) -> SimclrTeacher:
        """See the base class."""
        return SimclrTeacher(self.geometry, self.size(input_size, _STRIDE))


SIMCLR_R50_2X_SK = SimclrDesign(ResNetGeometry(filters=128, depths=(3, 4, 6, 3)))
# One bottleneck per group and a sixteenth of the width: 0.5 M with the head, and a step takes a fraction of a second.
SIMCLR_TINY = SimclrDesign(ResNetGeometry(filters=8, depths=(1, 1, 1, 1)), native_size=128)
