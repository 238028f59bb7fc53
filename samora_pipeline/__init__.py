"""Label-efficient medical image segmentation with the Segment Anything Model; what Python needs of it.

``predict`` and ``evaluate`` are the commands of these names, ``Predictor`` segments arrays in memory. They are imported
when they are first used, so that ``import samora_pipeline`` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Predictor", "__version__", "evaluate", "predict"]

if TYPE_CHECKING:
    from samora_pipeline.evaluation.api import evaluate
    from samora_pipeline.inference.api import predict
    from samora_pipeline.inference.predictor import Predictor

_PLACES = {
    "Predictor": "samora_pipeline.inference.predictor",
    "evaluate": "samora_pipeline.evaluation.api",
    "predict": "samora_pipeline.inference.api",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
