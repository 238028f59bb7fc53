"""Writing so that a kill at any moment leaves the old file or the new one; digests that tell two files apart."""

import errno
import hashlib
import importlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from samora_pipeline.errors import DataError, ResourceError

# Not on Windows; there the writes are still atomic, only two writers are not told apart.
_fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

TEMPORARY_MARK = ".partial-"
_BLOCK = 1 << 20
_LONGEST_NAME, _KEPT = 255, 100
"""bytes that most file systems let a name have, and those that a temporary name keeps of a long one"""
_BAD_NAME = (errno.ENAMETOOLONG, errno.EILSEQ)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it, on failure remove it.

    The file can be read by whom the umask lets read it. The temporary name keeps the suffixes of ``path``, because
    several writers choose a format by suffix. Works for a file; a folder is made with ``atomic_folder``.

    Raises:
        ResourceError: ``E-DISK-01`` when the disk is full or the folder cannot be written.
        DataError: ``E-OUT-05`` when the file system does not take the name.
    """
    temporary = path.with_name(_temporary_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _usual_mode(temporary)
        yield temporary
        # Some writers (safetensors) make files that their owner alone can read.
        temporary.chmod(mode)
        _flush(temporary)
        temporary.replace(path)
    except OSError as error:
        raise _disk_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` and rename it at the end; an existing ``path`` is replaced whole."""
    temporary = path.with_name(f"{TEMPORARY_MARK}{secrets.token_hex(4)}-{path.name}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            discarded = path.with_name(f"{TEMPORARY_MARK}{secrets.token_hex(4)}-old-{path.name}")
            path.replace(discarded)
            temporary.replace(path)
            shutil.rmtree(discarded)
        else:
            temporary.replace(path)
    except OSError as error:
        raise _disk_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_name(name: str) -> str:
    """A name beside ``name``; of one that is too long for more the end is kept, because it tells the format."""
    temporary = f"{TEMPORARY_MARK}{secrets.token_hex(4)}-{name}"
    if len(os.fsencode(temporary)) <= _LONGEST_NAME:
        return temporary
    return f"{TEMPORARY_MARK}{secrets.token_hex(4)}-{os.fsencode(name)[-_KEPT:].decode(errors='ignore')}"


def _usual_mode(path: Path) -> int:
    """The mode of a new file at ``path``, as the umask has it; the file is not there afterwards."""
    path.touch()
    mode = path.stat().st_mode & 0o777
    path.unlink()
    return mode


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; the hold ends with the process, however that ends.

    Raises:
        ResourceError: ``E-LOCK-01`` when another process holds it.
    """

    def refuse() -> None:
        raise ResourceError("E-LOCK-01", folder=folder, found=str(folder))

    with in_turn(folder / ".lock", refuse):
        yield


@contextmanager
def in_turn(lock: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock file, waiting for the process that has it; ``waiting`` is called once if so, and may raise.

    The file stays behind, empty: to remove it would let two processes hold two files of one name.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    if _fcntl is None:
        yield
        return
    with lock.open("w") as stream:
        try:
            _fcntl.flock(stream, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            _fcntl.flock(stream, _fcntl.LOCK_EX)
        yield


def existing_folder(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    absolute = path.absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.is_dir())


def require_space(path: Path, needed: int) -> None:
    """Refuse to begin a write that does not fit.

    Args:
        path: a file or a folder that is to be written; it need not be there yet.
        needed: bytes.

    Raises:
        ResourceError: ``E-DISK-02``.
    """
    folder = existing_folder(path)
    free = shutil.disk_usage(folder).free
    if free < needed:
        found = f"{free / 1e6:,.0f} MB free in {folder}"
        raise ResourceError("E-DISK-02", path=path, needed=needed / 1e6, folder=folder, found=found)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` atomically, as UTF-8."""
    # A name that is not UTF-8 stands escaped in a text, and its escape is valid in JSON.
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def sweep(folder: Path) -> None:
    """Remove what killed writers left behind in ``folder`` (not in folders below it)."""
    for left_over in folder.glob(f"{TEMPORARY_MARK}*"):
        if left_over.is_dir():
            shutil.rmtree(left_over, ignore_errors=True)
        else:
            left_over.unlink(missing_ok=True)


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal text.

    Raises:
        OSError: it is no file, or cannot be read. Pipes and devices are no files: they would never end.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def digest_json(value: Any) -> str:
    """Return the SHA-256 of a JSON-like value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def inside(root: Path, name: str) -> Path:
    """Return ``root / name``, refusing names that leave ``root`` or that hide control characters.

    Raises:
        DataError: ``E-PATH-01`` for absolute names, ``..`` and symbolic links that lead out.
    """
    candidate = root / name
    clean = name.isprintable() and not Path(name).is_absolute()
    if not clean or not candidate.resolve().is_relative_to(root.resolve()):
        raise DataError("E-PATH-01", root=root, found=repr(name))
    return candidate


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_error(path: Path, error: OSError) -> Exception:
    if isinstance(error, FileNotFoundError):
        return error
    if error.errno in _BAD_NAME:
        return DataError("E-OUT-05", found=f"{error.strerror}: {path.name!r}")
    return ResourceError("E-DISK-01", path=path, found=str(error.strerror or error))
