"""SimCLRv2 checkpoints: TensorFlow's own variables, the converted ``.pth`` layout, and this package's names.

TensorFlow numbers layers in order of creation, which is the order of this package's modules. Its kernels are
(height, width, in, out), dense ones (in, out).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from samora_pipeline.models.global_norm import GlobalBatchNorm
from samora_pipeline.models.teachers.simclr import SimclrTeacher
from samora_pipeline.weights.teacher_tensors import TeacherReport, fill, misfit

_NORM_LEAVES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_CONVERTED = "resnet.net."
_TENSORFLOW = "base_model/"
_TENSORFLOW_HEAD = "head_contrastive/"
_HEAD = "head."
_MOMENTUM = "/Momentum"
_ACCESSORIES = ("resnet.fc.", "head_supervised/", "ema_model/", "global_step")
# The converted layout, block by block: this package's part, and the other name.
_BLOCK_PARTS = {
    "shortcut.convolution": "projection.shortcut.2",
    "shortcut.norm": "projection.bn.0",
    "reduce": "net.0",
    "reduce_norm": "net.1.0",
    "kernel.spread": "net.2.main_conv.0",
    "kernel.spread_norm": "net.2.main_conv.1.0",
    "kernel.squeeze": "net.2.mixing_conv.0",
    "kernel.squeeze_norm": "net.2.mixing_conv.1.0",
    "kernel.excite": "net.2.mixing_conv.2",
    "expand": "net.3",
    "expand_norm": "net.4.0",
}
_STEM_PARTS = {"0": "0", "1": "1.0", "3": "2", "4": "3.0", "6": "4", "7": "5.0"}


@dataclass(frozen=True)
class _Origin:
    """Where a tensor comes from: its name in the file, and the order of axes that makes it ours."""

    name: str
    axes: tuple[int, ...] = ()

    def of(self, value: Tensor) -> Tensor:
        """The file's tensor with its axes in our order; one of another rank as it is, for its shape to be refused."""
        return value.permute(self.axes) if value.ndim == len(self.axes) else value


def wanted_variable(name: str) -> bool:
    """Whether a TensorFlow variable is part of the encoder or its head: no momentum, no average of weights."""
    return name.startswith((_TENSORFLOW, _TENSORFLOW_HEAD)) and not name.endswith(_MOMENTUM)


def load_simclr(teacher: SimclrTeacher, state: Mapping[str, Tensor]) -> TeacherReport:
    """Read a state of any of the three layouts into a teacher.

    A file without the projection head is taken: the head keeps its random start, which is enough for distillation.
    Classifiers that were fitted on the encoder (``resnet.fc``, ``head_supervised``) are dropped.

    Raises:
        DataError: ``E-WEIGHT-06`` when a tensor is missing, left over or of another shape; nothing is written then.
    """
    origins = _origins(teacher, state)
    names = {origin.name for origin in origins.values()}
    dropped = [name for name in state if name not in names and _is_accessory(name)]
    left_over = [name for name in state if name not in names and not _is_accessory(name)]
    if left_over:
        raise misfit(f"{len(left_over)} tensors too many, first {left_over[0]}", f"{len(names)} tensors")
    tensors = {own: origin.of(state[origin.name]) for own, origin in origins.items() if origin.name in state}
    has_head = any(own.startswith(_HEAD) for own in tensors)
    # TensorFlow's last norm has no offset; ours is zero and frozen.
    last_offset = f"head.layers.{len(teacher.head.layers) - 1}.bias"
    return fill(
        teacher,
        tensors,
        may_lack=lambda name: name == last_offset or (not has_head and name.startswith(_HEAD)),
        dropped=dropped,
    )


def _origins(teacher: SimclrTeacher, state: Mapping[str, Tensor]) -> dict[str, _Origin]:
    if any(name.startswith(_TENSORFLOW) for name in state):
        return dict(_tensorflow_origins(teacher))
    if any(name.startswith(_CONVERTED) for name in state):
        return {name: _Origin(_converted_name(name)) for name in teacher.state_dict()}
    return {name: _Origin(name) for name in teacher.state_dict()}


def _is_accessory(name: str) -> bool:
    return name.endswith(_MOMENTUM) or name.startswith(_ACCESSORIES)


def _converted_name(own: str) -> str:
    """Our name of a tensor to that of the converted layout; the head has the same names in both."""
    if own.startswith(_HEAD):
        return own
    stem = re.fullmatch(r"encoder\.stem\.(\d+)\.(\w+)", own)
    if stem:
        return f"{_CONVERTED}0.{_STEM_PARTS[stem[1]]}.{stem[2]}"
    block = re.fullmatch(r"encoder\.groups\.(\d+)\.(\d+)\.(.+)\.(\w+)", own)
    if block is None:
        raise misfit(own, "a tensor of the stem or of a block")
    return f"{_CONVERTED}{int(block[1]) + 1}.blocks.{block[2]}.{_BLOCK_PARTS[block[3]]}.{block[4]}"


def _tensorflow_origins(teacher: SimclrTeacher) -> Iterator[tuple[str, _Origin]]:
    convolutions = norms = 0
    for path, module in teacher.encoder.named_modules(prefix="encoder"):
        if isinstance(module, nn.Conv2d):
            yield f"{path}.weight", _Origin(f"{_TENSORFLOW}{_numbered('conv2d', convolutions)}/kernel", (3, 2, 0, 1))
            convolutions += 1
        elif isinstance(module, GlobalBatchNorm):
            layer = _numbered("batch_normalization", norms)
            norms += 1
            for own, leaf in _NORM_LEAVES.items():
                yield f"{path}.{own}", _Origin(f"{_TENSORFLOW}{layer}/{leaf}")
    linears = 0
    for path, module in teacher.head.named_modules(prefix="head"):
        if isinstance(module, nn.Linear):
            yield f"{path}.weight", _Origin(f"{_TENSORFLOW_HEAD}nl_{linears}/dense/kernel", (1, 0))
            linears += 1
        elif isinstance(module, GlobalBatchNorm):
            for own, leaf in _NORM_LEAVES.items():
                yield f"{path}.{own}", _Origin(f"{_TENSORFLOW_HEAD}nl_{linears - 1}/batch_normalization/{leaf}")


def _numbered(kind: str, number: int) -> str:
    return f"{kind}_{number}" if number else kind
