"""A dataset of bright and dark balls, raw and preprocessed, small enough that a whole run takes seconds."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

from samora_pipeline.contracts.dataset import DatasetJson, SamoraJson, write_dataset
from samora_pipeline.contracts.fingerprint import (
    FINGERPRINT_FILE,
    CaseFingerprint,
    Fingerprint,
    IntensityStats,
    Subset,
)
from samora_pipeline.contracts.json_io import to_plain, write_json
from samora_pipeline.contracts.plans import PLANS_FILE, IntensityRule, Planned, Plans
from samora_pipeline.contracts.splits import ALL, SPLITS_FILE, Fold, Splits
from samora_pipeline.contracts.stored_case import SLICES_FOLDER, StoredCase
from samora_pipeline.files import digest_file, digest_json
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.volume import digest_voxels, labels_to_slices, to_slices
from samora_pipeline.slices.store import write_case

NAME = "Dataset090_Balls"
TRAIN = tuple(f"case_{i}" for i in range(6))
SCORED = ("case_4", "case_5")
SIZE = 32
DEPTH = 5
INPUT = 64
STATS = IntensityStats(0.0, 1.0, -200.0, 400.0, -100.0, 0.0, 300.0)


def make_dataset(
    root: Path, *, folder_name: str = NAME, unlabelled: int = 1, phantom: bool = True, input_size: int = INPUT
) -> Path:
    """Write the raw and the preprocessed dataset under ``root``; return ``root``."""
    raw, prepared = root / "raw" / folder_name, root / "preprocessed" / folder_name
    write_dataset(
        raw,
        DatasetJson({"0": "CT"}, {"background": 0, "ball": 1, "hole": 2}, len(TRAIN), ".nii.gz"),
        SamoraJson(phantom=phantom),
    )
    names: list[tuple[str, Subset]] = [(name, "train") for name in TRAIN]
    names += [(f"more_{i}", "unlabelled") for i in range(unlabelled)]
    fingerprints = {}
    for number, (name, subset) in enumerate(names):
        fingerprints[name] = _write_case(raw, prepared / SLICES_FOLDER, name, subset, number)
    fingerprint = Fingerprint(dataset=folder_name, cases=fingerprints)
    write_json(fingerprint, prepared / FINGERPRINT_FILE)
    write_json(_plans(folder_name, digest_json(to_plain(fingerprint)), input_size), prepared / PLANS_FILE)
    folds = {"0": Fold(TRAIN[:4], SCORED), "1": Fold(TRAIN[2:], TRAIN[:2]), ALL: Fold(TRAIN, TRAIN)}
    write_json(Splits(folder_name, 12345, "cases", folds), prepared / SPLITS_FILE)
    return root


def _plans(folder_name: str, fingerprint_digest: str, input_size: int) -> Plans:
    return Plans(
        dataset=folder_name,
        channel_names=("CT",),
        slice_axis=Planned("axial", "tests"),
        in_plane=Planned("resize", "tests"),
        in_plane_spacing=Planned(None, "tests"),
        slice_size=Planned(INPUT, "tests"),
        input_size=Planned(input_size, "tests"),
        channels=Planned("repeat", "tests"),
        intensity=Planned((IntensityRule("window", -100.0, 300.0),), "tests"),
        mirror=Planned(True, "tests"),
        fingerprint_digest=fingerprint_digest,
    )


def _write_case(raw: Path, store: Path, name: str, subset: Subset, number: int) -> CaseFingerprint:
    image, labels = _draw(number)
    images, targets = (
        ("imagesUn", None) if subset == "unlabelled" else ("imagesTr", raw / "labelsTr" / f"{name}.nii.gz")
    )
    image_path = raw / images / f"{name}_0000.nii.gz"
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    image_path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(image, affine), image_path)
    if targets is not None:
        targets.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(labels, affine), targets)
    volume = read_volume(image_path)
    slices, geometry = to_slices((volume,), "axial")
    stored_labels = labels_to_slices(read_volume(targets), geometry) if targets is not None else None
    store.mkdir(parents=True, exist_ok=True)
    record = StoredCase(
        case=name,
        subset=subset,
        shape=(0, 0, 0),
        dtype="",
        geometry=geometry,
        intensities=(STATS,),
        image_crcs=(),
        label_crcs=None,
        source_digest=digest_json([digest_file(image_path), digest_file(targets) if targets else None]),
    )
    write_case(store, record, slices, stored_labels)
    return CaseFingerprint(
        subset=subset,
        shape=(SIZE, SIZE, DEPTH),
        spacing=(1.0, 1.0, 3.0),
        axes="RAS",
        image_digests=(digest_file(image_path),),
        label_digest=digest_file(targets) if targets else None,
        volume=(STATS,),
        foreground=(STATS if targets else None,),
        voxel_digests=(digest_voxels(volume),),
    )


def _draw(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball with a dark hole in a grey body, elsewhere in each case: int16 image and uint8 labels."""
    generator = np.random.default_rng(number)
    x, y, z = np.meshgrid(np.arange(SIZE), np.arange(SIZE), np.arange(DEPTH), indexing="ij")
    image = generator.normal(0, 15, (SIZE, SIZE, DEPTH)) - 90.0
    image[np.hypot(x - SIZE / 2, y - SIZE / 2) < SIZE * 0.45] += 130
    labels = np.zeros(image.shape, np.uint8)
    centre = SIZE / 2 + generator.uniform(-5, 5, 2)
    distance = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (3 * (z - DEPTH / 2)) ** 2)
    labels[distance < 9] = 1
    labels[distance < 4] = 2
    image[labels == 1] += 200
    image[labels == 2] -= 60
    return image.round().astype(np.int16), labels
