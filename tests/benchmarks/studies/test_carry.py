"""A run that is trained from half-size slices on a machine without scans, brought back in parts, and scored here."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies import carry
from benchmarks.studies.carry import Parts, bring_back, main, pack, take_out
from benchmarks.studies.halving import halve_image, halve_labels
from samora_pipeline.contracts.json_io import write_json
from samora_pipeline.contracts.stored_case import SLICES_FOLDER
from samora_pipeline.errors import DataError, ResourceError
from samora_pipeline.files import digest_file
from samora_pipeline.paths import resolve_roots
from samora_pipeline.slices.store import StoredSlices
from tests.trainers.runs import fold_folder, session, short
from tests.trainers.small_data import DEPTH, NAME, SIZE, make_dataset

RUN = "SAMedTrainer__2cases__carried"


def command(root: Path) -> list[str]:
    words = ["90", "SAMedTrainer", "2cases", "--root", str(root), "--backbone", "samora_tiny", "--name", "carried"]
    return [*words, "-c", *short("finetune")]


def test_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = make_dataset(tmp_path / "here"), tmp_path / "there"
    assert main(["out", str(there), "--root", str(here), "--dataset", "Balls", "--halve"]) == 0
    assert not list(there.rglob("*.nii.gz"))
    half = StoredSlices.open(there / "preprocessed" / NAME / SLICES_FOLDER, "case_0")
    assert half.record.shape == (DEPTH, SIZE // 2, SIZE // 2)
    half.verify()
    assert session(command(there)) == 0
    assert not (fold_folder(there, RUN) / "summary.json").exists()

    monkeypatch.setattr(carry, "PART_LIMIT", 2**18)
    parts = pack(resolve_roots(str(there)), tmp_path / "parts")
    assert len(parts.digests) > 1
    assert main(["back", str(tmp_path / "parts"), "--root", str(here)]) == 0
    assert session(command(here)) == 0
    assert json.loads((fold_folder(here, RUN) / "summary.json").read_text())["n"] == 2


def test_damaged_parts_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "results").mkdir(parents=True)
    (root / "results" / "file").write_bytes(bytes(range(256)))
    pack(resolve_roots(str(root)), tmp_path / "parts")
    shutil.rmtree(root / "results")
    part = tmp_path / "parts" / "part_00.bin"
    whole = part.read_bytes()
    for damage in (lambda: part.write_bytes(whole[:-1]), part.unlink):
        damage()
        with pytest.raises(DataError, match="E-STUDY-17"):
            bring_back(resolve_roots(str(root)), tmp_path / "parts")
        assert not (root / "results").exists()
    part.write_bytes(whole)
    bring_back(resolve_roots(str(root)), tmp_path / "parts")
    assert (root / "results" / "file").read_bytes() == bytes(range(256))


def test_nothing_is_unpacked_outside(tmp_path: Path) -> None:
    root, parts = tmp_path / "root", tmp_path / "parts"
    for folder in (root, parts):
        folder.mkdir()
    with tarfile.open(parts / "part_00.bin", "w:xz") as archive:
        for name in ("results/good", "../outside"):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"abc"))
    write_json(Parts({"part_00.bin": digest_file(parts / "part_00.bin")}), parts / "parts.json")
    with pytest.raises(DataError, match="E-PATH-01"):
        bring_back(resolve_roots(str(root)), parts)
    assert not (tmp_path / "outside").exists()
    assert not (root / "results").exists()


def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = make_dataset(tmp_path / "here")
    monkeypatch.setattr(carry, "INPUT_LIMIT", 1000)
    with pytest.raises(ResourceError, match="E-STUDY-15"):
        take_out(resolve_roots(str(here)), "Balls", tmp_path / "there", halve=False)


def test_images_are_averaged_and_odd_edges_repeated() -> None:
    image = np.arange(15, dtype=np.int16).reshape(1, 3, 5) * 10
    expected = [[30, 50, 65], [105, 125, 140]]
    assert halve_image(image).tolist() == [expected]
    assert halve_image(image).dtype == np.int16


@pytest.mark.parametrize(
    ("block", "label"),
    [([[1, 1], [1, 0]], 1), ([[1, 0], [0, 0]], 0), ([[2, 0], [0, 2]], 2), ([[0, 2], [2, 0]], 0), ([[3, 1], [1, 2]], 1)],
)
def test_labels_are_voted_for(block: list[list[int]], label: int) -> None:
    assert halve_labels(np.array(block, np.uint8)).tolist() == [[label]]


def test_halving_moves_no_border() -> None:
    """The area of discs at all positions within a pixel stays a quarter, whatever ties there are."""
    x, y = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
    generator = np.random.default_rng(0)
    ratios = []
    for _ in range(50):
        row, column = generator.uniform(28, 36, 2)
        disc = (np.hypot(x - row, y - column) < 12).astype(np.uint8)
        ratios.append(4 * halve_labels(disc).sum() / disc.sum())
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.01)
