"""The public SAM 2 and SAM 2.1 checkpoint layout: what its names are in a network without the memory of videos.

A dict with the state under ``model``; prefixes image_encoder.trunk., image_encoder.neck., sam_prompt_encoder. and
sam_mask_decoder.; beside them the parts that carry objects from frame to frame, which a network for single images
does not have. Nothing depends on the input size.
"""

from __future__ import annotations

NO_MEMORY = "no_mem_embed"

_ENCODER = "image_encoder."
_NECK = "image_encoder.neck."
_TRUNK = "image_encoder.trunk."
_SAM = "sam_"

VIDEO_PARTS = (
    "memory_attention.",
    "memory_encoder.",
    "maskmem_tpos_enc",
    "mask_downsample.",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
)
"""parts of the files for videos alone; no_obj_embed_spatial and obj_ptr_tpos_proj are SAM 2.1's"""


def file_name(name: str) -> str:
    """The file's name of a tensor whose name in the layout of a network is ``name`` (``assembly.public_names``)."""
    if name == _ENCODER + NO_MEMORY:
        return NO_MEMORY
    if name.startswith(_NECK):
        return name
    if name.startswith(_ENCODER):
        return _TRUNK + name.removeprefix(_ENCODER)
    return _SAM + name


def is_video_part(name: str) -> bool:
    """Whether the file's name belongs to a part that serves videos alone."""
    return name.startswith(VIDEO_PARTS)
