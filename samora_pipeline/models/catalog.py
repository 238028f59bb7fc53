"""Backbones, decoders, teachers and fusions by name. A new one is a file of its family and a line here."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from samora_pipeline.contracts.model_spec import FusionSpec
from samora_pipeline.contracts.options import read_options
from samora_pipeline.models.backbones.backbone import Backbone
from samora_pipeline.models.backbones.sam import SAM_VIT_B, SAM_VIT_H, SAM_VIT_L, SAMORA_TINY
from samora_pipeline.models.backbones.sam2 import SAM2_HIERA_B_PLUS, SAMORA2_TINY
from samora_pipeline.models.backbones.small import SAMORA_SMALL
from samora_pipeline.models.decoders.decoder import DecoderFactory
from samora_pipeline.models.decoders.hsam import HSamDecoder
from samora_pipeline.models.decoders.sam import AutoSamDecoder, Sam2Decoder, SamedDecoder
from samora_pipeline.models.decoders.skips import SkipDecoder
from samora_pipeline.models.fusions.fusion import Fusion, Merge
from samora_pipeline.models.fusions.merges import LAC, LoRAHub
from samora_pipeline.models.fusions.mole import MoLE
from samora_pipeline.models.fusions.stepwise import HCAT, HLAttention, SelfHLAttention
from samora_pipeline.models.teachers.mae import MAE_TINY, MAE_VIT_L
from samora_pipeline.models.teachers.simclr import SIMCLR_R50_2X_SK, SIMCLR_TINY
from samora_pipeline.models.teachers.teacher import TeacherDesign
from samora_pipeline.registry import Registry

BACKBONES: Registry[Backbone] = Registry("backbone")

BACKBONES.register("sam_vit_b")(SAM_VIT_B)
BACKBONES.register("sam_vit_l")(SAM_VIT_L)
BACKBONES.register("sam_vit_h")(SAM_VIT_H)
BACKBONES.register("sam2_hiera_b+")(SAM2_HIERA_B_PLUS)
BACKBONES.register("samora_tiny")(SAMORA_TINY)
BACKBONES.register("samora2_tiny")(SAMORA2_TINY)
BACKBONES.register("samora_small")(SAMORA_SMALL)


DECODERS: Registry[DecoderFactory] = Registry("decoder")

DECODERS.register("samed")(SamedDecoder)
DECODERS.register("sam2")(Sam2Decoder)
DECODERS.register("hsam")(HSamDecoder)
DECODERS.register("hsam_released")(partial(HSamDecoder, released=True))
DECODERS.register("autosam")(AutoSamDecoder)
DECODERS.register("skips")(SkipDecoder)


TEACHERS: Registry[TeacherDesign] = Registry("teacher")

TEACHERS.register("simclr_r50_2x_sk1")(SIMCLR_R50_2X_SK)
TEACHERS.register("simclr_tiny")(SIMCLR_TINY)
TEACHERS.register("mae_vit_l")(MAE_VIT_L)
TEACHERS.register("mae_tiny")(MAE_TINY)


FUSIONS: Registry[type[Fusion] | type[Merge]] = Registry("fusion")

FUSIONS.register("hl_attn")(HLAttention)
FUSIONS.register("hl_attn_self")(SelfHLAttention)
FUSIONS.register("lac")(LAC)
FUSIONS.register("mole")(MoLE)
FUSIONS.register("lorahub")(LoRAHub)
FUSIONS.register("hcat")(HCAT)


def fusion_options(name: str, options: Mapping[str, Any]) -> Any:
    """Return the options of the fusion called ``name`` as its own dataclass, with defaults for those not given.

    Args:
        name: of the fusion, see ``FusionSpec``.
        options: in the form of JSON; ``contracts.json_io.to_plain`` of the result gives all of them.

    Raises:
        UsageError: ``E-NAME-01`` an unknown fusion, ``E-SET-01`` an option that it does not have, with the nearest
            one, ``E-SET-03`` a value of another type.
    """
    return read_options(FUSIONS.get(name).Options, options, f'fusion "{name}"')


def build_fusion(spec: FusionSpec, *, num_experts: int, dim: int, window: int) -> Fusion | Merge:
    """The fusion of one block; arguments as in ``Joining``, errors as in ``fusion_options``."""
    options = fusion_options(spec.name, spec.options)
    return FUSIONS.get(spec.name)(options, num_experts=num_experts, dim=dim, window=window)
