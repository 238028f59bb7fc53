"""SimCLRv2 (arXiv 2006.10029), the teacher of the image level: a ResNet with selective kernels and its head.

ResNet-D stem and shortcuts, TensorFlow's pooling. Written from the published definition (google-research/simclr,
resnet.py and model_util.py). Modules are created in the order in which TensorFlow numbers the layers, which the
importer of its checkpoints relies on.

Shapes: B batch, C channels of a stored slice, N side of a slice, T the network's input size, D encoder width, F filters
of a group, m width of the mixing weights. At T = 224 and F = 128 the stem gives (B,128,56,56) and the groups
(B,512,56,56), (B,1024,28,28), (B,2048,14,14), (B,4096,7,7).
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.contracts.model_spec import Level
from samora_pipeline.models.global_norm import GlobalBatchNorm
from samora_pipeline.models.recomputation import Recomputing
from samora_pipeline.models.teachers.teacher import FeatureShape, Teacher, TeacherDesign

EXPANSION = 4
EMBEDDING_WIDTH = 128
_STREAMS = 2
_NARROWEST_MIXING = 32
_TRUNCATED_STD = 0.87962566103423978
"""standard deviation of a unit normal cut off at two, by which TensorFlow's initialiser divides"""


@dataclass(frozen=True)
class ResNetGeometry:
    """``filters`` F of the first group (doubled from group to group) and the number of blocks in each group."""

    filters: int
    depths: tuple[int, int, int, int]

    @property
    def widths(self) -> tuple[int, ...]:
        """Output channels of the four groups."""
        return tuple(EXPANSION * self.filters * 2**group for group in range(len(self.depths)))


class MaxPoolSame(nn.Module):
    """3x3 maximum with stride 2, padded as TensorFlow's ``SAME``: for even sides only at the bottom and the right."""

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,h,w) to (B,C,ceil(h/2),ceil(w/2))."""
        rows, columns = (1 if side % 2 else 0 for side in x.shape[-2:])
        padded = functional.pad(x, (columns, 1, rows, 1), value=float("-inf"))
        return functional.max_pool2d(padded, kernel_size=3, stride=2)


class ShortcutPool(nn.Module):
    """2x2 average of a ResNet-D shortcut. Stride 1: cells beyond the edge do not count; stride 2: they count as 0."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,h,w) to (B,C,ceil(h/stride),ceil(w/stride))."""
        # Repeating the last row and column gives the mean over the cells that exist.
        mode = "replicate" if self.stride == 1 else "constant"
        return functional.avg_pool2d(functional.pad(x, (0, 1, 0, 1), mode=mode), kernel_size=2, stride=self.stride)


class SelectiveKernel(nn.Module):
    """Two 3x3 streams of F channels, weighted per channel by a softmax that a small network on their mean decides.

    Unlike the selective kernels of arXiv 1903.06586 both streams are plain 3x3, and both see the whole input.
    """

    def __init__(self, filters: int, stride: int) -> None:
        super().__init__()
        middle = max(filters // 16, _NARROWEST_MIXING)
        self.spread = _convolution(filters, _STREAMS * filters, 3, stride)
        self.spread_norm = GlobalBatchNorm(_STREAMS * filters)
        self.squeeze = _convolution(filters, middle, 1)
        self.squeeze_norm = GlobalBatchNorm(middle)
        self.excite = _convolution(middle, _STREAMS * filters, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B,F,h,w) to (B,F,h/stride,w/stride)."""
        first, second = functional.relu(self.spread_norm(self.spread(x))).chunk(_STREAMS, dim=1)
        pooled = (first + second).mean(dim=(2, 3), keepdim=True)
        scores = self.excite(functional.relu(self.squeeze_norm(self.squeeze(pooled))))
        weights = scores.unflatten(1, (_STREAMS, -1)).softmax(dim=1)
        return first * weights[:, 0] + second * weights[:, 1]


class Shortcut(nn.Module):
    """Average pool, 1x1 convolution, norm."""

    def __init__(self, incoming: int, outgoing: int, stride: int) -> None:
        super().__init__()
        self.pool = ShortcutPool(stride)
        self.convolution = _convolution(incoming, outgoing, 1)
        self.norm = GlobalBatchNorm(outgoing)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,h,w) to (B,4F,h/stride,w/stride)."""
        return self.norm(self.convolution(self.pool(x)))


class Bottleneck(nn.Module):
    """1x1, selective kernel, 1x1, added to the shortcut, then ReLU. The last norm starts at zero scale."""

    def __init__(self, incoming: int, filters: int, stride: int, *, first: bool) -> None:
        super().__init__()
        outgoing = EXPANSION * filters
        self.shortcut: nn.Module = Shortcut(incoming, outgoing, stride) if first else nn.Identity()
        self.reduce = _convolution(incoming, filters, 1)
        self.reduce_norm = GlobalBatchNorm(filters)
        self.kernel = SelectiveKernel(filters, stride)
        self.expand = _convolution(filters, outgoing, 1)
        self.expand_norm = GlobalBatchNorm(outgoing)
        nn.init.zeros_(self.expand_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,h,w) to (B,4F,h/stride,w/stride)."""
        y = functional.relu(self.reduce_norm(self.reduce(x)))
        y = self.expand_norm(self.expand(self.kernel(y)))
        return functional.relu(y + self.shortcut(x))


class ResNetSK(Recomputing):
    """The encoder: 140,306,048 parameters at F = 128 and depths (3,4,6,3), which is ResNet-50 2x with SK.

    With ``checkpointing`` a block's activations are computed again in the backward pass instead of being kept; the
    running statistics move once all the same.
    """

    def __init__(self, geometry: ResNetGeometry) -> None:
        super().__init__()
        filters = geometry.filters
        self.stem = nn.Sequential(
            *_convolution_norm_relu(3, filters // 2, 2),
            *_convolution_norm_relu(filters // 2, filters // 2, 1),
            *_convolution_norm_relu(filters // 2, filters, 1),
            MaxPoolSame(),
        )
        groups, incoming = [], filters
        for number, (depth, outgoing) in enumerate(zip(geometry.depths, geometry.widths, strict=True)):
            blocks = []
            for block in range(depth):
                stride = 2 if block == 0 and number > 0 else 1
                blocks.append(Bottleneck(incoming, outgoing // EXPANSION, stride, first=block == 0))
                incoming = outgoing
            groups.append(nn.Sequential(*blocks))
        self.groups = nn.ModuleList(groups)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B,3,N,N) to the maps of the four groups, at a quarter to a thirty-second of N."""
        x = self.run_block(self.stem, x)
        maps = []
        for group in self.groups:
            for block in group.children():
                x = self.run_block(block, x)
            maps.append(x)
        return tuple(maps)


class ProjectionHead(nn.Module):
    """SimCLRv2's head: D-D-D-128 without biases, batch norm after each layer, 34,095,360 parameters at D = 4096.

    The last norm has a scale but no offset, so its bias is zero and frozen. The output is not normalised.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, width, bias=False),
            GlobalBatchNorm(width),
            nn.ReLU(),
            nn.Linear(width, width, bias=False),
            GlobalBatchNorm(width),
            nn.ReLU(),
            nn.Linear(width, EMBEDDING_WIDTH, bias=False),
            GlobalBatchNorm(EMBEDDING_WIDTH),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
        self.layers[-1].get_parameter("bias").requires_grad_(False)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B,D) to (B,128)."""
        return self.layers(pooled)


def _convolution(incoming: int, outgoing: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(incoming, outgoing, kernel, stride, padding=(kernel - 1) // 2, bias=False)
    std = (incoming * kernel**2) ** -0.5 / _TRUNCATED_STD
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    return layer


def _convolution_norm_relu(incoming: int, outgoing: int, stride: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return _convolution(incoming, outgoing, 3, stride), GlobalBatchNorm(outgoing), nn.ReLU()


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
