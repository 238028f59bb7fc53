"""The whole command on a few real scans, read where SAMORA_TEST_DATA points to."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from planners.cli import main
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.intensity import normalize
from samora_pipeline.imaging.resampling import InPlaneMap
from samora_pipeline.imaging.volume import to_raw_grid
from samora_pipeline.slices.store import StoredSlices

DATA = Path(os.environ.get("SAMORA_TEST_DATA", Path(__file__).parents[2] / "../shared/data")).resolve()


def copy_cases(source: str, target: Path, count: int, images: str, suffix: str) -> list[str]:
    folder = DATA / source
    if not folder.is_dir():
        pytest.skip(f"no {source} under {DATA} (SAMORA_TEST_DATA)")
    names = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").glob("*.nii.gz"))[:count]
    (target / "imagesTr").mkdir(parents=True)
    (target / "labelsTr").mkdir()
    for name in names:
        shutil.copyfile(folder / "imagesTr" / images.format(name), target / "imagesTr" / f"{name}_0000.nii.gz")
        shutil.copyfile(folder / f"labelsTr/{name}.nii.gz", target / f"labelsTr/{name}.nii.gz")
    assert suffix in names[0]
    return names


def check_store(root: Path, name: str, cases: list[str], foreground_channel_mean: tuple[float, float]) -> Plans:
    raw, target = root / "raw" / name, root / "preprocessed" / name
    plans = read_json(Plans, target / "plans.json")
    for case in cases:
        stored = StoredSlices.open(target / "slices", case)
        image = read_volume(raw / f"imagesTr/{case}_0000.nii.gz")
        labels = np.stack([stored.labels(index) for index in range(len(stored))])
        stack = np.stack([stored.image(index) for index in range(len(stored))])
        np.testing.assert_array_equal(to_raw_grid(stack[:, 0], stored.record.geometry), image.array)
        labels, stack = labels[::8], stack[::8]
        in_plane = InPlaneMap.for_case(stored.record, plans, 224)
        scaled = normalize(stack, plans.intensity.value, stored.record.intensities)
        network = in_plane.image(scaled)
        assert network.shape == (len(stack), 1, 224, 224)
        mask = in_plane.labels(labels)
        low, high = foreground_channel_mean
        assert low < network[:, 0][mask > 0].mean() < high
        # A perfect answer of the network comes back as the labels.
        values = np.arange(labels.max() + 1)[:, None, None, None]
        back = in_plane.logits((mask[None] == values).astype(np.float32).swapaxes(0, 1)).argmax(1)
        overlap = 2 * ((back > 0) & (labels > 0)).sum() / ((back > 0).sum() + (labels > 0).sum())
        assert overlap > 0.98
    return plans


def test_openkbp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "Dataset050_OpenKBP"
    cases = copy_cases(name, tmp_path / "raw" / name, 2, "{}_0000.nii.gz", "pt_")
    description = json.loads((DATA / name / "dataset.json").read_text())
    (tmp_path / "raw" / name / "dataset.json").write_text(json.dumps({**description, "numTraining": 2}))
    assert main(["--root", str(tmp_path)]) == 0
    assert "Hounsfield" not in capsys.readouterr().out
    plans = check_store(tmp_path, name, cases, (0.3, 0.7))
    assert plans.mirror.value is False
    assert "rightparotid/leftparotid" in plans.mirror.why
    rule = plans.intensity.value[0]
    assert rule.scheme == "window"
    assert rule.low is not None
    assert -1000 <= rule.low < 100
    assert plans.slice_axis.value == "axial"


def test_hippocampus(tmp_path: Path) -> None:
    name = "Dataset014_Hippocampus"
    raw = tmp_path / "raw" / name
    cases = copy_cases("Task04_Hippocampus", raw, 3, "{}.nii.gz", "hippocampus")
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    assert main(["--root", str(tmp_path)]) == 0
    plans = check_store(tmp_path, name, cases, (0.2, 0.9))
    assert plans.intensity.value[0].scheme == "percentiles"
    assert plans.in_plane.value == "resize"
    assert plans.mirror.value is False
    assert "anterior/posterior" in plans.mirror.why
