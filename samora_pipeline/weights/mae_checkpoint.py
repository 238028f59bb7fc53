"""MAE checkpoints: the public files with or without decoder, whose names are those of this package's teacher."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from samora_pipeline.models.teachers.mae import MaeTeacher
from samora_pipeline.weights.teacher_tensors import TeacherReport, fill

POSITIONS = ("pos_embed", "decoder_pos_embed")


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
