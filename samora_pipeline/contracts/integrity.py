"""integrity.json: all that is wrong or doubtful about the cases of a raw dataset, as the last check found it."""

from dataclasses import dataclass

INTEGRITY_FILE = "integrity.json"


@dataclass(frozen=True)
class Fault:
    """A case that cannot be used as it is: the parts of the error by name (``errors.SamoraError``)."""

    case: str
    code: str
    what: str
    found: str
    expected: str
    fix: str


@dataclass(frozen=True)
class Remark:
    """Something doubtful that does not stop the work: the case it is about (empty: the dataset), code and sentence.

    Codes: ``W-GEO-01`` a header that contradicts itself or says nothing, ``W-IMG-01`` an image of one value,
    ``W-LABEL-01`` no foreground, ``W-LABEL-02`` labels that the header scales, ``W-LABEL-03`` a label that occurs
    nowhere, ``W-LABEL-04`` label files without an image, ``W-HU-01`` a CT channel without air, ``W-COPY-01`` one scan
    under several names, ``W-COUNT-01`` another number of training cases than stated.
    """

    case: str
    code: str
    text: str


@dataclass(frozen=True)
class IntegrityReport:
    """All findings about a dataset. ``cases`` were examined; with ``skipped`` the faulty ones were left out."""

    dataset: str
    cases: int
    skipped: bool
    faults: tuple[Fault, ...]
    remarks: tuple[Remark, ...]
    schema_version: int = 2
