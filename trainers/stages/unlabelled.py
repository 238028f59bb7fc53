"""What the stages without labels share: what their results depend on, and how they are trained and monitored."""

from __future__ import annotations

from abc import ABC
from typing import Any, TypeVar

from samora_pipeline.contracts.model_spec import Level, ModelSpec
from samora_pipeline.contracts.run import POOL_STAMPS, RunConfig
from samora_pipeline.errors import UsageError
from samora_pipeline.models.freezing import Part, parameters_by_part
from trainers.loop.loop import Training
from trainers.loop.monitors import MonitorInputs
from trainers.loop.pretraining import Objective, pretraining
from trainers.settings import PretrainingSettings
from trainers.stages.stage import RunContext, Stage, Trainable

P = TypeVar("P", bound=PretrainingSettings)


class UnlabelledStage(Stage[P], ABC):
    """A stage that learns from the pool; runs with the same pool, seed, input size and settings share its result."""

    def common(self, run: RunConfig) -> dict[str, Any]:
        """What the results of all stages without labels depend on."""
        return {
            "input_size": run.model.input_size,
            "channels": run.model.in_channels,
            "pool": run.pool.key,
            "seed": run.seed,
        }

    def trainable(
        self,
        network: Any,
        objective: Objective[Any],
        run: RunConfig,
        context: RunContext,
        *,
        learns: frozenset[Part] | None,
        level: Level | None = None,
        taught_by: str = "",
        stamp: str | None = None,
    ) -> Trainable:
        """Describe the training of ``network`` by ``objective``.

        ``level``, ``taught_by`` and ``stamp`` (a warning flag of the teacher) are for the monitors.
        """
        source = context.source
        shared = tuple(flag for flag in run.stamps if flag in POOL_STAMPS)
        parameters = dict(network.named_parameters())
        # Without parts it is a teacher, whose running statistics change with it.
        buffers = {} if learns is not None else network.state_dict(keep_vars=True)

        def training() -> Training:
            return pretraining(
                self.name,
                network,
                objective,
                self.settings,
                len(source),
                self.seed(run),
                experts={} if level is None else parameters_by_part(network)[Part.EXPERTS],
                buffers={name: value for name, value in buffers.items() if name not in parameters},
                names=source.keys,
            )

        return Trainable(
            network,
            training,
            learns=learns,
            head=objective.head,
            monitored=MonitorInputs(
                self.name,
                network,
                objective,
                source,
                self.settings,
                context.device,
                level,
                taught_by=taught_by,
                stamps=(*shared, stamp) if stamp else shared,
            ),
        )


def sam_spec(run: RunConfig) -> ModelSpec:
    """The network of a run, which has to be a SAM.

    Raises:
        UsageError: ``E-STAGE-02`` any other network has no place for experts.
    """
    if not isinstance(run.model, ModelSpec):
        raise UsageError("E-STAGE-02", found=run.model.network)
    return run.model
