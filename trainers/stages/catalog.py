"""The classes of stages by their kind. A new one is a file beside this one, a line here, and its place in a method."""

from typing import Any

from samora_pipeline.registry import Registry
from trainers.settings import StageSettings
from trainers.stages.experts import ContrastiveExpert, DenoisingExpert, DistilledExpert, MaskedExpert
from trainers.stages.finetune import Finetune
from trainers.stages.public_start import FinetunePublicStart
from trainers.stages.stage import Stage
from trainers.stages.teachers import ImageTeacher, PatchTeacher
from trainers.stages.unlabelled import Bootstrap
from trainers.stages.volumes import FinetuneVolumes

STAGES: Registry[type[Stage[Any]]] = Registry("stage")
for _stage in (
    *(Bootstrap, ImageTeacher, PatchTeacher),
    *(ContrastiveExpert, MaskedExpert, DenoisingExpert, DistilledExpert, Finetune),
    *(FinetuneVolumes, FinetunePublicStart),
):
    STAGES.register(_stage.Settings.kind)(_stage)


def make_stage(name: str, settings: StageSettings) -> Stage[Any]:
    """The stage that ``settings`` belong to, under its name in the run."""
    return STAGES.get(settings.kind)(name, settings)
