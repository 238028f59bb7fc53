from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from samora_pipeline.errors import DataError, ResourceError, SamoraError
from samora_pipeline.files import atomic_folder, atomic_path, digest_file, inside, sweep, write_text


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
