"""Checks of image bytes that the common readers leave out, and the errors of all that reads images.

A truncated or altered stream, a header that claims more than the file can hold, and foreign bytes behind the data are
errors here; SimpleITK, for one, returns such volumes without a word. Readers raise ``DamagedError`` and ``HeaderError``
without knowing the file; ``reading`` adds its path and the fix.
"""

import errno
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samora_pipeline.errors import DataError, SamoraError

MAX_BYTES = 8 << 30
"""Largest decoded volume; beyond it a header is taken to be wrong."""

# Deflate cannot expand by more than this factor (1032 : 1), so a larger claim is a wrong header or a truncated file.
_MAX_RATIO = 1032
_PIECE = 1 << 16
"""compressed bytes that are decoded at a time: at most 64 MiB of voxels"""
GZIP_MAGIC = b"\x1f\x8b"


class DamagedError(Exception):
    """The bytes of a file are truncated or altered; the text says what was found."""


class HeaderError(Exception):
    """A header or a kind of pixel that cannot be used: what was found, and what is expected."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found)
        self.expected = expected


@contextmanager
def reading(path: Path, *damage: type[Exception]) -> Iterator[None]:
    """Give the errors of a reader the path of its file; errors of the types ``damage`` mean a damaged file as well.

    Raises:
        DataError: ``E-IMG-01`` no such file, ``E-IMG-02`` truncated or damaged, ``E-IMG-03`` a header or pixels that
            cannot be used, ``E-IMG-07`` a file that the system does not let read, or a link that leads nowhere.
    """
    damages: tuple[type[Exception], ...] = (DamagedError, zlib.error, *damage)
    try:
        if not path.is_file():
            raise _no_file(path)
        yield
    except (SamoraError, MemoryError):
        raise
    except HeaderError as error:
        raise DataError("E-IMG-03", path=path, found=f"{error} ({path})", expected=error.expected) from error
    except Exception as error:
        # Decoders raise OSError for what they cannot make sense of; the system's own errors are numbered.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise DataError("E-IMG-07", path=path, found=f"{error.strerror} ({path})") from error
        if not isinstance(error, damages):
            raise
        # ITK tells the cause in its last line.
        cause = "".join(str(error).strip().splitlines()[-1:])
        raise DataError("E-IMG-02", path=path, found=f"{cause} ({path})") from error


def _no_file(path: Path) -> DataError:
    if path.exists():
        return DataError("E-IMG-07", path=path, found=f"not a regular file ({path})")
    if path.is_symlink():
        return DataError("E-IMG-07", path=path, found=f"a link to {path.readlink()}, which is not there ({path})")
    return DataError("E-IMG-01", path=path, found=f"no file {path}", expected="an image file", fix="")


def check_claim(claimed: int, available: int = MAX_BYTES, compressed: bool = False) -> None:
    """Compare the bytes that a header claims with what the file can hold, before anything is allocated.

    Raises:
        HeaderError: when the claim exceeds the limit; DamagedError: when the file is too short for it.
    """
    if claimed > MAX_BYTES:
        raise HeaderError(f"a header that claims {claimed:,} bytes", f"at most {MAX_BYTES:,}")
    if claimed > available * (_MAX_RATIO if compressed else 1):
        raise DamagedError(f"{available:,} bytes on disk, too few for the {claimed:,} that its header claims")


def inflate(content: bytes, claimed: int, window: int = 31) -> bytearray:
    """Decode a whole gzip (all members) or zlib stream and verify checksums, end and length.

    ``window`` is zlib's: 31 for gzip, 15 for zlib.
    What is decoded beyond ``claimed`` is a piece at most. Zeros behind the stream are padding.

    Raises:
        DamagedError, zlib.error: truncated, altered, followed by other bytes, or not of ``claimed`` bytes.
    """
    # In pieces into their place: zlib's own result of a whole volume is in memory twice before it is complete.
    source, decoded = memoryview(content), bytearray(claimed)
    place, length, complete = 0, 0, False
    while place < len(source):
        stream = zlib.decompressobj(window)
        while place < len(source) and not stream.eof:
            packed = source[place : place + _PIECE]
            piece = stream.decompress(packed)
            place += len(packed) - len(stream.unused_data)
            if length + len(piece) > claimed:
                raise DamagedError(f"more than the {claimed:,} bytes that its header claims")
            decoded[length : length + len(piece)] = piece
            length += len(piece)
        complete = stream.eof
        if place < len(source) and source[place] == 0:
            place = len(source) - len(bytes(source[place:]).lstrip(b"\0"))
    if not complete or length < claimed:
        end = "" if complete else "without their end or checksum "
        raise DamagedError(f"compressed data that stop {end}after {length:,} of {claimed:,} bytes")
    return decoded
