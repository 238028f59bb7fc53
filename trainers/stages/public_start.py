"""Stage 2 of a network whose encoder may start from a public file of its authors."""

from pathlib import Path
from typing import ClassVar

from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.models.module import ModuleNetwork
from samora_pipeline.models.samora import Network
from samora_pipeline.models.transunet import TransUNet
from samora_pipeline.run_log import logger
from samora_pipeline.weights.files import read_shapes
from samora_pipeline.weights.hybrid_checkpoint import load_hybrid
from trainers.rival_settings import PublicStartSettings
from trainers.settings import StageSettings
from trainers.stages.finetune import Finetune
from trainers.stages.stage import RunContext


class FinetunePublicStart(Finetune):
    """``Finetune``, after the encoder of a TransUNet was read from the file that the settings name."""

    Settings: ClassVar[type[StageSettings]] = PublicStartSettings

    def _new(self, run: RunConfig, context: RunContext) -> Network:
        """See ``Finetune._new``; a draft only looks at the file.

        Raises:
            AssetError, DataError: as ``weights.hybrid_checkpoint.load_hybrid``.
        """
        network = super()._new(run, context)
        settings = self.settings
        if not isinstance(settings, PublicStartSettings) or settings.weights is None:
            return network
        path = Path(settings.weights).expanduser()
        if context.draft:
            read_shapes(path)
        elif isinstance(network, ModuleNetwork) and isinstance(network.module, TransUNet):
            logger.info("%s: %s tensors", path.name, load_hybrid(network.module, path))
        return network
