"""Whether each variant can be run by the version at hand, found out before the first one is trained."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.studies.steps import TrainedRun
from samora_pipeline.errors import SamoraError, UsageError


def require_available(runs: Sequence[TrainedRun], channels: int = 1, outputs: int = 2) -> None:
    """Resolve every run's trainer, recipe, levels, backbone, settings and network.

    Raises:
        UsageError: ``E-STUDY-08`` naming the first variant that this version does not have, and what it lacks.
    """
    from samora_pipeline.models.assembly import check_spec
    from trainers.runs.choices import choose_method, network_spec
    from trainers.runs.request import Request

    for run in runs:
        variant, scale = run.variant, run.setting.scale
        request = Request(
            dataset=run.setting.source.name,
            trainer=variant.trainer,
            split=run.budget,
            recipe=variant.recipe,
            unlabeled=variant.unlabeled,
            levels=variant.levels or None,
            backbone=scale.backbone_of(variant),
            backbone_weights=scale.base_of(variant),
            seed=run.seed,
            assignments=run.assignments(),
        )
        try:
            method = choose_method(request)
            check_spec(network_spec(method, input_size=scale.input_size, channels=channels, num_outputs=outputs))
        except SamoraError as error:
            raise UsageError(
                "E-STUDY-08",
                f'the variant "{variant.name}" cannot be run by this version: {error.what}',
                found=error.found,
                expected=error.expected,
                fix="leave it out of --variants",
            ) from error
