from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from samora_pipeline.errors import AssetError, DataError, UsageError
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.weights.catalog import ASSETS, Asset, named, resolve, verify


def test_every_backbone_has_weights_of_its_name() -> None:
    # The tiny sibling of SAM 2 is bootstrapped; what is trained whole starts from random weights.
    whole = {name for name in BACKBONES.names() if BACKBONES.get(name).trained_whole}
    assert set(BACKBONES.names()) - whole - {"samora2_tiny"} <= set(ASSETS)


def test_public_files_are_described_fully() -> None:
    for name, asset in ASSETS.items():
        assert asset.name == name
        if not asset.packaged:
            assert urlsplit(asset.url).scheme == "https"
            assert asset.url.endswith("/" + Path(asset.file).name)
            assert (asset.size is None) == (asset.sha256 is None)
            assert asset.sha256 is None or len(bytes.fromhex(asset.sha256)) == 32
    assert len({asset.file for asset in ASSETS.values()}) == len(ASSETS)


def test_base_encoders_can_be_planned_with_before_they_are_there() -> None:
    assert all(asset.sha256 for name, asset in ASSETS.items() if name.startswith("sam"))


def test_licences() -> None:
    assert {name for name, asset in ASSETS.items() if asset.non_commercial} == {"mae_vit_l_full", "mae_vit_l_encoder"}
    assert not any(asset.fetchable for asset in ASSETS.values() if asset.non_commercial or asset.packaged)


def test_a_name_is_looked_for_in_the_weights_folder(tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_b_01ec64.pth"
    path.touch()
    assert resolve("sam_vit_b", tmp_path) == path
    assert resolve("sam_vit_b_01ec64.pth", tmp_path) == path
    assert resolve(str(path), tmp_path / "elsewhere") == path


def test_missing_public_weights_name_the_place_the_source_and_the_ways_on(tmp_path: Path) -> None:
    with pytest.raises(AssetError) as caught:
        resolve("sam_vit_b", tmp_path)
    assert caught.value.exit_code == 5
    assert caught.value.text() == (
        "E-WEIGHT-05 the weights sam_vit_b are not there\n"
        f"  found: looked for {tmp_path / 'sam_vit_b_01ec64.pth'}\n"
        "  expected: https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth (375,042,383 bytes, "
        "Apache-2.0, sha256 ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912)\n"
        "  fix: samora_weights get sam_vit_b; without a network: samora_weights add FILE; or another recipe (scratch "
        "needs no teacher); or --backbone samora_tiny, which comes with this package; "
        "or --backbone-weights bootstrap --recipe scratch"
    )


def test_missing_non_commercial_weights_say_what_to_accept(tmp_path: Path) -> None:
    with pytest.raises(AssetError) as caught:
        resolve("mae_vit_l_full", tmp_path)
    assert "CC-BY-NC-4.0" in caught.value.expected
    assert caught.value.fix.startswith("samora_weights get mae_vit_l_full --accept-licence;")


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"did you mean sam_vit_b,"):
        resolve("sam_vitb", tmp_path)
    with pytest.raises(UsageError, match=r"E-NAME-01[\s\S]*did you mean sam_vit_b,"):
        named("sam_vitb")


def test_packaged_weights_are_not_looked_for_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = Asset("here", "not_there.safetensors", "Apache-2.0")
    monkeypatch.setitem(ASSETS, "here", asset)
    (tmp_path / asset.file).touch()
    with pytest.raises(AssetError, match="install the package again"):
        resolve("here", tmp_path)


def toy(content: bytes, **changes: object) -> Asset:
    values = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **changes}
    return Asset("toy", "toy.pth", "MIT", "https://x/toy.pth", **values)  # type: ignore[arg-type]


def test_verify_compares_size_and_digest(tmp_path: Path) -> None:
    path = tmp_path / "toy.pth"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert verify(toy(b"weights"), path) == digest
    for changes in ({"size": 8}, {"sha256": "0" * 64}):
        with pytest.raises(DataError, match="E-WEIGHT-06"):
            verify(toy(b"weights", **changes), path)


def test_a_digest_of_first_use_is_compared_where_none_is_published(tmp_path: Path) -> None:
    path = tmp_path / "toy.pth"
    path.write_bytes(b"weights")
    asset = toy(b"", size=None, sha256=None)
    digest = verify(asset, path)
    assert verify(asset, path, digest) == digest
    with pytest.raises(DataError, match="recorded at first use: 000"):
        verify(asset, path, "0" * 64)


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (b"weig", "looks like a download that was cut short"),
        (b"WEIGHTS", "looks like another file, or a damaged one"),
        (b"\n<!DOCTYPE html><html>sign in", "looks like a web page, saved in place of the download"),
    ],
)
def test_a_wrong_file_is_told_by_its_looks(content: bytes, looks: str, tmp_path: Path) -> None:
    path = tmp_path / "toy.pth"
    path.write_bytes(content)
    asset = toy(b"weights")
    with pytest.raises(DataError) as caught:
        verify(asset, path)
    assert caught.value.exit_code == 4
    assert caught.value.text() == (
        "E-WEIGHT-06 toy.pth: wrong content\n"
        f"  found: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}; {looks}\n"
        f"  expected: 7 bytes, sha256 {asset.sha256}\n"
        f"  fix: delete {path} and get it again: samora_weights get toy"
    )


def test_another_public_file_is_told_by_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ASSETS, "other", toy(b"other"))
    (tmp_path / "toy.pth").write_bytes(b"other")
    with pytest.raises(DataError, match="this is toy"):
        verify(Asset("mine", "toy.pth", "MIT", "https://x/toy.pth", 5, "0" * 64), tmp_path / "toy.pth")
