"""Whether a DICOM file holds all the bytes of its pixels: the decoders fill what is missing without a word.

Only explicit and implicit little endian are parsed (DICOM PS3.5, sections 7.1 and A.4); everything before the pixel
data is left to the decoder.
"""

from __future__ import annotations

import struct
from pathlib import Path

from samora_pipeline.imaging.byte_checks import bad_header, damaged

_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_ITEM = b"\xfe\xff\x00\xe0"
_DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"
_UNDEFINED = 0xFFFFFFFF


def check_pixel_bytes(path: Path) -> None:
    """Refuse a file whose pixel data end before their stated length.

    Raises:
        DataError: ``E-IMG-02`` for missing bytes, ``E-IMG-03`` without pixel data.
    """
    content = path.read_bytes()
    found = False
    start = content.find(_PIXEL_DATA)
    while start >= 0:
        value = _value(content, start)
        if value is not None:
            offset, length = value
            found = True
            if _holds(content, offset, length):
                return
        start = content.find(_PIXEL_DATA, start + 1)
    if found:
        raise damaged(path, f"pixel data that end early, at byte {len(content):,}")
    raise bad_header(path, "no pixel data in little-endian order", "an image slice")


def _value(content: bytes, start: int) -> tuple[int, int] | None:
    """Offset and length of the value of the pixel-data element at ``start``; None when no such element begins here."""
    head = content[start + 4 : start + 12]
    if len(head) < 8:
        return None
    if head[:2] in (b"OW", b"OB"):
        return (start + 12, struct.unpack("<I", head[4:])[0]) if head[2:4] == b"\0\0" else None
    return start + 8, struct.unpack("<I", head[:4])[0]


def _holds(content: bytes, offset: int, length: int) -> bool:
    if length != _UNDEFINED:
        return offset + length <= len(content)
    while content[offset : offset + 4] == _ITEM and offset + 8 <= len(content):
        offset += 8 + struct.unpack("<I", content[offset + 4 : offset + 8])[0]
    return content[offset : offset + 8] == _DELIMITER
