"""Predicting on the workers of a cluster: each loads the model once, and writes the label maps of its cases itself.

The process that hands out the cases reads no voxel and loads no model; it keeps the record of what is finished.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial

from samora_pipeline.contracts.failures import Failure, printable
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.errors import DataError
from samora_pipeline.inference.case import InputCase
from samora_pipeline.inference.job import CaseFiles, PredictorSettings, predict_case, read_case
from samora_pipeline.inference.precision import Precision
from samora_pipeline.inference.predictor import Predictor
from samora_pipeline.inference.record import ModelRecord, OutputFolder, PredictionRecord, prediction_record
from samora_pipeline.parallel import Engine

_FULL = "E-DISK-01"


def record_on(
    engine: Engine, settings: PredictorSettings, model: ModelRecord, config: RunConfig
) -> tuple[PredictionRecord, PredictorSettings]:
    """Load the model on one worker; return its record, and settings with which all workers compute alike.

    Raises:
        SamoraError: what ``Predictor.load`` raises, and what the engine does.
    """
    ((_, outcome),) = engine.each(partial(_record, model, config), [("the model", settings)], "loading", gpu=True)
    if outcome.result is None:
        raise outcome.error or ValueError("no record came back")
    precision: Precision = "bf16" if outcome.result.precision == "bf16" else "fp32"
    return outcome.result, replace(settings, precision=precision, batch_size=outcome.result.slices_per_step)


def predict_cases_on(
    engine: Engine, settings: PredictorSettings, cases: Sequence[tuple[InputCase, CaseFiles]], output: OutputFolder
) -> dict[str, Failure]:
    """Predict cases into their files and return those that failed, with the reason.

    Raises:
        ResourceError: ``E-DISK-01`` when nothing can be written any more, ``E-DASK-02`` the cluster went away.
    """
    failures: dict[str, Failure] = {}
    items = [(printable(case.name), (case, files)) for case, files in cases]
    for index, outcome in engine.each(partial(_predict, settings), items, "predict", gpu=True):
        if outcome.error is not None:
            if outcome.error.code == _FULL:
                raise outcome.error
            failures[outcome.name] = Failure.of(outcome.name, outcome.error)
        elif outcome.result is not None:
            case, files = cases[index]
            output.add(case.name, case.channels, files.paths, outcome.result)
    return failures


@lru_cache(maxsize=1)
def _predictor(settings: PredictorSettings) -> Predictor:
    return settings.load()


def _record(model: ModelRecord, config: RunConfig, settings: PredictorSettings) -> PredictionRecord:
    return prediction_record(_predictor(settings), model, config)


def _predict(settings: PredictorSettings, task: tuple[InputCase, CaseFiles]) -> dict[str, float]:
    """Predict one case in a worker; return the seconds of its phases."""
    case, files = task
    try:
        return predict_case(_predictor(settings), case, read_case(case), files)
    except (OSError, UnicodeError) as error:
        failure = Failure.of(printable(case.name), error)
        raise DataError(failure.code, failure.what, found=failure.found) from error
