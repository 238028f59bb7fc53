"""Decoding of image bytes with every check that the common readers leave out.

A truncated or altered stream, a header that claims more than the file can hold, and bytes that nobody asked for are
errors here; SimpleITK, for one, returns such volumes without a word.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from samora_pipeline.errors import DataError

MAX_BYTES = 8 << 30
"""Largest decoded volume; beyond it a header is taken to be wrong."""

# Deflate cannot expand by more than this factor (1032 : 1), so a larger claim is a wrong header or a truncated file.
_MAX_RATIO = 1032
GZIP_MAGIC = b"\x1f\x8b"
GZIP_WINDOW = 31
ZLIB_WINDOW = 15


def check_claim(path: Path, claimed: int, available: int, compressed: bool) -> None:
    """Compare the bytes that a header claims with what the file can hold, before anything is allocated.

    Raises:
        DataError: ``E-IMG-03`` when the claim exceeds the limit, ``E-IMG-02`` when the file is too short for it.
    """
    if claimed > MAX_BYTES:
        raise bad_header(path, f"a header that claims {claimed:,} bytes", f"at most {MAX_BYTES:,}")
    if claimed > available * (_MAX_RATIO if compressed else 1):
        raise damaged(path, f"{available:,} bytes on disk, too few for the {claimed:,} that its header claims")


def inflate_start(path: Path, content: bytes, count: int) -> bytes:
    """Return the first ``count`` decoded bytes of a gzip stream (fewer when it is shorter)."""
    try:
        return zlib.decompressobj(GZIP_WINDOW).decompress(content, count)
    except zlib.error as error:
        raise damaged(path, str(error)) from error


def inflate(path: Path, content: bytes, claimed: int, window: int = GZIP_WINDOW) -> bytes:
    """Decode a whole gzip (all members) or zlib stream and verify checksums, end and length.

    Raises:
        DataError: ``E-IMG-02`` truncated, altered, followed by other bytes, or shorter than ``claimed`` bytes.
    """
    decoded: list[bytes] = []
    # One byte of room beyond the claim, so that the stream's end and its checksum are reached.
    room = claimed + 1
    while content:
        stream = zlib.decompressobj(window)
        try:
            piece = stream.decompress(content, max(room, 1))
        except zlib.error as error:
            raise damaged(path, str(error)) from error
        decoded.append(piece)
        room -= len(piece)
        if not stream.eof:
            raise damaged(path, _unfinished(decoded, claimed))
        content = stream.unused_data
        if content and not (window == GZIP_WINDOW and content.startswith(GZIP_MAGIC)):
            if content.strip(b"\0"):
                raise damaged(path, f"{len(content)} foreign bytes behind the compressed data")
            break
    result = decoded[0] if len(decoded) == 1 else b"".join(decoded)
    if len(result) < claimed:
        raise damaged(path, f"{len(result):,} decoded bytes, {claimed:,} claimed by its header")
    return result


def _unfinished(decoded: list[bytes], claimed: int) -> str:
    length = sum(len(piece) for piece in decoded)
    if length > claimed:
        return f"more than the {claimed:,} bytes that its header claims"
    return f"compressed data that end after {length:,} of {claimed:,} bytes"


def damaged(path: Path, found: str) -> DataError:
    """The error for a truncated or altered file (``E-IMG-02``)."""
    return DataError(
        "E-IMG-02",
        f"{path.name} is truncated or damaged",
        found=f"{found} ({path})",
        expected="a complete file with matching checksums",
        fix="copy or download the file again",
    )


def bad_header(path: Path, found: str, expected: str) -> DataError:
    """The error for a header that cannot be right (``E-IMG-03``)."""
    return DataError(
        "E-IMG-03",
        f"{path.name} has a header that cannot be used",
        found=f"{found} ({path})",
        expected=expected,
        fix="convert the scan again from its source",
    )
