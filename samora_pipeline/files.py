"""Writing so that a kill at any moment leaves the old file or the new one; digests that tell two files apart."""

import errno
import hashlib
import importlib
import json
import logging
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from samora_pipeline.errors import DataError, ResourceError, SamoraError

# Not on Windows; there the writes are still atomic, only two writers are not distinguished.
_fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

TEMPORARY_MARK = ".partial-"
_BLOCK = 1 << 20
_OWNER = re.compile(re.escape(TEMPORARY_MARK) + r"([0-9a-f]{6})\.(\d+)\.(\d+)-")
_FOREIGN_AGE = 86400.0
"""seconds without a change after which a temporary file of another machine counts as left behind"""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO)
logger = logging.getLogger("samora")
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
    temporary = temporary_beside(path)
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
    temporary = temporary_beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            discarded = temporary_beside(path.with_name(f"old-{path.name}"))
            path.replace(discarded)
            temporary.replace(path)
            shutil.rmtree(discarded)
        else:
            temporary.replace(path)
    except OSError as error:
        raise _disk_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_beside(path: Path) -> Path:
    """A new name beside ``path`` that says which process of which machine writes it, and ends as ``path`` does.

    Of a name that is too long for more the end is kept, because it tells the format.
    """
    owner = f"{_machine()}.{os.getpid()}.{_started(os.getpid())}"
    beginning, name = f"{TEMPORARY_MARK}{owner}-{secrets.token_hex(4)}-", path.name
    if len(os.fsencode(beginning + name)) > _LONGEST_NAME:
        name = os.fsencode(name)[-_KEPT:].decode(errors="ignore")
    return path.with_name(beginning + name)


@cache
def _machine() -> str:
    """What tells the process numbers of this machine, or of this container, from those of others."""
    try:
        numbers = Path("/proc/self/ns/pid").readlink()
    except OSError:
        numbers = Path()
    return hashlib.sha256(f"{socket.gethostname()} {numbers}".encode()).hexdigest()[:6]


def _started(process: int) -> int:
    """When a process was started, in ticks of the system, so that a number given anew is another process; else 0."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except (OSError, LookupError, ValueError):
        return 0


def _is_alive(process: int, started: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        pass
    return _started(process) == started


def _left_behind(path: Path) -> bool:
    """Whether nobody writes a temporary file or folder any more."""
    owner = _OWNER.match(path.name)
    if owner is not None and owner[1] == _machine():
        return not _is_alive(int(owner[2]), int(owner[3]))
    try:
        return owner is None or time.time() - path.lstat().st_mtime > _FOREIGN_AGE
    except FileNotFoundError:
        return False


def _usual_mode(path: Path) -> int:
    """The mode of a new file at ``path``, as the umask has it; the file is not there afterwards."""
    path.touch()
    mode = path.stat().st_mode & 0o777
    path.unlink()
    return mode


@contextmanager
def exclusive(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a folder for this process alone; the hold ends with the process, however that ends.

    With ``shared`` other readers may hold it too, but nobody who writes; a folder that is read-only needs no hold.

    Raises:
        ResourceError: ``E-LOCK-01`` when another process holds it, ``E-DISK-01`` it cannot be made.
    """

    def refuse() -> None:
        raise ResourceError("E-LOCK-01", folder=folder, found=str(folder))

    with in_turn(folder / ".lock", refuse, shared=shared):
        yield


@contextmanager
def in_turn(lock: Path, waiting: Callable[[], None], *, shared: bool = False) -> Iterator[None]:
    """Hold a lock file, waiting for the process that has it; ``waiting`` is called once if so, and may raise.

    The file stays behind, empty: to remove it would let two processes hold two files of one name. A file system
    without locks is said once, and nothing is held.

    Raises:
        ResourceError: ``E-DISK-01`` the file cannot be made (where it is ``shared``, nothing is held instead).
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("w")
    except OSError as error:
        if not shared:
            raise _disk_error(lock, error) from error
        yield
        return
    with stream:
        if _fcntl is not None:
            _hold(stream, waiting, _fcntl.LOCK_SH if shared else _fcntl.LOCK_EX)
        yield


def _hold(stream: IO[str], waiting: Callable[[], None], kind: int) -> None:
    try:
        try:
            _fcntl.flock(stream, kind | _fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            _fcntl.flock(stream, kind)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning("%s: no locks here (%s); run one command at a time", Path(stream.name).parent, error.strerror)


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


def append_text(path: Path, content: str) -> None:
    """Add UTF-8 text to the end of a file. A kill or a full disk may leave a part of it there.

    Raises:
        ResourceError: ``E-DISK-01``.
    """
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(content)
    except OSError as error:
        raise _disk_error(path, error) from error


def sweep(folder: Path, name: str = "") -> None:
    """Remove what killed writers left behind in ``folder`` (not in folders below it), or of its file ``name`` alone.

    What a living process writes stays, and what another machine wrote for a day.
    """
    for left_over in folder.glob(f"{TEMPORARY_MARK}*"):
        if not left_over.name.endswith(f"-{name}" if name else "") or not _left_behind(left_over):
            continue
        if left_over.is_dir() and not left_over.is_symlink():
            shutil.rmtree(left_over, ignore_errors=True)
        else:
            with suppress(OSError):
                left_over.unlink(missing_ok=True)


def require_regular(path: Path) -> None:
    """Refuse what is there and no file: a pipe would be waited for without end, a device read without end.

    Raises:
        OSError: of the number EINVAL. What is not there is for its reader to find.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "no regular file", str(path))


def system_error(error: OSError) -> SamoraError:
    """What the system refused, in our words: ``E-DISK-01`` for want of space, else ``E-FILE-01``."""
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else Path()
    if error.errno in _NO_SPACE:
        return ResourceError("E-DISK-01", path=path, found=error.strerror or str(error))
    return DataError("E-FILE-01", path=path, found=str(error))


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal text.

    Raises:
        OSError: it is no file, or cannot be read. Pipes and devices are no files: they would never end.
    """
    require_regular(path)
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
