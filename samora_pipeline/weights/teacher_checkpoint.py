"""A file of weights into a teacher, whatever its family and the layout of the file.

MAE: the public files with or without decoder, whose names are those of this package's teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from samora_pipeline.errors import AssetError
from samora_pipeline.models.teachers.mae import MaeTeacher
from samora_pipeline.models.teachers.simclr import SimclrTeacher
from samora_pipeline.models.teachers.teacher import Teacher
from samora_pipeline.weights.files import read_weights
from samora_pipeline.weights.simclr_checkpoint import load_simclr, wanted_variable
from samora_pipeline.weights.teacher_tensors import COUNTERS, TeacherReport, fill
from samora_pipeline.weights.tensorflow_index import is_index
from samora_pipeline.weights.tensorflow_values import read_variables

POSITIONS = ("pos_embed", "decoder_pos_embed")


def load_teacher(teacher: Teacher, path: Path) -> TeacherReport:
    """Read a public file, or one that this package wrote, into a teacher.

    SimCLRv2: the converted ``.pth``, or the ``.index`` file of TensorFlow's checkpoint with its ``.data`` file beside
    it. MAE: the ``.pth`` files with or without decoder. Teachers of other families: their own state.

    Raises:
        AssetError: ``E-WEIGHT-05`` when there is no such file.
        DataError: ``E-WEIGHT-06`` when it belongs to another network, ``E-WEIGHT-07`` and ``E-WEIGHT-08`` when it
            cannot be read.
    """
    if not path.is_file():
        raise AssetError("E-WEIGHT-05", what=f"there is no weights file {path.name}", found=f"no file {path}")
    state = read_variables(path, wanted_variable) if is_index(path) else read_weights(path)
    if isinstance(teacher, SimclrTeacher):
        return load_simclr(teacher, state)
    if isinstance(teacher, MaeTeacher):
        return load_mae(teacher, state)
    return fill(teacher, state, may_lack=lambda name: name.endswith(COUNTERS), dropped=())


def is_decoder(name: str) -> bool:
    """Whether a tensor belongs to MAE's decoder, which the encoder-only files lack."""
    return name == "mask_token" or name.startswith("decoder_")


def load_mae(teacher: MaeTeacher, state: Mapping[str, Tensor]) -> TeacherReport:
    """Read a public state into a teacher.

    A file without decoder is taken: the decoder keeps its random start, which is enough for distillation. Position
    tables of another grid are dropped, because they are fixed and the teacher computes its own.

    Raises:
        DataError: ``E-WEIGHT-06`` when a tensor is missing, left over or of another shape; nothing is written then.
    """
    own = teacher.state_dict()
    dropped = [name for name in POSITIONS if name in state and state[name].shape[1:2] != own[name].shape[1:2]]
    tensors = {name: tensor for name, tensor in state.items() if name not in dropped}
    has_decoder = any(is_decoder(name) for name in state)
    return fill(
        teacher,
        tensors,
        may_lack=lambda name: name in dropped or (not has_decoder and is_decoder(name)),
        dropped=dropped,
    )
