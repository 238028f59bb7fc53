"""Checks of NRRD and MetaImage files before SimpleITK reads them: sizes, compressed length, checksum, data file.

Only what the checks need is parsed here; the voxels themselves come from SimpleITK.
"""

from __future__ import annotations

import math
from pathlib import Path

from samora_pipeline.files import inside
from samora_pipeline.imaging.byte_checks import ZLIB_WINDOW, bad_header, check_claim, damaged, inflate

_HEADER_LIMIT = 1 << 16

_NRRD_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t"), 4),
    **dict.fromkeys(("longlong", "long long", "int64", "int64_t", "ulonglong", "uint64", "uint64_t", "double"), 8),
    "float": 4,
}
_META_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}


def check_nrrd(path: Path) -> None:
    """Check an NRRD file (attached or detached data; raw or gzip).

    Raises:
        DataError: ``E-IMG-02`` damaged, ``E-IMG-03`` header that cannot be used, ``E-PATH-01`` data file elsewhere.
    """
    content = path.read_bytes()
    fields, offset = _nrrd_header(path, content)
    if fields.get("type", "") not in _NRRD_BYTES:
        raise bad_header(path, f"type {fields.get('type', '(none)')!r}", "a type of whole or real numbers")
    claimed = _product(path, fields.get("sizes", "")) * _NRRD_BYTES[fields["type"]]
    encoding = fields.get("encoding", "")
    if encoding not in ("raw", "gzip", "gz"):
        raise bad_header(path, f"encoding {encoding!r}", "raw or gzip")
    data = content[offset:]
    if detached := fields.get("data file") or fields.get("datafile"):
        data = _read_beside(path, detached)
    check_claim(path, claimed, len(data), encoding != "raw")
    if encoding != "raw":
        inflate(path, data, claimed)


def check_metaimage(path: Path) -> None:
    """Check a MetaImage file (``.mha``, or ``.mhd`` with its data file beside it).

    Raises:
        DataError: ``E-IMG-02`` damaged, ``E-IMG-03`` header that cannot be used, ``E-PATH-01`` data file elsewhere.
    """
    content = path.read_bytes()
    fields, offset = _meta_header(path, content)
    if fields.get("ElementType", "") not in _META_BYTES:
        raise bad_header(path, f"ElementType {fields.get('ElementType', '(none)')!r}", "MET_SHORT, MET_FLOAT, ...")
    claimed = _product(path, fields.get("DimSize", "")) * _META_BYTES[fields["ElementType"]]
    claimed *= _whole(path, fields.get("ElementNumberOfChannels", "1"))
    data = content[offset:]
    if fields["ElementDataFile"] != "LOCAL":
        data = _read_beside(path, fields["ElementDataFile"])
    compressed = fields.get("CompressedData", "False").lower() == "true"
    if compressed and "CompressedDataSize" in fields:
        stated = _whole(path, fields["CompressedDataSize"])
        if stated and len(data) < stated:
            raise damaged(path, f"{len(data):,} compressed bytes, {stated:,} stated by its header")
        data = data[:stated] if stated else data
    check_claim(path, claimed, len(data), compressed)
    if compressed:
        inflate(path, data, claimed, ZLIB_WINDOW)


def _nrrd_header(path: Path, content: bytes) -> tuple[dict[str, str], int]:
    if not content.startswith(b"NRRD000"):
        raise bad_header(path, f"first bytes {content[:8]!r}", "NRRD000x")
    fields: dict[str, str] = {}
    offset = 0
    while offset < min(len(content), _HEADER_LIMIT):
        end = content.find(b"\n", offset)
        end = len(content) if end < 0 else end
        line = content[offset:end].decode("latin-1").rstrip("\r")
        offset = end + 1
        if not line:
            break
        if ":" in line and not line.startswith("#") and ":=" not in line:
            key, _, value = line.partition(":")
            fields[key.strip().lower()] = value.strip()
    return fields, offset


def _meta_header(path: Path, content: bytes) -> tuple[dict[str, str], int]:
    fields: dict[str, str] = {}
    offset = 0
    while offset < min(len(content), _HEADER_LIMIT):
        end = content.find(b"\n", offset)
        end = len(content) if end < 0 else end
        key, _, value = content[offset:end].decode("latin-1").partition("=")
        fields[key.strip()] = value.strip()
        offset = end + 1
        if key.strip() == "ElementDataFile":
            return fields, offset
    raise bad_header(path, "no ElementDataFile", "a MetaImage header")


def _read_beside(path: Path, name: str) -> bytes:
    if name.upper().startswith("LIST") or "%" in name:
        raise bad_header(path, f"a list of data files ({name})", "one data file")
    target = inside(path.parent, name)
    if not target.is_file():
        raise damaged(path, f"no data file {target}")
    return target.read_bytes()


def _product(path: Path, sizes: str) -> int:
    return math.prod(_whole(path, size) for size in sizes.split()) if sizes else _whole(path, "(no sizes)")


def _whole(path: Path, text: str) -> int:
    if not text.isdigit() or len(text) > 18:
        raise bad_header(path, f"the size {text!r}", "positive whole numbers")
    return int(text)
