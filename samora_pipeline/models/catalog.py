"""Backbones, decoders, teachers and fusions by name. A new one is a file of its family and a line here.

What is registered here is imported when it is first asked for: names and options are checked without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from samora_pipeline.contracts.model_spec import FusionSpec
from samora_pipeline.contracts.options import read_options
from samora_pipeline.contracts.part_options import FUSION_OPTIONS
from samora_pipeline.registry import Registry

if TYPE_CHECKING:
    from samora_pipeline.models.backbones.backbone import Backbone
    from samora_pipeline.models.decoders.decoder import DecoderFactory
    from samora_pipeline.models.fusions.fusion import Fusion, Merge
    from samora_pipeline.models.teachers.teacher import TeacherDesign

_MODELS = "samora_pipeline.models"

BACKBONES: Registry[Backbone] = Registry("backbone")
SMALL_BACKBONES = frozenset({"samora_tiny", "samora2_tiny", "samora_small"})
WHOLE_BACKBONES = frozenset({"samora_small"})
"""those of this package that are ``small``, and ``trained_whole`` (``backbones.backbone.Backbone``)"""

BACKBONES.register_place("sam_vit_b", f"{_MODELS}.backbones.sam:SAM_VIT_B")
BACKBONES.register_place("sam_vit_l", f"{_MODELS}.backbones.sam:SAM_VIT_L")
BACKBONES.register_place("sam_vit_h", f"{_MODELS}.backbones.sam:SAM_VIT_H")
BACKBONES.register_place("sam2_hiera_b+", f"{_MODELS}.backbones.sam2:SAM2_HIERA_B_PLUS")
BACKBONES.register_place("sam2.1_hiera_tiny", f"{_MODELS}.backbones.sam2:SAM2_HIERA_TINY")
BACKBONES.register_place("sam2.1_hiera_small", f"{_MODELS}.backbones.sam2:SAM2_HIERA_SMALL")
BACKBONES.register_place("efficient_sam_vitt", f"{_MODELS}.backbones.efficient_sam:EFFICIENT_SAM_TI")
BACKBONES.register_place("efficient_sam_vits", f"{_MODELS}.backbones.efficient_sam:EFFICIENT_SAM_S")
BACKBONES.register_place("mobile_sam", f"{_MODELS}.backbones.mobile_sam:MOBILE_SAM")
BACKBONES.register_place("samora_tiny", f"{_MODELS}.backbones.sam:SAMORA_TINY")
BACKBONES.register_place("samora2_tiny", f"{_MODELS}.backbones.sam2:SAMORA2_TINY")
BACKBONES.register_place("samora_small", f"{_MODELS}.backbones.small:SAMORA_SMALL")
_OURS = frozenset(BACKBONES.names())


DECODERS: Registry[DecoderFactory] = Registry("decoder")

DECODERS.register_place("samed", f"{_MODELS}.decoders.sam:SamedDecoder")
DECODERS.register_place("sam2", f"{_MODELS}.decoders.sam:Sam2Decoder")
DECODERS.register_place("hsam", f"{_MODELS}.decoders.hsam:HSamDecoder")
DECODERS.register_place("hsam_released", f"{_MODELS}.decoders.hsam:RELEASED_HSAM_DECODER")
DECODERS.register_place("autosam", f"{_MODELS}.decoders.sam:AutoSamDecoder")
DECODERS.register_place("skips", f"{_MODELS}.decoders.skips:SkipDecoder")


TEACHERS: Registry[TeacherDesign] = Registry("teacher")

TEACHERS.register_place("simclr_r50_2x_sk1", f"{_MODELS}.teachers.simclr:SIMCLR_R50_2X_SK")
TEACHERS.register_place("simclr_tiny", f"{_MODELS}.teachers.simclr:SIMCLR_TINY")
TEACHERS.register_place("mae_vit_l", f"{_MODELS}.teachers.mae:MAE_VIT_L")
TEACHERS.register_place("mae_tiny", f"{_MODELS}.teachers.mae:MAE_TINY")


FUSIONS: Registry[type[Fusion] | type[Merge]] = Registry("fusion")

FUSIONS.register_place("hl_attn", f"{_MODELS}.fusions.stepwise:HLAttention")
FUSIONS.register_place("hl_attn_self", f"{_MODELS}.fusions.stepwise:SelfHLAttention")
FUSIONS.register_place("lac", f"{_MODELS}.fusions.merges:LAC")
FUSIONS.register_place("mole", f"{_MODELS}.fusions.mole:MoLE")
FUSIONS.register_place("lorahub", f"{_MODELS}.fusions.merges:LoRAHub")
FUSIONS.register_place("hcat", f"{_MODELS}.fusions.stepwise:HCAT")


def is_small(backbone: str) -> bool:
    """Whether a backbone is trained on a CPU in minutes; one of this package is not imported to be asked.

    Raises:
        UsageError: ``E-NAME-01`` no such backbone.
    """
    if backbone in SMALL_BACKBONES:
        return True
    return backbone not in _OURS and BACKBONES.get(backbone).small


def is_trained_whole(backbone: str) -> bool:
    """Whether stage 2 trains the base with everything else; as ``is_small``."""
    if backbone in WHOLE_BACKBONES:
        return True
    return backbone not in _OURS and BACKBONES.get(backbone).trained_whole


def fusion_options(name: str, options: Mapping[str, Any]) -> Any:
    """Return the options of the fusion called ``name`` as its own dataclass, with defaults for those not given.

    Args:
        name: of the fusion, see ``FusionSpec``.
        options: in the form of JSON; ``contracts.json_io.to_plain`` of the result gives all of them.

    Raises:
        UsageError: ``E-NAME-01`` an unknown fusion, ``E-SET-01`` an option that it does not have, with the nearest
            one, ``E-SET-03`` a value of another type.
    """
    known = FUSION_OPTIONS.get(name) or FUSIONS.get(name).Options
    return read_options(known, options, f'fusion "{name}"')


def build_fusion(spec: FusionSpec, *, num_experts: int, dim: int, window: int) -> Fusion | Merge:
    """The fusion of one block; arguments as in ``Joining``, errors as in ``fusion_options``."""
    options = fusion_options(spec.name, spec.options)
    return FUSIONS.get(spec.name)(options, num_experts=num_experts, dim=dim, window=window)
