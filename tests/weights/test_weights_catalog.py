from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.models.backbones.catalog import BACKBONES
from samora_pipeline.weights.catalog import ASSETS, Asset, resolve, verify


def test_every_backbone_has_weights_of_its_name() -> None:
    assert set(BACKBONES.names()) <= set(ASSETS)


def test_public_files_are_described_fully() -> None:
    for asset in ASSETS.values():
        if not asset.packaged:
            assert asset.url.endswith("/" + asset.file)
            assert asset.sha256 is not None
            assert len(bytes.fromhex(asset.sha256)) == 32
            assert asset.size


def test_a_name_is_looked_for_in_the_weights_folder(tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_b_01ec64.pth"
    path.touch()
    assert resolve("sam_vit_b", tmp_path) == path
    assert resolve("sam_vit_b_01ec64.pth", tmp_path) == path
    assert resolve(str(path), tmp_path / "elsewhere") == path


def test_missing_public_weights_name_the_place_the_source_and_the_ways_on(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="E-WEIGHT-05") as caught:
        resolve("sam_vit_b", tmp_path)
    text = str(caught.value)
    assert str(tmp_path / "sam_vit_b_01ec64.pth") in text
    assert "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth" in text
    assert "375,042,383 bytes" in text
    for way in ("put the file there", "--backbone-weights FILE", "--backbone-weights bootstrap --recipe scratch"):
        assert way in caught.value.fix
    assert caught.value.exit_code == 5


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"did you mean sam_vit_b\?"):
        resolve("sam_vitb", tmp_path)


def test_packaged_weights_are_not_looked_for_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = Asset("here", "not_there.safetensors", "Apache-2.0")
    monkeypatch.setitem(ASSETS, "here", asset)
    (tmp_path / asset.file).touch()
    with pytest.raises(AssetError, match="install the package again"):
        resolve("here", tmp_path)


def test_verify_compares_size_and_digest(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert verify(Asset("w", "w.pth", "MIT", "https://x/w.pth", 7, digest), path) == digest
    for size, sha256 in ((8, digest), (7, "0" * 64)):
        with pytest.raises(DataError, match="E-WEIGHT-06"):
            verify(Asset("w", "w.pth", "MIT", "https://x/w.pth", size, sha256), path)
