"""Scans without labels that are added to a raw dataset: they are moved into its imagesUn when all are there.

A scan that lies there with the same bytes is left alone, so that a command that was killed can be repeated.
"""

import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from dataset_conversion.survey import ConversionReport, Survey
from dataset_conversion.writing import CaseWriter, alone, failures_of, sweep
from samora_pipeline.contracts.dataset import RawDataset, read_dataset
from samora_pipeline.contracts.failures import FAILURES_FILE, write_failures
from samora_pipeline.contracts.json_io import write_json
from samora_pipeline.errors import DataError
from samora_pipeline.files import TEMPORARY_MARK, digest_file
from samora_pipeline.parallel import SERIAL, Engine


def join_survey(
    survey: Survey, target: Path, converter: str, source: str, *, overwrite: bool = False, engine: Engine = SERIAL
) -> ConversionReport:
    """Write the unlabelled cases of ``survey`` to imagesUn of the raw dataset ``target``.

    The report goes to conversion_SOURCE.json beside the dataset's own.

    Raises:
        DataError: ``E-CONV-02`` no usable case, ``E-CONV-04`` names that the dataset has already, ``E-CHAN-05``
            channels that it does not have.
        ResourceError: ``E-DISK-01``, or ``E-LOCK-01`` while another process converts to the same target.
    """
    dataset = read_dataset(target)
    _check_fit(survey, dataset)
    sweep(target)
    folder = target.parent / f"{TEMPORARY_MARK}{secrets.token_hex(4)}-{target.name}"
    try:
        with alone(folder):
            joined = replace(survey, description=dataset.description)
            writer = CaseWriter(joined, folder, folder, in_mm=dataset.ours.spacing_known)
            report, _ = writer.write_all(f"adding to {target.name}", converter, source, engine)
            added = _move(folder / "imagesUn", target / "imagesUn", overwrite)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = replace(report, notes=(*report.notes, f"{added} of the files were not in {target.name} yet"))
    write_json(report, target / f"conversion_{Path(source).resolve().name}.json")
    write_failures(failures_of(report), target / FAILURES_FILE)
    return report


def _move(source: Path, target: Path, overwrite: bool) -> int:
    """Move all files, and return how many were new or changed."""
    target.mkdir(exist_ok=True)
    files = sorted(source.iterdir())
    present = [path.name for path in files if (target / path.name).exists()]
    changed = [name for name in present if digest_file(source / name) != digest_file(target / name)]
    if changed and not overwrite:
        raise _names_taken(target.parent.name, "other", changed, "; --overwrite replaces the scans")
    new = [path for path in files if path.name not in present or path.name in changed]
    for path in new:
        path.replace(target / path.name)
    return len(new)


def _check_fit(survey: Survey, dataset: RawDataset) -> None:
    """Refuse scans of other channels than the dataset's, and names that its labelled or test scans have."""
    given, known = survey.description.channel_names, dataset.description.channel_names
    if given and [name.lower() for name in given.values()] != [name.lower() for name in known.values()]:
        found, expected = ", ".join(given.values()), ", ".join(known.values())
        raise DataError("E-CHAN-05", dataset=dataset, found=found, expected=expected)
    if taken := sorted({*survey.names("Un")} & {*dataset.training(), *dataset.test()}):
        raise _names_taken(dataset.folder.name, "labelled or test", taken, "")


def _names_taken(dataset: str, which: str, names: list[str], otherwise: str) -> DataError:
    return DataError("E-CONV-04", dataset=dataset, which=which, otherwise=otherwise, found=", ".join(names[:10]))
