"""Predicting many cases: the next one is read while the current one is segmented, and a bad one is set aside."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from samora_pipeline.contracts.label_table import label_table
from samora_pipeline.errors import ResourceError, SamoraError
from samora_pipeline.imaging.dicom import read_series
from samora_pipeline.imaging.files import read_volume, write_labels
from samora_pipeline.imaging.volume import Volume
from samora_pipeline.inference.case import InputCase
from samora_pipeline.inference.predictor import Predictor
from samora_pipeline.inference.probabilities import PROBABILITIES, UNCERTAINTY
from samora_pipeline.inference.record import Failure, OutputFolder
from samora_pipeline.run_log import Progress

logger = logging.getLogger("samora")


@dataclass(frozen=True)
class ReadCase:
    """The channels of a case in memory, and the seconds that took."""

    volumes: tuple[Volume, ...]
    seconds: float


class CaseFiles(NamedTuple):
    """The files that a case is predicted to; those that nobody asked for are None."""

    labels: Path
    probabilities: Path | None
    uncertainty: Path | None

    @property
    def paths(self) -> list[Path]:
        """All that are written, the label map first."""
        return [path for path in self if path is not None]


def output_files(case: InputCase, folder: Path, *, probabilities: bool = False, uncertainty: bool = False) -> CaseFiles:
    """Name the files of a case."""
    return CaseFiles(
        folder / f"{case.name}{case.ending}",
        folder / f"{case.name}{PROBABILITIES}" if probabilities else None,
        folder / f"{case.name}{UNCERTAINTY}" if uncertainty else None,
    )


def predict_cases(
    predictor: Predictor, cases: Sequence[tuple[InputCase, CaseFiles]], output: OutputFolder
) -> dict[str, Failure]:
    """Predict cases into their files and return those that failed, with the reason.

    Raises:
        ResourceError: ``E-DISK-01`` when nothing can be written any more.
    """
    failures: dict[str, Failure] = {}
    with Progress("predict", len(cases), unit="case") as progress:
        for (case, reading), (_, files) in zip(_read_ahead([case for case, _ in cases]), cases, strict=True):
            try:
                _predict_case(predictor, case, reading.result(), files, output)
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
    predictor: Predictor, case: InputCase, read: ReadCase, files: CaseFiles, output: OutputFolder
) -> None:
    for volume in read.volumes:
        for warning in volume.warnings:
            logger.warning("%s: %s", volume.path.name, warning)
    begun = time.monotonic()
    labels = predictor.predict_volume(read.volumes, probabilities=files.probabilities, uncertainty=files.uncertainty)
    predicted = time.monotonic()
    write_labels(files.labels, labels, read.volumes[0], label_table(predictor.labels))
    seconds = {"read": read.seconds, "predict": predicted - begun, "write": time.monotonic() - predicted}
    output.add(case.name, case.channels, files.paths, seconds)


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
    volumes = (read_series(case.channels),) if case.dicom else tuple(read_volume(path) for path in case.channels)
    return ReadCase(volumes, time.monotonic() - begun)
