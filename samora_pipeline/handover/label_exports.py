"""Label maps in the formats of viewers: which names and colours belong to them, and one file per case."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from samora_pipeline.contracts.dataset import read_dataset_json
from samora_pipeline.contracts.failures import FAILURES_FILE, Failure, printable, write_failures
from samora_pipeline.contracts.label_table import LabelTable, label_table
from samora_pipeline.contracts.run import CONFIG_FILE
from samora_pipeline.contracts.run_reader import read_run_config
from samora_pipeline.errors import DataError, SamoraError, UsageError
from samora_pipeline.handover import dicom_seg
from samora_pipeline.imaging.files import (
    NIFTI_ENDINGS,
    READABLE,
    SEGMENTATION_ENDING,
    read_label_names,
    read_volume,
    stem,
    write_labels,
)
from samora_pipeline.imaging.inputs import fault_of_name
from samora_pipeline.imaging.itksnap import write_itksnap
from samora_pipeline.imaging.segmentations import write_segmentation
from samora_pipeline.imaging.volume import label_array
from samora_pipeline.inference.probabilities import UNCERTAINTY
from samora_pipeline.inference.runs import named_run
from samora_pipeline.parallel import SERIAL, Engine
from samora_pipeline.registry import shortened

LabelFormat = Literal["nii.gz", "seg.nrrd", "itksnap", "dcm"]
_SEG_NRRD = SEGMENTATION_ENDING

_ENDINGS = {"nii.gz": ".nii.gz", "seg.nrrd": _SEG_NRRD, "dcm": ".dcm", "itksnap": "itksnap_labels.txt"}


def export_labels(
    source: Path,
    output: Path,
    form: LabelFormat,
    *,
    results: Path,
    report: Callable[[str], None],
    model: str | None = None,
    scan: Path | None = None,
    engine: Engine = SERIAL,
) -> tuple[list[Path], dict[str, SamoraError]]:
    """Write every case and return the files, and the error of each case that could not be written.

    Args:
        source: a folder of label maps, or one file.
        output: the folder to write to.
        form: the format.
        results: where runs lie.
        report: called with the path of each file once it is written.
        model: the run whose labels they are; None: as the files state.
        scan: the folder of the DICOM series that was segmented.
        engine: what works on the cases.

    Raises:
        UsageError: ``E-SEG-03`` options that do not fit the format.
        DataError: ``E-SEG-01`` no label map, ``E-OUT-04`` a file is there already.
        AssetError: ``E-SEG-04`` without highdicom, ``E-RUN-01`` no such run.
    """
    files = _label_files(source)
    if (form == "dcm") != (scan is not None) or (scan and len(files) > 1):
        raise UsageError("E-SEG-03", found=f"--format {form}, {len(files)} label maps, --dicom {scan or 'not given'}")
    if scan:
        dicom_seg.extra_module("highdicom")
    targets = {file: output / f"{stem(file)}{_ENDINGS[form]}" for file in files}
    if form == "itksnap":
        targets = {files[0]: output / _ENDINGS[form]}
    if present := [str(path) for path in targets.values() if path.exists()]:
        found = shortened(present)
        raise DataError("E-OUT-04", number=len(present), found=found)
    failed: dict[str, SamoraError] = {}
    written = []
    table = partial(_table_of, model=model, results=results)
    items = [(file.name, (file, target)) for file, target in targets.items()]
    for index, outcome in engine.each(partial(_export, form, scan, table), items, "exporting"):
        if outcome.error is None:
            report(str(items[index][1][1]))
            written.append(items[index][1][1])
        elif isinstance(outcome.error, DataError) or outcome.error.code == "E-MEM-18":
            failed[printable(outcome.name)] = outcome.error
        else:
            raise outcome.error
    if written or len(failed) > 1:
        write_failures({name: Failure.of(name, error) for name, error in failed.items()}, output / FAILURES_FILE)
    return written, failed


def _export(
    form: LabelFormat, scan: Path | None, table: Callable[[Path], LabelTable], files: tuple[Path, Path]
) -> None:
    file, target = files
    if fault := fault_of_name(file.name):
        raise fault
    _write(file, target, form, scan, table(file))


def _label_files(source: Path) -> list[Path]:
    """The label maps of a folder, by name, or the one file.

    Raises:
        DataError: ``E-SEG-01`` when there is none.
    """
    found = [source] if source.is_file() else [path for path in sorted(source.glob("[!.]*")) if not path.is_dir()]
    others = () if source.is_file() else (UNCERTAINTY, _SEG_NRRD)
    files = [path for path in found if path.name.lower().endswith(READABLE) and not path.name.endswith(others)]
    if not files:
        what = f"none in {source}" if source.exists() else f"no file or folder {source}"
        raise DataError("E-SEG-01", readable=", ".join(READABLE), found=what)
    return files


def _table_of(file: Path, model: str | None, results: Path) -> LabelTable:
    """Names and colours: those of the named run, of the file's own header, or of the raw dataset that it lies in.

    Raises:
        DataError: ``E-SEG-02`` when nothing tells them.
        AssetError: ``E-RUN-01`` no such run.
    """
    if model is not None:
        run = named_run(model, results)
        # Its labels are read; nothing is built from what it names.
        return label_table(read_run_config(next(iter(run.folds.values())) / CONFIG_FILE, allow_code=True).labels)
    if file.name.lower().endswith(NIFTI_ENDINGS) and (own := read_label_names(file)):
        return own
    description = file.resolve().parents[1] / "dataset.json"
    if description.is_file():
        return label_table(read_dataset_json(description).scheme)
    raise DataError("E-SEG-02", file=file, found=f"no names in its header, and no {description}")


def _write(file: Path, target: Path, form: LabelFormat, scan: Path | None, table: LabelTable) -> None:
    if form == "itksnap":
        write_itksnap(target, table)
        return
    volume = read_volume(file)
    labels = label_array(volume)
    if strange := sorted(set(np.unique(labels).tolist()) - {0, *(entry.value for entry in table)}):
        expected = ", ".join(f"{entry.value} {entry.name}" for entry in table)
        raise DataError("E-SEG-07", file=file, found=", ".join(map(str, strange)), expected=expected)
    if form == "seg.nrrd":
        write_segmentation(target, labels, volume.grid, table)
    elif scan:
        dicom_seg.write_dicom_seg(target, volume, labels, table, scan)
    else:
        write_labels(target, labels, volume, table)
