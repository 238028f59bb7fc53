"""Label maps in the formats of viewers: which names and colours belong to them, and one file per case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from samora_pipeline.contracts.dataset import read_dataset_json
from samora_pipeline.contracts.label_table import LabelTable, label_table
from samora_pipeline.contracts.run import CONFIG_FILE
from samora_pipeline.contracts.run_reader import read_run_config
from samora_pipeline.errors import DataError, SamoraError, UsageError
from samora_pipeline.files import write_text
from samora_pipeline.handover import dicom_seg, seg_nrrd
from samora_pipeline.imaging.files import NIFTI_ENDINGS, READABLE, read_label_names, read_volume, write_labels
from samora_pipeline.imaging.volume import label_array
from samora_pipeline.inference.probabilities import UNCERTAINTY
from samora_pipeline.inference.runs import named_run

LabelFormat = Literal["nii.gz", "seg.nrrd", "itksnap", "dcm"]
ITKSNAP_FILE = "itksnap_labels.txt"

_ENDINGS = {"nii.gz": ".nii.gz", "seg.nrrd": seg_nrrd.ENDING, "dcm": dicom_seg.ENDING}
# The first two lines are how readers recognise the file.
_ITKSNAP_HEAD = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# index, red, green, blue (0 to 255), opacity (0 to 1), shown in slices, shown in 3-D, name
################################################
"""


@dataclass(frozen=True)
class LabelExport:
    """One export: label maps (a folder or one file), a folder to write to, and the format.

    ``model`` names the run whose labels they are (None: as the files state), ``scan`` is the folder of the DICOM
    series.
    """

    source: Path
    output: Path
    format: LabelFormat
    model: str | None = None
    scan: Path | None = None


def export_labels(
    request: LabelExport, results: Path, report: Callable[[str], None]
) -> tuple[list[Path], dict[str, SamoraError]]:
    """Write every case and return the files, and the error of each case that could not be written.

    Raises:
        UsageError: ``E-SEG-03`` options that do not fit the format.
        DataError: ``E-SEG-01`` no label map, ``E-OUT-04`` a file is there already.
        AssetError: ``E-SEG-04`` without highdicom, ``E-RUN-01`` no such run.
    """
    files = label_files(request.source)
    _check_options(request, len(files))
    if request.format == "itksnap":
        targets = {files[0]: request.output / ITKSNAP_FILE}
    else:
        targets = {file: request.output / f"{_stem(file)}{_ENDINGS[request.format]}" for file in files}
    _refuse_existing(list(targets.values()))
    failed: dict[str, SamoraError] = {}
    for file, target in targets.items():
        try:
            _write(file, target, request, table_of(file, request.model, results))
        except DataError as error:
            failed[file.name] = error
            continue
        report(str(target))
    return [target for file, target in targets.items() if file.name not in failed], failed


def label_files(source: Path) -> list[Path]:
    """The label maps of a folder, by name, or the one file.

    Raises:
        DataError: ``E-SEG-01`` when there is none.
    """
    found = [source] if source.is_file() else sorted(source.glob("[!.]*"))
    files = [path for path in found if path.name.lower().endswith(READABLE)]
    files = [path for path in files if path == source or not path.name.endswith((UNCERTAINTY, seg_nrrd.ENDING))]
    if not files:
        raise DataError(
            "E-SEG-01",
            readable=", ".join(READABLE),
            found=f"none in {source}" if source.exists() else f"no file or folder {source}",
        )
    return files


def table_of(file: Path, model: str | None, results: Path) -> LabelTable:
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


def write_itksnap_labels(path: Path, table: LabelTable) -> None:
    """Write the label description file of ITK-SNAP (Segmentation > Import label descriptions), atomically.

    ITK-SNAP's own entry for 0 comes first.
    """
    rows = [(0, (0, 0, 0), 0, "Clear Label"), *((entry.value, entry.colour, 1, entry.name) for entry in table)]
    lines = []
    for value, (red, green, blue), shown, name in rows:
        plain = " ".join(name.replace('"', "'").split())
        lines.append(f'{value:5d}  {red:4d} {green:4d} {blue:4d}  {shown:7d}  {shown} {shown}    "{plain}"\n')
    write_text(path, _ITKSNAP_HEAD + "".join(lines))


def _write(file: Path, target: Path, request: LabelExport, table: LabelTable) -> None:
    if request.format == "itksnap":
        write_itksnap_labels(target, table)
        return
    volume = read_volume(file)
    labels = label_array(volume)
    if strange := sorted(set(np.unique(labels).tolist()) - {0, *(entry.value for entry in table)}):
        raise DataError(
            "E-SEG-07",
            file=file,
            found=", ".join(map(str, strange)),
            expected=", ".join(f"{entry.value} {entry.name}" for entry in table),
        )
    if request.format == "seg.nrrd":
        seg_nrrd.write_seg_nrrd(target, labels, volume.grid, table)
    elif request.scan is not None:
        dicom_seg.write_dicom_seg(target, volume, labels, table, request.scan)
    else:
        write_labels(target, labels, volume, table)


def _check_options(request: LabelExport, count: int) -> None:
    dicom = request.format == "dcm"
    if dicom != (request.scan is not None) or (dicom and count > 1):
        raise UsageError(
            "E-SEG-03", found=f"--format {request.format}, {count} label maps, --dicom {request.scan or 'not given'}"
        )
    if dicom:
        dicom_seg.require_highdicom()


def _refuse_existing(targets: list[Path]) -> None:
    present = [str(path) for path in targets if path.exists()]
    if present:
        raise DataError(
            "E-OUT-04", number=len(present), found=", ".join(present[:5]) + (", ..." if len(present) > 5 else "")
        )


def _stem(path: Path) -> str:
    ending = max((ending for ending in READABLE if path.name.lower().endswith(ending)), key=len)
    return path.name[: -len(ending)]
