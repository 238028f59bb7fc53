"""A file of weights into a teacher, whatever its family and the layout of the file.

MAE: the public files with or without decoder, whose names are those of this package's teacher.

SimCLRv2: TensorFlow's own variables, the converted ``.pth`` layout, and this package's names. TensorFlow numbers layers
in order of creation, which is the order of this package's modules. Its kernels are (height, width, in, out), dense ones
(in, out).

Every tensor finds its place, or nothing is written and a misfit is named.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn

from samora_pipeline.models.global_norm import GlobalBatchNorm
from samora_pipeline.models.teachers.mae import MaeTeacher
from samora_pipeline.models.teachers.simclr import SimclrTeacher
from samora_pipeline.models.teachers.teacher import Teacher
from samora_pipeline.weights.files import read_weights
from samora_pipeline.weights.sam_checkpoint import LoadReport, check_names, misfit

_Origin = tuple[str, tuple[int, ...]]
"""the name of a tensor in the file, and the order of its axes that makes it ours"""

_POSITIONS = ("pos_embed", "decoder_pos_embed")
_DECODER = ("mask_token", "decoder_")
"""how the names of MAE's decoder begin, which the encoder-only files lack"""
_COUNTERS = "num_batches_tracked"
"""last part of the name of what batch norms count; no part of what was learned, and not in every file"""

_NORM_LEAVES = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
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


def load_teacher(teacher: Teacher, path: Path) -> LoadReport:
    """Read a public file, or one that this package wrote, into a teacher.

    SimCLRv2: the converted ``.pth``, or the ``.index`` file of TensorFlow's checkpoint with its ``.data`` file beside
    it. MAE: the ``.pth`` files with or without decoder. Teachers of other families: their own state.

    Raises:
        AssetError: ``E-WEIGHT-05`` when there is no such file.
        DataError: ``E-WEIGHT-06`` when it belongs to another network, ``E-WEIGHT-07`` and ``E-WEIGHT-08`` when it
            cannot be read.
    """
    state = read_weights(path, _wanted_variable)
    if isinstance(teacher, SimclrTeacher):
        return load_simclr(teacher, state)
    return load_mae(teacher, state) if isinstance(teacher, MaeTeacher) else _fill(teacher, state)


def load_mae(teacher: MaeTeacher, state: Mapping[str, Tensor]) -> LoadReport:
    """Read a public state into a teacher.

    A file without decoder is taken: the decoder keeps its random start, which is enough for distillation. Position
    tables of another grid are dropped, because they are fixed and the teacher computes its own.

    Raises:
        DataError: ``E-WEIGHT-06`` when a tensor is missing, left over or of another shape; nothing is written then.
    """
    own = teacher.state_dict()
    dropped = [name for name in _POSITIONS if name in state and state[name].shape[1:2] != own[name].shape[1:2]]
    has_decoder = any(name.startswith(_DECODER) for name in state)
    return _fill(
        teacher,
        {name: tensor for name, tensor in state.items() if name not in dropped},
        may_lack=lambda name: name in dropped or (not has_decoder and name.startswith(_DECODER)),
        dropped=dropped,
    )


def load_simclr(teacher: SimclrTeacher, state: Mapping[str, Tensor]) -> LoadReport:
    """Read a state of any of the three layouts into a teacher.

    A file without the projection head is taken: the head keeps its random start, which is enough for distillation.
    Classifiers that were fitted on the encoder (``resnet.fc``, ``head_supervised``) are dropped.

    Raises:
        DataError: ``E-WEIGHT-06`` when a tensor is missing, left over or of another shape; nothing is written then.
    """
    origins = _origins(teacher, state)
    others = state.keys() - {name for name, _ in origins.values()}
    dropped = sorted(name for name in others if name.endswith(_MOMENTUM) or name.startswith(_ACCESSORIES))
    tensors = {own: _permuted(state[name], axes) for own, (name, axes) in origins.items() if name in state}
    has_head = any(own.startswith(_HEAD) for own in tensors)
    # TensorFlow's last norm has no offset; ours is zero and frozen.
    last_offset = f"head.layers.{len(teacher.head.layers) - 1}.bias"
    return _fill(
        teacher,
        tensors | {name: state[name] for name in others.difference(dropped)},
        may_lack=lambda name: name == last_offset or (not has_head and name.startswith(_HEAD)),
        dropped=dropped,
    )


def _wanted_variable(name: str) -> bool:
    """Whether a TensorFlow variable is part of the encoder or its head: no momentum, no average of weights."""
    return name.startswith((_TENSORFLOW, _TENSORFLOW_HEAD)) and not name.endswith(_MOMENTUM)


def _permuted(value: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The file's tensor with its axes in our order; one of another rank as it is, for its shape to be refused."""
    return value.permute(axes) if value.ndim == len(axes) else value


def _origins(teacher: SimclrTeacher, state: Mapping[str, Tensor]) -> dict[str, _Origin]:
    if any(name.startswith(_TENSORFLOW) for name in state):
        return dict(_tensorflow_origins(teacher))
    converted = any(name.startswith(_CONVERTED) for name in state)
    return {name: (_converted_name(name) if converted else name, ()) for name in teacher.state_dict()}


def _converted_name(own: str) -> str:
    """Our name of a tensor to that of the converted layout; the head has the same names in both."""
    if own.startswith(_HEAD):
        return own
    stem = re.fullmatch(r"encoder\.stem\.(\d+)\.(\w+)", own)
    if stem:
        return f"{_CONVERTED}0.{_STEM_PARTS[stem[1]]}.{stem[2]}"
    block = re.fullmatch(r"encoder\.groups\.(\d+)\.(\d+)\.(.+)\.(\w+)", own)
    if block is None:
        raise misfit("teacher", own, "a tensor of the stem or of a block")
    return f"{_CONVERTED}{int(block[1]) + 1}.blocks.{block[2]}.{_BLOCK_PARTS[block[3]]}.{block[4]}"


def _tensorflow_origins(teacher: SimclrTeacher) -> Iterator[tuple[str, _Origin]]:
    convolutions, norms, linears = count(), count(), count()
    head = ""
    modules = (*teacher.encoder.named_modules(prefix="encoder"), *teacher.head.named_modules(prefix="head"))
    for path, module in modules:
        if isinstance(module, nn.Conv2d):
            kernel = f"{_TENSORFLOW}{_numbered('conv2d', next(convolutions))}/kernel"
            yield f"{path}.weight", (kernel, (3, 2, 0, 1))
        elif isinstance(module, nn.Linear):
            head = f"{_TENSORFLOW_HEAD}nl_{next(linears)}"
            yield f"{path}.weight", (f"{head}/dense/kernel", (1, 0))
        elif isinstance(module, GlobalBatchNorm):
            layer = (
                f"{head}/batch_normalization" if head else _TENSORFLOW + _numbered("batch_normalization", next(norms))
            )
            for own, leaf in _NORM_LEAVES.items():
                yield f"{path}.{own}", (f"{layer}/{leaf}", ())


def _numbered(kind: str, number: int) -> str:
    return f"{kind}_{number}" if number else kind


def _fill(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    may_lack: Callable[[str], bool] = lambda _: False,
    dropped: Iterable[str] = (),
) -> LoadReport:
    """Copy tensors into a network under its own names.

    Args:
        network: whose state is filled.
        tensors: by the network's names.
        may_lack: whether a file without this tensor is accepted.
        dropped: names in the file that were skipped before.

    Raises:
        DataError: ``E-WEIGHT-06`` when a tensor is missing, left over or of another shape; nothing is written then.
    """
    own = network.state_dict()
    kept = [name for name in own if name not in tensors and not name.endswith(_COUNTERS)]
    check_names({name for name in own if name in tensors or (name in kept and not may_lack(name))}, tensors, "teacher")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise misfit("teacher", f"{name} {tuple(tensor.shape)}", f"{name} {tuple(own[name].shape)}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
    return LoadReport(tuple(tensors), kept=tuple(kept), dropped=tuple(dropped))
