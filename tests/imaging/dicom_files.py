"""Small DICOM series, written with SimpleITK."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK

SHAPE = (7, 6, 5)
VOXELS = np.random.default_rng(4).integers(-1000, 2000, SHAPE).astype(np.int16)
ROW = np.array([1.0, 0.0, 0.0])
COLUMN = np.array([0.0, np.cos(0.2), np.sin(0.2)])
NORMAL = np.cross(ROW, COLUMN)
ORIGIN = np.array([-90.0, -70.0, 33.0])
GAP = 2.5


def write_slice(path: Path, plane: np.ndarray, position: np.ndarray, **tags: str) -> Path:
    """One slice [X, Y]; the file's own directions are those of ``tags`` or the tilted ones above."""
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(plane.T)[None])
    image.SetSpacing((0.8, 0.9, GAP))
    image.SetOrigin(position.tolist())
    image.SetDirection(np.stack([ROW, COLUMN, NORMAL], axis=1).ravel().tolist())
    values: dict[str, str] = {
        "0008|0060": "CT",
        "0020|000e": "1.2.3.4",
        "0020|0011": "3",
        "0020|0032": "\\".join(f"{value:.4f}" for value in position),
        "0020|0037": "\\".join(f"{value:.6f}" for value in (*ROW, *COLUMN)),
        "0028|1052": "-1024",
        "0028|1053": "1",
        **{key.replace("_", "|"): value for key, value in tags.items()},
    }
    for key, value in values.items():
        image.SetMetaData(key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)
    return path


def write_series(folder: Path, **tags: str) -> list[Path]:
    """The slices of VOXELS, named against the order of their positions."""
    return [
        write_slice(folder / f"im{9 - k}.dcm", VOXELS[:, :, k], ORIGIN + k * GAP * NORMAL, **tags)
        for k in range(SHAPE[2])
    ]
