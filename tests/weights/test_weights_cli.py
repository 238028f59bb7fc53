from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from samora_pipeline.weights.catalog import ASSETS, Asset
from samora_pipeline.weights.cli import main
from samora_pipeline.weights.recognise import LAYOUTS, Layout
from tests.weights.file_server import FileServer

CONTENT = b"weights" * 20_000
TOY = Asset("toy", "toy.pth", "Apache-2.0", "https://x/toy.pth", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with FileServer(CONTENT).running() as running:
        for name in list(ASSETS):
            monkeypatch.delitem(ASSETS, name)
        monkeypatch.setitem(ASSETS, "toy", replace(TOY, url=running.url))
        yield running


def command(root: Path, *words: str) -> int:
    return main([*words, "--root", str(root)])


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_help_is_quick_and_needs_nothing_heavy() -> None:
    code = (
        "import sys\nfrom samora_pipeline.weights.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numpy', 'nibabel', 'SimpleITK', 'matplotlib', 'urllib.request'} & set(sys.modules)))\n"
    )
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--accept-licence" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert used.ru_utime + used.ru_stime - begun.ru_utime - begun.ru_stime < 0.5


def test_list_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom samora_pipeline.weights.cli import main\n"
        f"code = main(['list', '--root', {str(tmp_path)!r}])\n"
        "sys.exit(code + 10 * ('torch' in sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    rows = {line.split()[0]: line for line in result.stdout.splitlines()}
    url = "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth"
    assert rows["sam_vit_b"].split() == ["sam_vit_b", "not", "there", "Apache-2.0", "375,042,383", "bytes", url]
    assert "CC-BY-NC-4.0" in rows["mae_vit_l_full"]
    assert "about 1,318 MB" in rows["mae_vit_l_full"]
    assert "packaged" in rows["samora_tiny"]
    assert not list(tmp_path.iterdir())


def test_get_list_verify(server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights" / "toy.pth"
    server.cuts = [70_000]
    assert command(tmp_path, "get", "toy") == 0
    assert told(capsys) == f"toy: {path}\n"
    assert command(tmp_path, "list") == 0
    assert f"toy   there  Apache-2.0  140,000 bytes  {path}" in told(capsys)
    assert command(tmp_path, "verify") == 0
    assert told(capsys) == f"toy: ok  {path}\n"
    path.write_bytes(CONTENT[:-1])
    assert command(tmp_path, "list") == 0
    assert "changed" in told(capsys)
    assert command(tmp_path, "verify") == 4
    error = capsys.readouterr().err
    assert "E-WEIGHT-06 toy.pth: wrong content" in error
    assert "cut short" in error


def test_get_says_address_size_licence_and_digest(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="samora"):
        command(tmp_path, "get", "toy")
    assert f"toy: {server.url} (140,000 bytes, Apache-2.0, sha256 {TOY.sha256})" in caplog.text


def test_what_was_begun_is_listed(server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "toy.pth.part").write_bytes(bytes(3_400_000))
    command(tmp_path, "list")
    assert "begun (3 MB)" in told(capsys)


def test_verify_names_every_file_that_is_wrong(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for number in range(3):
        monkeypatch.setitem(ASSETS, f"toy{number}", replace(TOY, name=f"toy{number}", file=f"toy{number}.pth"))
        (folder / f"toy{number}.pth").write_bytes(b"wrong" if number else CONTENT)
    assert command(tmp_path, "verify") == 4
    captured = capsys.readouterr()
    assert captured.out.count(": ok") == 1
    assert captured.err.startswith("E-WEIGHT-06 2 files of weights are not as they should be")
    assert "toy1: toy1.pth: wrong content; toy2: toy2.pth: wrong content" in captured.err


def test_verify_of_what_is_not_there(server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path, "verify") == 0
    assert command(tmp_path, "verify", "toy") == 5
    assert "E-WEIGHT-05" in capsys.readouterr().err


def test_a_restricted_licence(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ASSETS, "toy", replace(ASSETS["toy"], licence="CC-BY-NC-4.0"))
    assert command(tmp_path, "get", "toy") == 5
    assert "E-WEIGHT-11" in capsys.readouterr().err
    assert command(tmp_path, "get", "toy", "--accept-licence") == 0
    (tmp_path / "weights" / "toy.pth.json").unlink()
    capsys.readouterr()
    command(tmp_path, "list")
    assert "licence not accepted" in told(capsys)
    assert command(tmp_path, "verify") == 5


def test_add(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LAYOUTS, "toy", Layout({"a": (3,)}))
    monkeypatch.setitem(ASSETS, "toy", replace(ASSETS["toy"], size=None, sha256=None))
    torch.save({"a": torch.ones(3)}, tmp_path / "mine")
    path = tmp_path / "weights" / "toy.pth"
    assert command(tmp_path, "add", str(tmp_path / "mine"), "--link") == 0
    assert told(capsys) == f"toy: {path}  (Apache-2.0)\n"
    assert path.is_symlink()
    command(tmp_path, "list")
    assert "there (own digest)" in told(capsys)
    torch.save({"b": torch.ones(3)}, tmp_path / "other")
    assert command(tmp_path, "add", str(tmp_path / "other")) == 4
    assert "E-WEIGHT-12" in capsys.readouterr().err


def test_an_unknown_name_is_refused_before_anything_is_fetched(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path, "get", "toy", "toi") == 2
    assert "did you mean toy?" in capsys.readouterr().err
    assert not server.requests


@pytest.mark.parametrize(
    "words",
    [
        ["list", "toy"],
        ["get"],
        ["add"],
        ["get", "toy", "--link"],
        ["verify", "--accept-licence"],
    ],
)
def test_arguments_that_do_not_fit(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path, *words) == 2
    assert capsys.readouterr().err.startswith("E-ARG-08")
