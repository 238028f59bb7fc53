"""DICOM SEG objects through highdicom, for archives and viewers of hospitals (extra ``dicom``).

One binary segmentation per case, with a frame for each slice that a segment occurs in, on the frame of reference of
the scan's own DICOM series.

Shape legend: X, Y columns and rows; Z slices in the order of their positions along the normal of the series.
"""

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.anatomy_codes import Code, anatomy_code
from samora_pipeline.contracts.label_table import LabelEntry, LabelTable
from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.files import atomic_path
from samora_pipeline.imaging.dicom import find_series, is_dicom, read_series
from samora_pipeline.imaging.volume import Volume, label_array, on_grid_of
from samora_pipeline.reproducibility import snapshot

_SERIES_NUMBER = 900


def write_dicom_seg(path: Path, label: Volume, labels: npt.NDArray[np.uint8], table: LabelTable, scan: Path) -> None:
    """Write labels [X, Y, Z] of ``label`` as a DICOM SEG of the series in the folder ``scan``, atomically.

    Values without a voxel make no segment.

    Raises:
        AssetError: ``E-SEG-04`` without highdicom.
        DataError: ``E-SEG-05``, ``E-SEG-06`` nothing is segmented, ``E-GEO-..`` another grid than the series,
            ``E-SER-..`` an incomplete series, ``E-GEO-03`` one that does not state its spacing.
    """
    highdicom = extra_module("highdicom")
    series = find_series([path for path in sorted(scan.glob("*")) if path.is_file() and is_dicom(path)])
    if len(series) != 1:
        raise DataError("E-SEG-05", found=f"{len(series)} series in {scan}")
    files = series[0].paths
    series_volume = read_series(files)
    labels = label_array(on_grid_of(series_volume, replace(label, array=labels)))
    if (spacing := series_volume.grid.spacing) is None:
        raise DataError("E-GEO-03", path=files[0], why="a DICOM SEG states it", otherwise="", found=str(scan))
    occurring = [entry for entry in table if (labels == entry.value).any()]
    if not occurring:
        raise DataError("E-SEG-06", label=label, found=f"background alone in {label.path}")
    numbers = np.zeros(256, dtype=np.uint8)
    numbers[[entry.value for entry in occurring]] = range(1, len(occurring) + 1)
    segmentation = highdicom.seg.Segmentation(
        source_images=_in_order(files, spacing[2]),
        pixel_array=numbers[labels].transpose(2, 1, 0),
        segmentation_type="BINARY",
        segment_descriptions=[_description(number, entry) for number, entry in enumerate(occurring, start=1)],
        series_instance_uid=highdicom.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="samora_pipeline",
        manufacturer_model_name="samora_pipeline",
        software_versions=snapshot()["samora_pipeline"],
        device_serial_number="none",
        series_description="samora_pipeline: for research, not for diagnosis",
    )
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary)


def _in_order(files: Sequence[Path], gap: float) -> list[Any]:
    """The slices as pydicom data sets, ordered as ``read_series`` orders them; unstated thicknesses become ``gap``."""
    pydicom = extra_module("pydicom")
    slices = [pydicom.dcmread(path) for path in files]
    for item in slices:
        if not item.get("SliceThickness"):
            item.SliceThickness = round(gap, 6)
    row, column = np.array(slices[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(row, column)
    return sorted(slices, key=lambda item: float(np.array(item.ImagePositionPatient, dtype=float) @ normal))


def _description(number: int, entry: LabelEntry) -> Any:
    highdicom, codes = extra_module("highdicom"), extra_module("pydicom.sr.codedict").codes
    code = anatomy_code(entry.name)

    def coded(part: Code) -> Any:
        return highdicom.sr.CodedConcept(part.value, "SCT", part.meaning)

    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=entry.name[:64],
        segmented_property_category=coded(code.category),
        segmented_property_type=coded(code.kind),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="samora_pipeline", version=snapshot()["samora_pipeline"], family=codes.DCM.ArtificialIntelligence
        ),
        display_color=highdicom.color.CIELabColor.from_rgb(*entry.colour),
    )
    if code.side:
        modifier = coded(code.side)
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return description


def extra_module(name: str) -> Any:
    """Import a module of the extra ``dicom``.

    Raises:
        AssetError: ``E-SEG-04`` where it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AssetError("E-SEG-04", found=str(error)) from error
