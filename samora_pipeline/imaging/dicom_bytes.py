"""DICOM files as bytes: what is one, whether it has pixels, and whether these are all there.

The decoder (GDCM) fills missing pixels silently and says of an object without pixels only that it cannot read it.
Elements are walked by DICOM PS3.5, section 7; of transfer syntaxes only what changes this walk matters (annex A).
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from samora_pipeline.imaging.byte_checks import DamagedError, HeaderError

FIRST_BYTES = 144
"""so many tell whether a file is DICOM"""

_MAGIC, _MAGIC_OFFSET = b"DICM", 128
_BARE_GROUPS = (0x0002, 0x0008)
_LONGEST_FIRST = 64

_TRANSFER_SYNTAX = 0x0002_0010
_IMPLICIT, _DEFLATED, _BIG_ENDIAN = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.2"
_LARGEST_SLICE = 1 << 30

_CLASSES = (0x0002_0002, 0x0008_0016)
# Storage of reports, presentation states, documents, curves, radiotherapy, registrations and other raw values. What has
# pixels among them (doses, segmentations) is told by its pixels.
_STORAGE = b"1.2.840.10008.5.1.4.1.1."
_NOT_IMAGES = (b"88.", b"11.", b"104.", b"9.", b"481.", b"66", b"67", b"68.", b"78.", b"79.", b"80.", b"81.", b"200.")
_ROWS, _PIXELS = 0x0028_0010, (0x7FE0_0008, 0x7FE0_0009, 0x7FE0_0010)
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD
_UNDEFINED = 0xFFFF_FFFF
_DEEPEST = 64
# Value representations whose length has four bytes, after two that are reserved.
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


class _Encoding(NamedTuple):
    """How elements are written: with their value representation or without, and in which order of bytes."""

    explicit: bool
    order: str


class _Element(NamedTuple):
    """Tag, value and length; ``offset`` is where the value begins. The length may be undefined."""

    tag: int
    kind: bytes
    offset: int
    length: int


def begins_as_dicom(start: bytes) -> bool:
    """Whether the first bytes are those of a DICOM file, with its preamble or, as older archives write it, without."""
    if start[_MAGIC_OFFSET : _MAGIC_OFFSET + 4] == _MAGIC:
        return True
    if len(start) < 8:
        return False
    group, element, length = struct.unpack("<HHI", start[:8])
    return group in _BARE_GROUPS and element < 0x0100 and (_is_kind(start[4:6]) or 0 < length <= _LONGEST_FIRST)


def is_without_pixels(path: Path) -> bool:
    """Whether a file is a whole DICOM object of a kind that is no image, and has no pixels.

    A truncated slice may end where an element ends; its kind, or that it states none, tells it from these.
    """
    kinds, tags = set(), set()
    try:
        content = path.read_bytes()
        body, encoding, start = _body(content)
        for element in _walk(body, start, encoding):
            tags.add(element.tag)
            if element.tag in _CLASSES:
                kinds.add(body[element.offset : element.offset + element.length].strip(b" \0"))
    except (DamagedError, HeaderError, zlib.error, struct.error, OSError):
        return False
    others = tuple(_STORAGE + kind for kind in _NOT_IMAGES)
    return bool(kinds) and all(kind.startswith(others) for kind in kinds) and not tags & {_ROWS, *_PIXELS}


def check_pixel_bytes(content: bytes) -> None:
    """Refuse a file whose pixel data end before their stated length: the decoders fill what is missing silently.

    Everything before the pixel data is left to the decoder.

    Raises:
        DamagedError: missing bytes; HeaderError: no pixel data.
    """
    body, encoding, _ = _body(content)
    tag = struct.pack(f"{encoding.order}HH", _PIXELS[-1] >> 16, _PIXELS[-1] & 0xFFFF)
    found = False
    start = body.find(tag)
    while start >= 0:
        head = body[start + 4 : start + 12]
        explicit = head[:2] in (b"OW", b"OB")
        if len(head) == 8 and not (explicit and head[2:4] != b"\0\0"):
            found = True
            (length,) = struct.unpack(f"{encoding.order}I", head[4:] if explicit else head[:4])
            if _holds(body, start + (12 if explicit else 8), length, encoding):
                return
        start = body.find(tag, start + 1)
    if found:
        raise DamagedError(f"pixel data that end early, at byte {len(content):,}")
    raise HeaderError("no pixel data", "an image slice")


def _holds(content: bytes, offset: int, length: int, encoding: _Encoding) -> bool:
    try:
        return (offset + length if length != _UNDEFINED else _end_of_items(content, offset, encoding)) <= len(content)
    except DamagedError:
        return False


def _body(content: bytes) -> tuple[bytes, _Encoding, int]:
    """The bytes behind the meta information, inflated where they are deflated, their encoding, and where they begin."""
    start = _MAGIC_OFFSET + 4 if content[_MAGIC_OFFSET : _MAGIC_OFFSET + 4] == _MAGIC else 0
    syntax, position = b"", start
    while content[position : position + 2] == b"\x02\0":
        element = _element(content, position, _Encoding(True, "<"))
        position = element.offset + element.length
        if element.tag == _TRANSFER_SYNTAX:
            syntax = content[element.offset : position].strip(b" \0")
    if syntax == _DEFLATED:
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        body = stream.decompress(content[position:], _LARGEST_SLICE)
        if not stream.eof:
            raise DamagedError(f"deflated data that stop without their end, at byte {len(content):,}")
        return body, _Encoding(True, "<"), 0
    explicit = _is_kind(content[position + 4 : position + 6]) if not syntax else syntax != _IMPLICIT
    return content, _Encoding(explicit, ">" if syntax == _BIG_ENDIAN else "<"), position


def _is_kind(letters: bytes) -> bool:
    return len(letters) == 2 and letters.isalpha() and letters.isupper()


def _walk(content: bytes, position: int, encoding: _Encoding, depth: int = 0) -> Iterator[_Element]:
    """The elements from ``position`` to the end of the content, or to the end of the item that they stand in.

    Raises:
        DamagedError: the content ends within an element.
    """
    while position < len(content) or depth:
        element = _element(content, position, encoding)
        yield element
        if element.tag == _ITEM_END and depth:
            return
        if element.length == _UNDEFINED:
            # Values of unknown kind are written without kinds.
            inner = _Encoding(False, encoding.order) if element.kind == b"UN" else encoding
            position = _end_of_items(content, element.offset, inner, depth + 1)
        else:
            position = element.offset + element.length
        if position > len(content):
            raise DamagedError(f"an element that ends behind the file, at byte {position:,}")


def _end_of_items(content: bytes, position: int, encoding: _Encoding, depth: int = 1) -> int:
    """Where a value of undefined length ends: behind its items and their delimiter."""
    if depth > _DEEPEST:
        raise DamagedError(f"sequences in each other, {depth} deep")
    while True:
        item = _element(content, position, encoding)
        if item.tag == _SEQUENCE_END:
            return item.offset
        if item.tag != _ITEM:
            raise DamagedError(f"no item at byte {position:,}")
        position = item.offset + item.length
        if item.length == _UNDEFINED:
            *_, last = _walk(content, item.offset, encoding, depth + 1)
            position = last.offset


def _element(content: bytes, position: int, encoding: _Encoding) -> _Element:
    head = content[position : position + 12]
    if len(head) < 8:
        raise DamagedError(f"{len(content):,} bytes, which end within an element")
    group, number = struct.unpack(f"{encoding.order}HH", head[:4])
    tag = group << 16 | number
    if not encoding.explicit or group == _ITEM >> 16:
        return _Element(tag, b"", position + 8, struct.unpack(f"{encoding.order}I", head[4:8])[0])
    kind = head[4:6]
    if not _is_kind(kind):
        raise DamagedError(f"no element at byte {position:,}")
    if kind not in _LONG:
        return _Element(tag, kind, position + 8, struct.unpack(f"{encoding.order}H", head[6:8])[0])
    if len(head) < 12:
        raise DamagedError(f"{len(content):,} bytes, which end within an element")
    return _Element(tag, kind, position + 12, struct.unpack(f"{encoding.order}I", head[8:12])[0])
