"""The backbones by name. A new one is a file beside this one and a line here."""

from samora_pipeline.models.backbones.backbone import Backbone
from samora_pipeline.models.backbones.sam import SAM_VIT_B, SAM_VIT_H, SAM_VIT_L, SAMORA_TINY
from samora_pipeline.models.backbones.sam2 import SAM2_HIERA_B_PLUS, SAMORA2_TINY
from samora_pipeline.registry import Registry

BACKBONES: Registry[Backbone] = Registry("backbone")

BACKBONES.register("sam_vit_b")(SAM_VIT_B)
BACKBONES.register("sam_vit_l")(SAM_VIT_L)
BACKBONES.register("sam_vit_h")(SAM_VIT_H)
BACKBONES.register("sam2_hiera_b+")(SAM2_HIERA_B_PLUS)
BACKBONES.register("samora_tiny")(SAMORA_TINY)
BACKBONES.register("samora2_tiny")(SAMORA2_TINY)
