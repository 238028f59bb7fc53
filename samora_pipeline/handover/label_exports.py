"""Label maps in the formats of viewers: which names and colours belong to them, and one file per case.

For 3D Slicer: a NRRD file (.seg.nrrd) whose header names, colours and codes every segment. The header is written here
and not by SimpleITK, which reports no error on a full disk; the voxels are one binary label map with all segments in
one layer. Keys as 3D Slicer's documentation of the format lists them.
"""

import gzip
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from samora_pipeline.contracts.anatomy_codes import anatomy_code
from samora_pipeline.contracts.dataset import read_dataset_json
from samora_pipeline.contracts.failures import FAILURES_FILE, Failure, printable, write_failures
from samora_pipeline.contracts.label_table import LabelTable, label_table
from samora_pipeline.contracts.run import CONFIG_FILE
from samora_pipeline.contracts.run_reader import read_run_config
from samora_pipeline.errors import DataError, SamoraError, UsageError
from samora_pipeline.files import write_bytes, write_text
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
from samora_pipeline.imaging.volume import Grid, label_array
from samora_pipeline.inference.probabilities import UNCERTAINTY
from samora_pipeline.inference.runs import named_run
from samora_pipeline.parallel import SERIAL, Engine
from samora_pipeline.registry import shortened

LabelFormat = Literal["nii.gz", "seg.nrrd", "itksnap", "dcm"]
_SEG_NRRD = SEGMENTATION_ENDING
_TERMINOLOGY = "Segmentation category and type - 3D Slicer General Anatomy list"
_ANATOMY = "Anatomic codes - DICOM master list"

_ENDINGS = {"nii.gz": ".nii.gz", "seg.nrrd": _SEG_NRRD, "dcm": ".dcm", "itksnap": "itksnap_labels.txt"}
# The first two lines are how readers recognise the file.
_ITKSNAP_HEAD = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# index, red, green, blue (0 to 255), opacity (0 to 1), shown in slices, shown in 3-D, name
################################################
"""


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


def _write_itksnap(path: Path, table: LabelTable) -> None:
    """Write the label description file of ITK-SNAP (Segmentation > Import label descriptions), atomically.

    ITK-SNAP's own entry for 0 comes first.
    """
    rows = [(0, (0, 0, 0), 0, "Clear Label"), *((entry.value, entry.colour, 1, entry.name) for entry in table)]
    lines = []
    for value, (red, green, blue), shown, name in rows:
        plain = " ".join(name.replace('"', "'").split())
        lines.append(f'{value:5d}  {red:4d} {green:4d} {blue:4d}  {shown:7d}  {shown} {shown}    "{plain}"\n')
    write_text(path, _ITKSNAP_HEAD + "".join(lines))


def _write(file: Path, target: Path, form: LabelFormat, scan: Path | None, table: LabelTable) -> None:
    if form == "itksnap":
        _write_itksnap(target, table)
        return
    volume = read_volume(file)
    labels = label_array(volume)
    if strange := sorted(set(np.unique(labels).tolist()) - {0, *(entry.value for entry in table)}):
        expected = ", ".join(f"{entry.value} {entry.name}" for entry in table)
        raise DataError("E-SEG-07", file=file, found=", ".join(map(str, strange)), expected=expected)
    if form == "seg.nrrd":
        _write_seg_nrrd(target, labels, volume.grid, table)
    elif scan:
        dicom_seg.write_dicom_seg(target, volume, labels, table, scan)
    else:
        write_labels(target, labels, volume, table)


def _write_seg_nrrd(path: Path, labels: npt.NDArray[np.uint8], grid: Grid, table: LabelTable) -> None:
    """Write labels [X, Y, Z] atomically. Equal labels and tables give equal bytes.

    Raises:
        ResourceError: ``E-DISK-01``.
    """
    lps = grid.matrix[:3] * [[-1.0], [-1.0], [1.0]]
    lines = [
        "NRRD0004",
        "type: unsigned char",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, grid.shape))}",
        f"space directions: {' '.join(_vector(lps[:, axis]) for axis in range(3))}",
        "kinds: domain domain domain",
        "encoding: gzip",
        f"space origin: {_vector(lps[:, 3])}",
        *_segment_lines(labels, table),
    ]
    header = "\n".join([*lines, "", ""]).encode()
    write_bytes(path, header + gzip.compress(labels.tobytes(order="F"), 6, mtime=0))


def _segment_lines(labels: npt.NDArray[np.uint8], table: LabelTable) -> list[str]:
    pairs = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ConversionParameters": "",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    boxes = find_objects(labels, max_label=max(entry.value for entry in table))
    for number, entry in enumerate(table):
        segment = {
            "ID": f"Segment_{entry.value}",
            "Name": entry.name,
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{value / 255:.6g}" for value in entry.colour),
            "ColorAutoGenerated": "0",
            "LabelValue": str(entry.value),
            "Layer": "0",
            # The first and last index along each axis.
            "Extent": " ".join(f"{part.start} {part.stop - 1}" for part in boxes[entry.value - 1] or [slice(0, 0)] * 3),
            "Tags": f"TerminologyEntry:{_terminology(entry.name)}|",
        }
        pairs |= {f"Segment{number}_{key}": value for key, value in segment.items()}
    escaped = str.maketrans({"\\": "\\\\", "\r": " ", "\n": "\\n"})
    return [f"{key}:={value.translate(escaped)}" for key, value in pairs.items()]


def _terminology(name: str) -> str:
    code = anatomy_code(name)
    category, kind, side = (
        f"SCT^{part.value}^{part.meaning}" if part else "^^" for part in (code.category, code.kind, code.side)
    )
    return "~".join((_TERMINOLOGY, category, kind, side, _ANATOMY, "^^", "^^"))


def _vector(values: npt.NDArray[np.float64]) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"
