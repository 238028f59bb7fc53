"""Every example in Python of the README and of docs runs as it is printed, on small phantoms."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from tests.fake_run import write_fake_run, write_image
from tests.imaging.dicom_files import write_series
from trainers.runs import automatic

ROOT = Path(__file__).parents[2]
_FENCED = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^(?: {4}(?:from \S+ import|import) .*\n)(?:(?: {4}.*)?\n)*", re.MULTILINE)
_DOCTEST = re.compile(r"^ *>>> ", re.MULTILINE)
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
SNIPPETS = {
    page.relative_to(ROOT).as_posix(): (len(_FENCED.findall(text)), len(_INDENTED.findall(text)))
    for page in PAGES
    if (text := page.read_text(encoding="utf-8"))
}


def write_scans(folder: Path, labels: Path, names: str) -> None:
    """Scans of 32 x 32 x 6 voxels with a bright ball and a brighter core, and their label maps."""
    grid = np.stack(np.meshgrid(*(np.arange(size) for size in (32, 32, 6)), indexing="ij"))
    for seed, name in enumerate(names):
        random = np.random.default_rng(seed)
        centre = random.uniform((12, 12, 2), (20, 20, 4)).reshape(3, 1, 1, 1)
        distance = np.sqrt((((grid - centre) * np.array([1, 1, 3]).reshape(3, 1, 1, 1)) ** 2).sum(0))
        label = (distance < 9).astype(np.uint8) + (distance < 4)
        scan = (random.normal(0, 20, label.shape) + 100 * label).astype(np.int16)
        for place, array in ((folder, scan), (labels, label)):
            place.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 3.0, 1.0])), place / f"{name}.nii.gz")


def with_a_run(place: Path) -> None:
    """What the pages about prediction and parts of networks need."""
    write_fake_run(place / "root" / "results")
    write_image(place / "scan.nii.gz")
    write_series(place / "DICOM_FOLDER")


def with_own_scans(place: Path) -> None:
    """What the tutorial about own data needs."""
    write_scans(place / "IMAGES", place / "LABELS", "abcdef")
    write_scans(place / "NEW_SCANS", place / "NEW_LABELS", "xy")


def with_masks(place: Path) -> None:
    """What the page about metrics needs: nothing but the class that it defines."""


PLACES: dict[str, Callable[[Path], None]] = {
    "docs/own_data.md": with_own_scans,
    "docs/api.md": with_a_run,
    "docs/prediction.md": with_a_run,
    "docs/metrics.md": with_masks,
}


def test_every_page_with_python_is_run_here() -> None:
    assert {name for name, count in SNIPPETS.items() if any(count)} == set(PLACES)
    # Examples of this form are run by tests/evaluation/test_metrics_page.py.
    assert {page.name for page in PAGES if _DOCTEST.search(page.read_text(encoding="utf-8"))} == {"metrics.md"}
    unnamed = [
        page.name
        for page in PAGES
        if re.search(r"^```(?:py|python3|pycon)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert unnamed == []


@pytest.mark.parametrize("page", PLACES)
def test_the_examples_run_as_printed(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAW", "PREPROCESSED", "RESULTS", "WEIGHTS"):
        monkeypatch.delenv(f"SAMORA_{name}", raising=False)
    monkeypatch.setenv("SAMORA_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(automatic, "MINUTES", 0.2)
    monkeypatch.chdir(tmp_path)
    PLACES[page](tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    indented = [re.sub("^ {4}", "", block, flags=re.MULTILINE) for block in _INDENTED.findall(text)]
    names: dict[str, Any] = {"__name__": "snippet"}
    for block in [*_FENCED.findall(text), *(one.partition("\nsamora_")[0] for one in indented)]:
        exec(compile(block, page, "exec"), names)
    if page == "docs/own_data.md":
        assert names["summary"].n == 2
        assert (tmp_path / "preds" / "x.nii.gz").is_file()
    if page == "docs/metrics.md":
        assert names["VolumeError"].record.name == "volume_error"
    if page == "docs/prediction.md":
        assert (names["same"].transpose(2, 1, 0)[:, ::-1, ::-1] == names["labels"]).all()
        assert names["labels_of_series"].ndim == 3
