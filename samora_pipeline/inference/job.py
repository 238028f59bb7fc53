"""Predicting many cases: the next one is read while the current one is segmented, and a bad one is set aside."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from samora_pipeline.errors import ResourceError, SamoraError
from samora_pipeline.imaging.files import read_volume, write_labels
from samora_pipeline.imaging.volume import Volume
from samora_pipeline.inference.cases import InputCase
from samora_pipeline.inference.predictor import Predictor
from samora_pipeline.inference.probabilities import SUFFIX
from samora_pipeline.inference.record import Failure, OutputFolder
from samora_pipeline.run_log import Progress

logger = logging.getLogger("samora")


@dataclass(frozen=True)
class ReadCase:
    """The channels of a case in memory, and the seconds that took."""

    volumes: tuple[Volume, ...]
    seconds: float


def output_files(case: InputCase, folder: Path, save_probabilities: bool) -> list[Path]:
    """The files that a case is predicted to: its label map first."""
    labels = folder / f"{case.name}{case.ending}"
    return [labels, folder / f"{case.name}{SUFFIX}"] if save_probabilities else [labels]


def predict_cases(
    predictor: Predictor, cases: Sequence[InputCase], output: OutputFolder, *, save_probabilities: bool
) -> dict[str, Failure]:
    """Predict ``cases`` into the output folder and return those that failed, with the reason.

    Raises:
        ResourceError: ``E-DISK-01`` when nothing can be written any more.
    """
    failures: dict[str, Failure] = {}
    with Progress("predict", len(cases), unit="case") as progress:
        for case, reading in _read_ahead(cases):
            try:
                _predict_case(predictor, case, reading.result(), output, save_probabilities)
            except MemoryError:
                failures[case.name] = Failure("E-MEM-02", f"memory does not hold the case {case.name}")
            except SamoraError as error:
                if isinstance(error, ResourceError) and error.code == "E-DISK-01":
                    raise
                failures[case.name] = Failure.of(error)
            if case.name in failures:
                logger.warning("%s is set aside: %s", case.name, failures[case.name].what)
            progress.advance(case.name)
    return failures


def _predict_case(
    predictor: Predictor, case: InputCase, read: ReadCase, output: OutputFolder, save_probabilities: bool
) -> None:
    for volume in read.volumes:
        for warning in volume.warnings:
            logger.warning("%s: %s", volume.path.name, warning)
    files = output_files(case, output.folder, save_probabilities)
    begun = time.monotonic()
    labels = predictor.predict_volume(read.volumes, probabilities=files[1] if save_probabilities else None)
    predicted = time.monotonic()
    write_labels(files[0], labels, read.volumes[0])
    seconds = {"read": read.seconds, "predict": predicted - begun, "write": time.monotonic() - predicted}
    output.add(case.name, case.channels, files, seconds)


def _read_ahead(cases: Sequence[InputCase]) -> Iterator[tuple[InputCase, Future[ReadCase]]]:
    """Yield each case with its future; one thread reads the next case meanwhile, so two are in memory at most."""
    with ThreadPoolExecutor(1) as pool:
        pending: list[Future[ReadCase]] = []
        for number, case in enumerate(cases):
            reading = pending.pop() if pending else pool.submit(_read, case)
            if number + 1 < len(cases):
                pending.append(pool.submit(_read, cases[number + 1]))
            yield case, reading
            # Without this the volumes would live on until the next case is done.
            del reading


def _read(case: InputCase) -> ReadCase:
    begun = time.monotonic()
    volumes = tuple(read_volume(path) for path in case.channels)
    return ReadCase(volumes, time.monotonic() - begun)
