"""What of the catalogue is in the weights folder, and in which state."""

from pathlib import Path

from samora_pipeline.command_line import aligned
from samora_pipeline.errors import DataError, SamoraError
from samora_pipeline.weights.catalog import ASSETS, PART_SUFFIX, Asset, missing
from samora_pipeline.weights.obtain import check
from samora_pipeline.weights.records import read_record

_HEAD = ("name", "state", "licence", "size", "where")


Checked = tuple[Asset, Path, SamoraError | None]
"""one file after its digest was taken, and what is wrong with it"""


def table(folder: Path) -> str:
    """The catalogue as text: name, state, licence, size, and path or address. Nothing is read but records."""
    rows = [_HEAD]
    for asset in ASSETS.values():
        path = asset.path(folder)
        where = str(path) if path.is_file() else asset.url
        length = f"{path.stat().st_size:,} bytes" if path.is_file() else asset.length or "?"
        rows.append((asset.name, state(asset, path), asset.licence, length, where))
    return "\n".join(aligned(rows))


def state(asset: Asset, path: Path) -> str:
    """One word or two on a file, without reading it."""
    if asset.packaged:
        return "packaged" if path.is_file() else "missing"
    if not path.is_file():
        part = path.with_name(f"{path.name}{PART_SUFFIX}")
        return f"begun ({part.stat().st_size / 1e6:,.0f} MB)" if part.is_file() else "not there"
    record = read_record(path)
    if record is None:
        return "licence not accepted" if asset.non_commercial else "not checked"
    if record.size != path.stat().st_size:
        return "changed"
    return "there" if record.digest_from == "published" else "there (own digest)"


def verify_all(assets: list[Asset], folder: Path, *, required: bool) -> list[Checked]:
    """Take the digest of every file that is there; with ``required``, a file that is not there is a fault too."""
    results = []
    for asset in assets:
        path = asset.path(folder)
        fault: SamoraError | None = None
        try:
            if path.is_file():
                check(asset, path)
            elif not required:
                continue
            else:
                fault = missing(asset, path)
        except SamoraError as error:
            fault = error
        results.append((asset, path, fault))
    return results


def raise_faults(results: list[Checked]) -> None:
    """Raise if any file is not as it should be: the fault itself if there is one, else all of them in one error.

    Raises:
        SamoraError: ``E-WEIGHT-05`` or ``E-WEIGHT-11`` (exit 5) if that is all; ``E-WEIGHT-06`` (exit 4).
    """
    faults = {asset.name: fault for asset, _, fault in results if fault}
    wrong = [fault for fault in faults.values() if isinstance(fault, DataError)]
    if len(faults) > 1 and wrong:
        found = "; ".join(f"{name}: {fault.what}" for name, fault in faults.items())
        what = f"{len(faults)} files of weights are not as they should be"
        raise DataError("E-WEIGHT-06", what, found=found, fix=wrong[0].fix)
    for fault in faults.values():
        raise fault
