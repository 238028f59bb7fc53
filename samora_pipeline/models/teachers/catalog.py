"""The teachers by name. A new one is a file beside this one and a line here."""

from samora_pipeline.models.teachers.mae import MAE_TINY, MAE_VIT_L
from samora_pipeline.models.teachers.simclr import SIMCLR_R50_2X_SK, SIMCLR_TINY
from samora_pipeline.models.teachers.teacher import TeacherDesign
from samora_pipeline.registry import Registry

TEACHERS: Registry[TeacherDesign] = Registry("teacher")

TEACHERS.register("simclr_r50_2x_sk1")(SIMCLR_R50_2X_SK)
TEACHERS.register("simclr_tiny")(SIMCLR_TINY)
TEACHERS.register("mae_vit_l")(MAE_VIT_L)
TEACHERS.register("mae_tiny")(MAE_TINY)
