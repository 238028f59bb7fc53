"""Decoding of image bytes with every check that the common readers leave out.

A truncated or altered stream, a header that claims more than the file can hold, and bytes that nobody asked for are
errors here; SimpleITK, for one, returns such volumes without a word.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from samora_pipeline.errors import DataError

MAX_BYTES = 8 << 30
"""Largest decoded volume; beyond it a header is taken to be wrong."""

# Deflate cannot expand by more than this factor (1032 : 1), so a larger claim is a wrong header or a truncated file.
_MAX_RATIO = 1032
_PIECE = 1 << 18
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
    """Return the first ``count`` decoded bytes of a gzip stream (fewer when it holds fewer).

    Raises:
        DataError: ``E-IMG-02`` for a stream that is cut or altered before that.
    """
    stream = zlib.decompressobj(GZIP_WINDOW)
    try:
        start = stream.decompress(content[:_PIECE], count)
    except zlib.error as error:
        raise damaged(path, str(error)) from error
    if len(start) < count and not stream.eof and len(content) <= _PIECE:
        raise damaged(path, f"compressed data that end after {len(start)} bytes, within the header")
    return start


def inflate(path: Path, content: bytes, claimed: int, window: int = GZIP_WINDOW) -> npt.NDArray[np.uint8]:
    """Decode a whole gzip (all members) or zlib stream into an array and verify checksums, end and length.

    The stream is taken in pieces small enough for the processor's cache: decoding, checksum and copy are one pass
    over memory, and nothing beyond the ``claimed`` bytes (and one piece) is ever held.

    Raises:
        DataError: ``E-IMG-02`` truncated, altered, followed by other bytes, or not of ``claimed`` bytes.
    """
    decoded = np.empty(claimed, dtype=np.uint8)
    stream = zlib.decompressobj(window)
    filled = 0
    remaining = memoryview(content)
    while remaining:
        piece, remaining = remaining[:_PIECE], remaining[_PIECE:]
        if stream.eof:
            # A new member begins here, or there is something that does not belong to the file.
            if _is_padding(path, piece, remaining, window):
                break
            stream = zlib.decompressobj(window)
        try:
            # One byte of room beyond the claim, so that the stream's end and its checksum are reached.
            part = stream.decompress(piece, claimed - filled + 1)
        except zlib.error as error:
            raise damaged(path, str(error)) from error
        if filled + len(part) > claimed:
            raise damaged(path, f"more than the {claimed:,} bytes that its header claims")
        decoded[filled : filled + len(part)] = np.frombuffer(part, dtype=np.uint8)
        filled += len(part)
        if stream.unused_data:
            remaining = memoryview(content)[len(content) - len(remaining) - len(stream.unused_data) :]
    if not stream.eof:
        lacking = "without their checksum, " if filled == claimed else ""
        raise damaged(path, f"compressed data that end {lacking}after {filled:,} of {claimed:,} bytes")
    if filled < claimed:
        raise damaged(path, f"{filled:,} decoded bytes, {claimed:,} claimed by its header")
    return decoded


def _is_padding(path: Path, piece: memoryview, remaining: memoryview, window: int) -> bool:
    """Whether only zeros follow a stream; bytes that are neither zeros nor another gzip member are an error."""
    if window == GZIP_WINDOW and piece[:2] == GZIP_MAGIC:
        return False
    if bytes(piece).strip(b"\0") or bytes(remaining).strip(b"\0"):
        raise damaged(path, f"{len(piece) + len(remaining):,} foreign bytes behind the compressed data")
    return True


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
