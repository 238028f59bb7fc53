from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.weights.catalog import ASSETS, Asset
from tests.trainers.runs import command
from tests.trainers.small_data import make_dataset
from tests.weights.file_server import FileServer
from trainers import cli
from trainers.stages.encoder import find_base
from trainers.stages.stage import RECORD_FILE

TINY = ASSETS["samora_tiny"]
CONTENT = TINY.path(Path()).read_bytes()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """The packaged weights as public ones, under the name ``toy``."""
    with FileServer(CONTENT).running() as running:
        asset = Asset("toy", "toy.safetensors", "Apache-2.0", running.url, TINY.size, TINY.sha256)
        monkeypatch.setitem(ASSETS, "toy", asset)
        yield running


def words(root: Path, *more: str) -> list[str]:
    return [word if word != "bootstrap" else "toy" for word in command(root, *more)]


def test_a_public_base_has_the_same_identity_before_and_after(server: FileServer, tmp_path: Path) -> None:
    before = find_base("toy", tmp_path)
    assert (before.awaited, before.file, before.record.digest) == (True, None, TINY.sha256)
    assert not server.requests
    path = before.fetched(tmp_path)
    after = find_base("toy", tmp_path)
    assert (after.awaited, after.file, after.record) == (False, path, before.record)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match="E-WEIGHT-06"):
        find_base("toy", tmp_path)


def test_a_licence_that_is_not_accepted_is_not_awaited(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="E-WEIGHT-05"):
        find_base("mae_vit_l_full", tmp_path)


def test_a_dry_run_tells_what_it_would_fetch(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_dataset(tmp_path)
    assert cli.main(words(root, "--dry-run")) == 0
    assert f"fetch     {server.url} (1,789,984 bytes, Apache-2.0, sha256 {TINY.sha256})" in capsys.readouterr().out
    assert not server.requests
    assert not (root / "weights").exists()


def test_training_fetches_what_it_needs(server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_dataset(tmp_path)
    server.statuses = [404]
    assert cli.main([word for word in words(root, "--stage", "expert_pixel") if word != "--debug"]) == 5
    error = capsys.readouterr().err
    assert "E-WEIGHT-05 the weights toy are not there" in error
    for way in ("samora_weights add FILE", "another recipe", "--backbone-weights bootstrap --recipe scratch"):
        assert way in error
    assert cli.main(words(root, "--stage", "expert_pixel")) == 0
    (record,) = (root / "results").rglob(RECORD_FILE)
    inputs = json.loads((record.parent / "inputs.json").read_text())
    assert inputs["base"] == TINY.sha256
    assert (root / "weights" / "toy.safetensors").read_bytes() == CONTENT
