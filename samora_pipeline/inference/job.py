"""Predicting many cases: the next one is read while the current one is segmented, and a bad one is skipped."""

import argparse
import shlex
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from samora_pipeline.command_line import EXIT_FAILED_CASES, EXIT_OK, say
from samora_pipeline.contracts.failures import Failure, printable, write_failures
from samora_pipeline.contracts.label_table import label_table
from samora_pipeline.contracts.run import CONFIG_FILE, RunConfig
from samora_pipeline.contracts.run_reader import read_run_config
from samora_pipeline.errors import SamoraError, UsageError
from samora_pipeline.files import sweep
from samora_pipeline.imaging.dicom import read_series
from samora_pipeline.imaging.files import read_volume, write_labels
from samora_pipeline.imaging.pictures import is_picture, read_channels, write_label_picture
from samora_pipeline.imaging.volume import Volume
from samora_pipeline.inference.case import InputCase, find_cases, own_share, parse_shard, refuse_overwriting
from samora_pipeline.inference.packed import unpacked
from samora_pipeline.inference.precision import Precision
from samora_pipeline.inference.predictor import Predictor
from samora_pipeline.inference.probabilities import PROBABILITIES, UNCERTAINTY
from samora_pipeline.inference.record import (
    ModelRecord,
    OutputFolder,
    PredictionRecord,
    model_record,
    prediction_record,
)
from samora_pipeline.inference.runs import IMAGE_FOLDERS, Choice, choose
from samora_pipeline.parallel import Engine
from samora_pipeline.paths import resolve_roots
from samora_pipeline.registry import shortened
from samora_pipeline.run_log import Progress, logger

_Read = tuple[tuple[Volume, ...], float]
"""the channels of a case in memory, and the seconds that took"""


class CaseFiles(NamedTuple):
    """The files that a case is predicted to; those that nobody asked for are None."""

    labels: Path
    probabilities: Path | None
    uncertainty: Path | None

    @property
    def paths(self) -> list[Path]:
        """All that are written, the label map first."""
        return [path for path in self if path is not None]


@dataclass(frozen=True)
class PredictorSettings:
    """What ``Predictor.load`` takes, so that it can be sent to a worker."""

    run: Path
    folds: tuple[str, ...]
    weights_folder: Path
    device: str | None
    precision: Precision
    batch_size: int | None
    tta: bool
    postprocessing: bool
    allow_code: bool

    def load(self) -> Predictor:
        """The predictor; raises what ``Predictor.load`` raises."""
        return Predictor.load(**vars(self))


def output_files(case: InputCase, folder: Path, *, probabilities: bool = False, uncertainty: bool = False) -> CaseFiles:
    """Name the files of a case."""
    return CaseFiles(
        folder / f"{case.name}{case.ending}",
        folder / f"{case.name}{PROBABILITIES}" if probabilities else None,
        folder / f"{case.name}{UNCERTAINTY}" if uncertainty else None,
    )


def predict(arguments: argparse.Namespace) -> int:
    """Run ``samora_predict`` with its parsed arguments and return the exit code."""
    with unpacked(arguments.model, allow_code=arguments.allow_code) as model:
        return _predict_with(model, arguments)


def _predict_with(named: str | None, arguments: argparse.Namespace) -> int:
    """As ``predict``, with the run that ``named`` leads to."""
    roots, folder = resolve_roots(arguments.root), Path(arguments.output)
    shard = parse_shard(arguments.shard)
    choice = choose(named, arguments.folds, Path(arguments.images), roots, arguments.dataset)
    config = read_run_config(choice.run.folds[choice.folds[0]] / CONFIG_FILE, allow_code=arguments.allow_code)
    packed = named is not None and named != arguments.model
    if packed and arguments.dask:
        # It is unpacked to a folder of this machine, which ends with the command.
        raise UsageError(
            "E-ARG-09",
            "--dask and a packed model do not go together",
            found="both",
            fix=f"samora_import {arguments.model}",
        )
    remarks = [remark.replace(str(named), arguments.model) if packed else remark for remark in choice.remarks]
    for line in (f"root: {roots.root} ({roots.origin})", *remarks, *(f"warning: {s}" for s in config.warnings)):
        say(line)
    refuse_overwriting(choice.images, folder)
    all_cases = find_cases(choice.images, config.plans.channel_names, leave_out=[folder])
    wanted = {"probabilities": arguments.save_probabilities, "uncertainty": arguments.save_uncertainty}
    cases = [(case, output_files(case, folder, **wanted)) for case in own_share(all_cases, shard)]
    model = model_record(
        choice.run.folder,
        {name: choice.run.folds[name] for name in choice.folds},
        config.base_digest,
        tta=arguments.tta,
        postprocessing=not arguments.no_postprocessing,
        save_probabilities=arguments.save_probabilities,
        save_uncertainty=arguments.save_uncertainty,
    )
    if packed:
        # The folder it was unpacked to is gone afterwards.
        model = replace(model, run=str(Path(arguments.model) / choice.run.folder.name))
    output = OutputFolder(folder, model, shard, resume=arguments.resume)
    output.refuse_strange(path for _, files in cases for path in files.paths)
    done = {case.name for case, files in cases if output.finished(case.name, case.channels, files.paths)}
    to_do = [(case, files) for case, files in cases if case.name not in done]
    if shard[1] == 1:
        # Another share may be writing here, and its temporary files are not ours to remove.
        sweep(folder)
    failures: dict[str, Failure] = {}
    if to_do:
        settings = _settings(arguments, choice, roots.weights)
        failures = _predict_missing(arguments.dask, settings, model, config, to_do, done, output)
        output.conclude()
        write_failures(failures, output.failures_path)
    if failures:
        told = (f"{name}: {failure.code} {failure.what} ({failure.found})" for name, failure in failures.items())
        say("failed: " + shortened(told, "\nfailed: "))
    parts = [f"{len(to_do) - len(failures)} predicted"]
    parts += [f"{len(done)} were complete already"] if done else []
    parts += [f"{len(failures)} failed, see {output.failures_path}"] if failures else []
    say(f"{folder}: {', '.join(parts)}")
    if len(failures) < len(all_cases):
        say(f"next: {_next_command(choice.images, folder, pictures=is_picture(all_cases[0].channels[0]))}")
    return EXIT_FAILED_CASES if failures else EXIT_OK


def _next_command(images: Path, folder: Path, *, pictures: bool) -> str:
    """Scores where the references lie beside the images, else label maps for a viewer of volumes."""
    references = images.parent / images.name.replace("images", "labels", 1)
    if images.name in IMAGE_FOLDERS and references.is_dir():
        return shlex.join(["samora_evaluate", "-g", str(references), "-p", str(folder)])
    if pictures:
        return shlex.join(["samora_evaluate", "-g", "LABELS", "-p", str(folder)])
    target = folder.with_name(f"{folder.name}_viewer")
    return f"{shlex.join(['samora_export', 'labels', str(folder), '-o', str(target)])} --format seg.nrrd  for 3D Slicer"


def _predict_missing(
    dask: str | None,
    settings: PredictorSettings,
    model: ModelRecord,
    config: RunConfig,
    cases: Sequence[tuple[InputCase, CaseFiles]],
    done: Collection[str],
    output: OutputFolder,
) -> dict[str, Failure]:
    from samora_pipeline.inference.cluster_job import predict_cases_on, record_on

    names = [case.name for case, _ in cases]
    if dask:
        engine = Engine(dask=dask)
        record, settings = record_on(engine, settings, model, config)
        _say_device(record, model)
        output.start(record, done, names)
        return predict_cases_on(engine, settings, cases, output)
    predictor = settings.load()
    record = prediction_record(predictor, model, config)
    _say_device(record, model)
    output.start(record, done, names)
    return predict_cases(predictor, cases, output)


def _say_device(record: PredictionRecord, model: ModelRecord) -> None:
    how = f"{record.precision} ({record.precision_why}), {record.slices_per_step} slices per step"
    say(f"device: {record.device}, {how}")
    if model.largest_component:
        say(f"largest component only: {', '.join(model.largest_component)}  (--no-postprocessing keeps all)")


def _settings(arguments: argparse.Namespace, choice: Choice, weights: Path) -> PredictorSettings:
    return PredictorSettings(
        choice.run.folder,
        folds=tuple(choice.folds),
        weights_folder=weights,
        device=arguments.device,
        precision=arguments.precision,
        batch_size=arguments.batch,
        tta=arguments.tta,
        postprocessing=not arguments.no_postprocessing,
        allow_code=arguments.allow_code,
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
            name = printable(case.name)
            try:
                seconds = predict_case(predictor, case, reading.result(), files)
                output.add(case.name, case.channels, files.paths, seconds)
            except (SamoraError, MemoryError, OSError, UnicodeError) as error:
                if isinstance(error, SamoraError) and error.code == "E-DISK-01":
                    raise
                failures[name] = Failure.of(name, error)
                logger.warning("%s is skipped: %s", name, failures[name].what)
            progress.advance(name)
    return failures


def predict_case(predictor: Predictor, case: InputCase, read: _Read, files: CaseFiles) -> dict[str, float]:
    """Predict a case that was read and write its files; return the seconds of each phase."""
    volumes, read_seconds = read
    for volume in volumes:
        for warning in volume.warnings:
            logger.warning("%s: %s", volume.path.name, warning)
    if volumes[0].grid.spacing is None and not is_picture(volumes[0].path):
        logger.warning("%s states no voxel spacing, so its label map has none either", case.name)
    begun = time.monotonic()
    labels = predictor.predict_volume(volumes, probabilities=files.probabilities, uncertainty=files.uncertainty)
    predicted = time.monotonic()
    if is_picture(files.labels):
        write_label_picture(files.labels, labels)
    else:
        write_labels(files.labels, labels, volumes[0], label_table(predictor.labels))
    return {"read": read_seconds, "predict": predicted - begun, "write": time.monotonic() - predicted}


def _read_ahead(cases: Sequence[InputCase]) -> Iterator[tuple[InputCase, Future[_Read]]]:
    """Yield each case with its future; one thread reads the next case meanwhile, so two are in memory at most."""
    with ThreadPoolExecutor(1) as pool:
        pending: list[Future[_Read]] = []
        for number, case in enumerate(cases):
            reading = pending.pop() if pending else pool.submit(read_case, case)
            if number + 1 < len(cases):
                pending.append(pool.submit(read_case, cases[number + 1]))
            yield case, reading
            # Without this the volumes would live on until the next case is done.
            del reading


def read_case(case: InputCase) -> _Read:
    """The case in memory; what was known to be wrong with it is raised, as what is found in reading is."""
    begun = time.monotonic()
    if case.fault:
        raise case.fault
    if case.dicom:
        volumes: tuple[Volume, ...] = (read_series(case.channels),)
    elif is_picture(case.channels[0]):
        volumes = read_channels(case.channels, case.wanted)
    else:
        volumes = tuple(read_volume(path) for path in case.channels)
    return volumes, time.monotonic() - begun
