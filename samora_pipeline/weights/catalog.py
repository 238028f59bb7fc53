"""The weights that this package knows by name, where they come from, and where they are looked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.files import digest_file
from samora_pipeline.registry import nearest

_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"
_WAYS_ON = "or --backbone-weights FILE, or --backbone-weights bootstrap --recipe scratch"


@dataclass(frozen=True)
class Asset:
    """One file of public weights. ``url`` is empty where the file comes with this package."""

    name: str
    file: str
    licence: str
    url: str = ""
    size: int | None = None
    sha256: str | None = None

    @property
    def packaged(self) -> bool:
        """Whether the file lies beside this module."""
        return not self.url


def _public(name: str, file: str, size: int, sha256: str) -> Asset:
    return Asset(name, file, "Apache-2.0", f"{_SAM}{file}", size, sha256)


ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        _public(
            "sam_vit_b",
            "sam_vit_b_01ec64.pth",
            375_042_383,
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
        _public(
            "sam_vit_l",
            "sam_vit_l_0b3195.pth",
            1_249_524_607,
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
        _public(
            "sam_vit_h",
            "sam_vit_h_4b8939.pth",
            2_564_550_879,
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
        Asset(
            "samora_tiny",
            "samora_tiny.safetensors",
            "Apache-2.0",
            size=1_789_984,
            sha256="bfb4fbe40c7c1066be0f68acca2b27264d4b9cb351d02d39c720358abdf725ae",
        ),
    )
}


def resolve(name_or_path: str, weights_folder: Path) -> Path:
    """Find a file of weights by catalogue name, by file name in ``weights_folder``, or by path.

    Raises:
        AssetError: ``E-WEIGHT-05`` when it is not there, with where it can be had and the other ways on.
    """
    asset = ASSETS.get(name_or_path)
    if asset is not None:
        path = Path(__file__).with_name(asset.file) if asset.packaged else weights_folder / asset.file
        if path.is_file():
            return path
        raise _missing(asset, path)
    for path in (Path(name_or_path).expanduser(), weights_folder / name_or_path):
        if path.is_file():
            return path
    raise AssetError(
        "E-WEIGHT-05",
        f"no weights called {name_or_path}",
        found=f"no file {name_or_path}, and none of that name in {weights_folder}",
        expected=f"{nearest(name_or_path, list(ASSETS))}a file, or one of {', '.join(ASSETS)}",
        fix=f"correct the name, {_WAYS_ON}",
    )


def verify(asset: Asset, path: Path) -> str:
    """Return the SHA-256 of the file, after comparing size and digest with the published ones where they are known.

    Raises:
        DataError: ``E-WEIGHT-06`` when they differ.
    """
    size = path.stat().st_size
    digest = digest_file(path)
    if (asset.size not in (None, size)) or (asset.sha256 not in (None, digest)):
        raise DataError(
            "E-WEIGHT-06",
            f"{path.name} is not the published file",
            found=f"{size:,} bytes, sha256 {digest}",
            expected=f"{asset.size or 0:,} bytes, sha256 {asset.sha256}",
            fix=f"delete it and get it again from {asset.url or 'this package'}",
        )
    return digest


def _missing(asset: Asset, path: Path) -> AssetError:
    if asset.packaged:
        expected = "the file that comes with this package"
        fix = f"install the package again, {_WAYS_ON}"
    else:
        size = f"{asset.size:,} bytes, " if asset.size else ""
        expected = f"{asset.url} ({size}{asset.licence}, sha256 {asset.sha256})"
        fix = f"put the file there, {_WAYS_ON}"
    return AssetError(
        "E-WEIGHT-05",
        f"the weights {asset.name} are not there",
        found=f"looked for {path}",
        expected=expected,
        fix=fix,
    )
