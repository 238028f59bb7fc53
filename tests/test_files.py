from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from samora_pipeline.errors import DataError, ResourceError, SamoraError
from samora_pipeline.files import (
    append_text,
    atomic_folder,
    atomic_path,
    digest_file,
    exclusive,
    inside,
    sweep,
    system_error,
    temporary_beside,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_no_leftover(tmp_path: Path) -> None:
    target = tmp_path / "value.txt"
    write_text(target, "old")

    def fail_halfway() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_killed_writer_leaves_the_old_file_and_the_sweep_removes_the_rest(tmp_path: Path) -> None:
    target = tmp_path / "value.txt"
    write_text(target, "old")
    script = (
        "import os, signal, pathlib, sys\n"
        "from samora_pipeline.files import atomic_path\n"
        "with atomic_path(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    assert result.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with atomic_folder(target) as temporary:
        (temporary / "first").write_text("1")
        assert not target.exists()
    with atomic_folder(target) as temporary:
        (temporary / "second").write_text("2")
    assert [path.name for path in target.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="E-DISK-01") as caught:
        write_text(tmp_path / "value.txt", "text")
    assert "No space left" in caught.value.found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside", "line\nbreak", "link/file"])
def test_names_cannot_leave_their_folder(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="E-PATH-01"):
        inside(root, name)
    assert inside(root, "a/b.nii.gz") == root / "a/b.nii.gz"


def test_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert digest_file(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_errors_survive_the_way_back_from_a_worker() -> None:

    import pickle

    error = DataError("E-X-01", "wrong", found="a", expected="b", fix="c")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, SamoraError)
    assert copy.text() == error.text() == "E-X-01 wrong\n  found: a\n  expected: b\n  fix: c"


_WRITER = """
import pathlib, sys
from samora_pipeline.files import atomic_path
with atomic_path(pathlib.Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_the_sweep_leaves_what_a_living_process_writes(tmp_path: Path) -> None:
    target = tmp_path / "value.txt"
    command = [sys.executable, "-c", _WRITER, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        assert writer.stdout.readline() == "ready\n"
        sweep(tmp_path)
        writer.stdin.close()
        assert writer.wait() == 0
    assert target.read_text() == "half"
    assert list(tmp_path.iterdir()) == [target]


def test_a_process_number_given_anew_is_another_process(tmp_path: Path) -> None:
    own = temporary_beside(tmp_path / "value.txt")
    owner, number, started = own.name.split("-")[1].split(".")
    assert number == str(os.getpid())
    other = tmp_path / own.name.replace(f"{owner}.{number}.{started}", f"{owner}.{number}.1")
    own.touch()
    other.touch()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [own]


def test_what_another_machine_writes_stays_for_a_day(tmp_path: Path) -> None:
    fresh, old = (tmp_path / f".partial-00000f.1.1-{name}-value.txt" for name in ("aaaa", "bbbb"))
    fresh.touch()
    old.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [fresh]


def test_the_sweep_for_one_name_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / ".partial-1234-model").mkdir()
    (tmp_path / ".partial-1234-other").touch()
    sweep(tmp_path, "model")
    assert [path.name for path in tmp_path.iterdir()] == [".partial-1234-other"]


def test_readers_share_a_folder_and_keep_writers_out(tmp_path: Path) -> None:
    with ExitStack() as readers:
        for _ in range(2):
            readers.enter_context(exclusive(tmp_path, shared=True))
        with pytest.raises(ResourceError, match="E-LOCK-01"), exclusive(tmp_path):
            pass
    with exclusive(tmp_path), pytest.raises(ResourceError, match="E-LOCK-01"), exclusive(tmp_path, shared=True):
        pass
    with exclusive(tmp_path):
        pass


def test_a_file_system_without_locks_is_said_and_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(_stream: object, _kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with caplog.at_level("WARNING", logger="samora"), exclusive(tmp_path):
        pass
    assert "no locks here" in caplog.text


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_pipes_and_devices_are_refused_and_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "value")
    with pytest.raises(OSError, match="no regular file"):
        digest_file(tmp_path / "value")


def test_a_full_disk_while_a_line_is_added_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="E-DISK-01"):
        append_text(Path("/dev/full"), "a line\n")


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [
        (errno.EIO, "E-FILE-01", 4),
        (errno.EACCES, "E-FILE-01", 4),
        (errno.ENOSPC, "E-DISK-01", 6),
        (errno.EDQUOT, "E-DISK-01", 6),
    ],
)
def test_what_the_system_refuses_has_a_code(number: int, code: str, status: int) -> None:
    error = system_error(OSError(number, os.strerror(number), "/data/scan"))
    assert (error.code, error.exit_code) == (code, status)
    assert "/data/scan" in error.text()
