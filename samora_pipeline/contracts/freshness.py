"""Whether raw cases are still those that were measured and stored, without reading them all again."""

from pathlib import Path
from typing import get_args

from samora_pipeline.contracts.dataset import ImageFolder, RawCase, RawDataset
from samora_pipeline.contracts.fingerprint import CaseFingerprint, Fingerprint
from samora_pipeline.files import digest_file


def changed_cases(raw: RawDataset, fingerprint: Fingerprint, slices: Path) -> tuple[str, ...]:
    """Names of the stored cases whose raw files are no longer those that were measured.

    Only files that were touched after their case was stored in the folder ``slices`` are read. What is not there, or
    cannot be read, is no change: training needs the stored slices alone.
    """
    found: dict[str, RawCase] = {}
    for folder in get_args(ImageFolder):
        cases, _ = raw.scan(folder)
        found |= cases
    known = fingerprint.cases
    return tuple(name for name, case in found.items() if name in known and _changed(case, known[name], slices))


def _changed(case: RawCase, known: CaseFingerprint, slices: Path) -> bool:
    files = dict(zip(case.channels, known.image_digests, strict=False))
    if case.label is not None and case.label.is_file():
        if known.label_digest is None:
            return True
        files[case.label] = known.label_digest
    try:
        stored = (slices / f"{case.name}.json").stat().st_mtime_ns
        return any(_touched(path) >= stored and digest_file(path) != digest for path, digest in files.items())
    except OSError:
        return False


def _touched(path: Path) -> int:
    """When content or place of a file changed last, in nanoseconds; links count by what they lead to."""
    status = path.stat()
    return max(status.st_mtime_ns, status.st_ctime_ns)
