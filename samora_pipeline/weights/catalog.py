"""The weights that this package knows by name: where they come from, how large they are, and on what terms."""

from dataclasses import dataclass
from pathlib import Path

from samora_pipeline.errors import AssetError, DataError, UsageError
from samora_pipeline.files import digest_file
from samora_pipeline.registry import suggestion

WAYS_ON = (
    "without a network: samora_weights add FILE; or another recipe (scratch needs no teacher); "
    "or --backbone samora_tiny, which comes with this package; or --backbone-weights bootstrap --recipe scratch"
)

_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"
_SAM2 = "https://dl.fbaipublicfiles.com/segment_anything_2/"
_EFFICIENT_SAM = "https://github.com/yformer/EfficientSAM/raw/main/weights/"
# The authors have EfficientSAM-S in a zip file alone; this is a copy of what is in it, by a third party.
_EFFICIENT_SAM_COPY = "https://huggingface.co/Adapter/DragonDiffusion/resolve/main/model/"
_MOBILE_SAM = "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/"
_SAM21_TINY = "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"
_SAM21_SMALL = "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"
_EFFICIENT_SAM_TI = "dff858b19600a46461cbb7de98f796b23a7a888d9f5e34c0b033f7d6eb9e4e6a"
_EFFICIENT_SAM_S = "339376940b92351ae26dd1162e2305a1cc6f5cde735105e91286251abd9a6b65"
_MOBILE_SAM_5M = "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f"
_MAE = "https://dl.fbaipublicfiles.com/mae/pretrain/"
_SIMCLR = "https://huggingface.co/lightly-ai/simclrv2-imagenet1k-r50_2x_sk1/resolve/main/"
_SIMCLR_TF = "https://storage.googleapis.com/simclr-checkpoints/simclrv2/pretrained/r50_2x_sk1/"
_APACHE = "Apache-2.0"
_NON_COMMERCIAL = "CC-BY-NC-4.0"


@dataclass(frozen=True)
class Asset:
    """One file of public weights.

    ``file`` is relative to the weights folder. ``url`` is empty where the file comes with this package. ``size`` in
    bytes and ``sha256`` are None where they are not published; ``about`` is then the size of its tensors in bytes, and
    ``md5_start`` the first digits of the MD5 where those are. ``needs`` names assets that this one cannot be read
    without.
    """

    name: str
    file: str
    licence: str
    url: str = ""
    size: int | None = None
    sha256: str | None = None
    about: int | None = None
    md5_start: str = ""
    needs: tuple[str, ...] = ()

    @property
    def packaged(self) -> bool:
        """Whether the file lies beside this module."""
        return not self.url

    @property
    def non_commercial(self) -> bool:
        """Whether the licence forbids commercial use, and has to be accepted first."""
        return "-NC-" in self.licence

    @property
    def fetchable(self) -> bool:
        """Whether the file may be fetched without confirmation."""
        return bool(self.url) and not self.non_commercial

    @property
    def terms(self) -> str:
        """Address, size, licence and digest, as printed before a download."""
        partly = f"md5 {self.md5_start}..." if self.md5_start else "no published digest"
        digest = f"sha256 {self.sha256}" if self.sha256 else partly
        return f"{self.url} ({', '.join(filter(None, (self.length, self.licence, digest)))})"

    @property
    def way(self) -> str:
        """How to get it."""
        accept = " --accept-licence" if self.non_commercial else ""
        return "install the package again" if self.packaged else f"samora_weights get {self.name}{accept}"

    @property
    def length(self) -> str:
        """Its size in words; empty where nobody states one."""
        if self.size is not None:
            return f"{self.size:,} bytes"
        return f"about {self.about / 1e6:,.0f} MB" if self.about else ""

    def path(self, weights_folder: Path) -> Path:
        """Where the file belongs."""
        return Path(__file__).with_name(self.file) if self.packaged else weights_folder / self.file


def _sam(name: str, mark: str, size: int, sha256: str) -> Asset:
    return Asset(name, file := f"{name}_{mark}.pth", _APACHE, f"{_SAM}{file}", size, sha256)


def _sam2(name: str, date: str, size: int, sha256: str) -> Asset:
    file = f"{name.replace('b+', 'base_plus')}.pt"
    return Asset(name, file, _APACHE, f"{_SAM2}{date}/{file}", size, sha256)


def _small(name: str, folder: str, size: int, sha256: str) -> Asset:
    return Asset(name, file := f"{name}.pt", _APACHE, f"{folder}{file}", size, sha256)


def _mae(name: str, file: str, about: int, md5_start: str = "") -> Asset:
    return Asset(name, file, _NON_COMMERCIAL, f"{_MAE}{file}", about=about, md5_start=md5_start)


def _simclr_tf(name: str, file: str, *needs: str) -> Asset:
    return Asset(name, f"simclr_r50_2x_sk1/{file}", _APACHE, f"{_SIMCLR_TF}{file}", needs=needs)


_ASSETS = (
    _sam("sam_vit_b", "01ec64", 375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    _sam("sam_vit_l", "0b3195", 1_249_524_607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    _sam("sam_vit_h", "4b8939", 2_564_550_879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
    _sam2("sam2_hiera_b+", "072824", 323_493_298, "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071"),
    _sam2("sam2.1_hiera_b+", "092824", 323_606_802, "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"),
    _small("sam2.1_hiera_tiny", f"{_SAM2}092824/", 156_008_466, _SAM21_TINY),
    _small("sam2.1_hiera_small", f"{_SAM2}092824/", 184_416_285, _SAM21_SMALL),
    _small("efficient_sam_vitt", _EFFICIENT_SAM, 40_982_470, _EFFICIENT_SAM_TI),
    _small("efficient_sam_vits", _EFFICIENT_SAM_COPY, 105_742_022, _EFFICIENT_SAM_S),
    _small("mobile_sam", _MOBILE_SAM, 40_728_226, _MOBILE_SAM_5M),
    # The TensorFlow checkpoint below, converted by a third party; encoder, linear head and projection head.
    Asset("simclr_r50_2x_sk1", "r50_2x_sk1.pth", _APACHE, f"{_SIMCLR}r50_2x_sk1.pth", about=715_000_000),
    _simclr_tf("simclr_r50_2x_sk1_tf", "model.ckpt-250228.index", "simclr_r50_2x_sk1_tf_data"),
    _simclr_tf("simclr_r50_2x_sk1_tf_data", "model.ckpt-250228.data-00000-of-00001"),
    _mae("mae_vit_l_full", "mae_pretrain_vit_large_full.pth", 1_318_167_552),
    _mae("mae_vit_l_encoder", "mae_pretrain_vit_large.pth", 1_213_206_528, "b8b06e"),
    Asset(
        "samora_tiny",
        "samora_tiny.safetensors",
        _APACHE,
        size=1_789_984,
        sha256="a60f9bed802a4c4286edbddd4ca37243ce8bb19e8e4c59c9b83a60f1e6548a44",
    ),
)
ASSETS: dict[str, Asset] = {asset.name: asset for asset in _ASSETS}


def named(name: str) -> Asset:
    """Return the asset called ``name``.

    Raises:
        UsageError: ``E-NAME-01`` with the nearest name.
    """
    if name in ASSETS:
        return ASSETS[name]
    near = suggestion(name, ASSETS)
    raise UsageError("E-NAME-01", kind="file", name=name, found=name, fix="samora_weights list", **near)


def resolve(name_or_path: str, weights_folder: Path) -> Path:
    """Find a file of weights by catalogue name, by file name in ``weights_folder``, or by path.

    Raises:
        AssetError: ``E-WEIGHT-05`` when it is not there, with where it can be had and the other ways on.
    """
    asset = ASSETS.get(name_or_path)
    if asset is not None:
        path = asset.path(weights_folder)
        if path.is_file():
            return path
        raise missing(asset, path)
    for path in (Path(name_or_path).expanduser(), weights_folder / name_or_path):
        if path.is_file():
            return path
    found = f"no file {name_or_path}, and none of that name in {weights_folder}"
    expected = f"a file, or a name: {suggestion(name_or_path, ASSETS)['expected']}"
    raise AssetError("E-WEIGHT-05", found=found, expected=expected, fix=f"correct the name; {WAYS_ON}")


def verify(asset: Asset, path: Path, recorded: str | None = None) -> str:
    """Return the SHA-256 of the file, after comparing size and digest with the published ones where they are known.

    ``recorded`` is the digest of its first use, compared where none is published.

    Raises:
        DataError: ``E-WEIGHT-06`` when they differ, with a guess at what happened.
    """
    digest = digest_file(path)
    wanted = asset.sha256 or recorded
    if asset.size not in (None, path.stat().st_size) or wanted not in (None, digest):
        raise wrong(asset, path, digest, recorded=recorded)
    return digest


def wrong(asset: Asset, path: Path, digest: str, reason: str = "", recorded: str | None = None) -> DataError:
    """The error for a file that is not ``asset``; without a ``reason``, what it looks like is guessed."""
    size = path.stat().st_size
    first_use = f"the sha256 recorded at first use: {recorded}" if recorded else f"the layout of {asset.name}"
    expected = f"{asset.length}, sha256 {asset.sha256}" if asset.sha256 else first_use
    file = path.name.removesuffix(PART_SUFFIX)
    return DataError(
        "E-WEIGHT-06",
        what=f"{file}: wrong content",
        found=f"{size:,} bytes, sha256 {digest}; {reason or _likeness(asset, path, size, digest)}",
        expected=expected,
        fix=f"delete {path.with_name(file)} and get it again: {asset.way}",
    )


def is_web_page(path: Path) -> bool:
    """Whether a file begins like HTML or XML: the usual content of a download that a portal intercepted."""
    with path.open("rb") as stream:
        head = stream.read(512).lstrip().lower()
    return head.startswith((b"<!doctype", b"<html", b"<?xml"))


PART_SUFFIX = ".part"
"""ending of a download that is not complete"""


def _likeness(asset: Asset, path: Path, size: int, digest: str) -> str:
    if is_web_page(path):
        return "looks like a web page, saved in place of the download"
    other = next((known.name for known in ASSETS.values() if known.sha256 == digest), None)
    if other is not None:
        return f"this is {other}"
    if asset.size is not None and size < asset.size:
        return "looks like a download that was cut short"
    return "looks like another file, or a damaged one"


def missing(asset: Asset, path: Path, tried: str = "") -> AssetError:
    """The error for an asset that is not there; ``tried`` says what came of fetching it."""
    return AssetError(
        "E-WEIGHT-05",
        what=f"the weights {asset.name} are not there",
        found=f"looked for {path}{(f'; {tried}' if tried else '')}",
        expected="the file that comes with this package" if asset.packaged else asset.terms,
        fix=f"{asset.way}; {WAYS_ON}",
    )
