from __future__ import annotations

import hashlib
import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from samora_pipeline.errors import AssetError, DataError, UsageError
from samora_pipeline.weights.catalog import ASSETS, Asset
from samora_pipeline.weights.download import Patience
from samora_pipeline.weights.obtain import add, find, get
from samora_pipeline.weights.recognise import LAYOUTS, Layout
from samora_pipeline.weights.records import WeightsRecord, read_record, write_record
from tests.weights.file_server import FileServer

QUICK = Patience(timeout=5, waits=(0.0,))


def saved(width: int) -> bytes:
    stream = io.BytesIO()
    torch.save({"a": torch.arange(float(width)), "b": torch.ones(60_000)}, stream)
    return stream.getvalue()


CONTENT = saved(3)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer(CONTENT).running() as running:
        yield running


@pytest.fixture
def toy(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """A public file with a published digest."""
    asset = Asset("toy", "toy.pth", "Apache-2.0", server.url, len(CONTENT), DIGEST)
    return install(asset, monkeypatch)


@pytest.fixture
def free(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """A public file without a published digest, known by its layout."""
    monkeypatch.setitem(LAYOUTS, "toy", Layout({"a": (3,)}))
    return install(Asset("toy", "toy.pth", "Apache-2.0", server.url), monkeypatch)


@pytest.fixture
def restricted(free: Asset, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """A file like ``free`` whose licence forbids commercial use."""
    return install(replace(free, licence="CC-BY-NC-4.0"), monkeypatch)


def install(asset: Asset, monkeypatch: pytest.MonkeyPatch) -> Asset:
    monkeypatch.setitem(ASSETS, asset.name, asset)
    return asset


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_get_fetches_checks_and_records(toy: Asset, server: FileServer, tmp_path: Path) -> None:
    path = get("toy", tmp_path, patience=QUICK)
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == {"toy.pth", "toy.pth.json", ".toy.pth.lock"}
    assert json.loads((tmp_path / "toy.pth.json").read_text()) == {
        "name": "toy",
        "size": len(CONTENT),
        "sha256": DIGEST,
        "digest_from": "published",
        "licence": "Apache-2.0",
        "accepted": False,
        "source": server.url,
        "schema_version": 1,
    }
    get("toy", tmp_path, patience=QUICK)
    assert len(server.requests) == 1


def test_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="E-NAME-01"):
        get("toyy", tmp_path)


def test_wrong_content_never_gets_its_name(toy: Asset, server: FileServer, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DataError, match=r"E-WEIGHT-06 toy.pth: wrong content") as caught:
        get("toy", tmp_path, patience=QUICK)
    assert DIGEST in caught.value.expected
    assert names(tmp_path) == {".toy.pth.lock"}
    server.content = CONTENT
    assert get("toy", tmp_path, patience=QUICK).read_bytes() == CONTENT


def test_a_file_of_anothers_making_is_not_replaced(toy: Asset, server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "toy.pth").write_bytes(b"mine")
    with pytest.raises(DataError, match="E-WEIGHT-06"):
        get("toy", tmp_path, patience=QUICK)
    assert (tmp_path / "toy.pth").read_bytes() == b"mine"
    assert not server.requests


def test_a_digest_that_nobody_published_is_recorded_and_said(
    free: Asset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="samora"):
        path = get("toy", tmp_path, patience=QUICK)
    assert f"no digest is published for it; recorded at first use: sha256 {DIGEST}" in caplog.text
    record = read_record(path)
    assert record is not None
    assert (record.sha256, record.digest_from) == (DIGEST, "first use")
    assert find("toy", tmp_path).digest == DIGEST
    path.write_bytes(saved(3) + b"\0")
    with pytest.raises(DataError, match="recorded at first use"):
        find("toy", tmp_path)


@pytest.mark.parametrize("content", [saved(4), b"<html>", CONTENT[:5000]])
def test_without_a_digest_the_layout_must_fit(free: Asset, server: FileServer, tmp_path: Path, content: bytes) -> None:
    server.content = content
    with pytest.raises(DataError, match=r"E-WEIGHT-06[\s\S]*the layout of toy"):
        get("toy", tmp_path, patience=QUICK)
    assert names(tmp_path) == {".toy.pth.lock"}


def test_the_published_start_of_an_md5_is_compared(
    free: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = hashlib.md5(CONTENT).hexdigest()[:6]
    install(replace(free, md5_start="0" * 6), monkeypatch)
    with pytest.raises(DataError, match="published is 000000"):
        get("toy", tmp_path, patience=QUICK)
    install(replace(free, md5_start=start), monkeypatch)
    assert get("toy", tmp_path, patience=QUICK).is_file()


def test_a_restricted_licence_has_to_be_accepted_and_is_recorded(
    restricted: Asset, server: FileServer, tmp_path: Path
) -> None:
    with pytest.raises(AssetError, match=r"E-WEIGHT-11[\s\S]*CC-BY-NC-4.0") as caught:
        get("toy", tmp_path, patience=QUICK)
    assert caught.value.fix == "samora_weights get toy --accept-licence"
    assert not server.requests
    path = get("toy", tmp_path, accept=True, patience=QUICK)
    record = read_record(path)
    assert record is not None
    assert (record.licence, record.accepted) == ("CC-BY-NC-4.0", True)
    assert get("toy", tmp_path, patience=QUICK) == path
    assert find("toy", tmp_path).licence == "CC-BY-NC-4.0"


def test_a_restricted_file_is_neither_fetched_nor_used_unasked(
    restricted: Asset, server: FileServer, tmp_path: Path
) -> None:
    with pytest.raises(AssetError, match="E-WEIGHT-05"):
        find("toy", tmp_path, fetch=True)
    assert not server.requests
    path = tmp_path / "toy.pth"
    path.write_bytes(CONTENT)
    with pytest.raises(AssetError, match="E-WEIGHT-11") as caught:
        find("toy", tmp_path)
    assert caught.value.fix == f"samora_weights add {path} --accept-licence"
    add(path, tmp_path, accept=True)
    assert find("toy", tmp_path).path == path


@pytest.mark.parametrize("recorded", ["nowhere", "in the folder", "beside it"])
def test_no_other_name_makes_a_restricted_file_lose_its_licence(
    restricted: Asset, tmp_path: Path, recorded: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, file = tmp_path / "weights", tmp_path / "renamed.pth"
    file.write_bytes(CONTENT)
    # Beside a file of the user's own may lie any JSON of the same name.
    (tmp_path / "renamed.pth.json").write_text('{"loss": 1}')
    if recorded == "in the folder":
        add(file, folder, accept=True)
    elif recorded == "beside it":
        record = WeightsRecord("toy", len(CONTENT), DIGEST, "first use", "CC-BY-NC-4.0", True, "x")
        write_record(file, record)
    with caplog.at_level(logging.WARNING, logger="samora"):
        found = find(str(file), folder)
    assert (found.origin, found.digest, found.licence) == ("file", DIGEST, "CC-BY-NC-4.0")
    assert ("has the layout of toy" in caplog.text) == (recorded == "nowhere")


def test_a_file_of_ones_own_has_the_licence_that_its_record_tells_or_none(free: Asset, tmp_path: Path) -> None:
    file = tmp_path / "own.pth"
    file.write_bytes(saved(7))
    assert find(str(file), tmp_path).licence == ""
    digest = hashlib.sha256(saved(7)).hexdigest()
    write_record(file, WeightsRecord("own", 1, digest, "first use", "MIT", False, "mine"))
    assert find(str(file), tmp_path).licence == "MIT"
    write_record(file, WeightsRecord("own", 1, "0" * 64, "first use", "MIT", False, "another file"))
    assert find(str(file), tmp_path).licence == ""


def test_find_fetches_what_may_be_fetched(toy: Asset, server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="E-WEIGHT-05"):
        find("toy", tmp_path)
    assert not server.requests
    found = find("toy", tmp_path, fetch=True)
    assert (found.digest, found.origin, found.licence) == (DIGEST, "public", "Apache-2.0")
    (tmp_path / "toy.pth.json").unlink()
    assert find("toy", tmp_path).digest == DIGEST


def test_find_names_the_ways_on_where_fetching_fails(toy: Asset, server: FileServer, tmp_path: Path) -> None:
    server.statuses = [404]
    with pytest.raises(AssetError, match="E-WEIGHT-05") as caught:
        find("toy", tmp_path, fetch=True)
    assert "404" in caught.value.found
    for way in ("samora_weights add", "another recipe", "--backbone-weights bootstrap --recipe scratch"):
        assert way in caught.value.fix


def test_find_knows_the_licence_of_a_public_file_elsewhere(toy: Asset, tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(CONTENT)
    found = find(str(path), tmp_path)
    assert (found.name, found.origin, found.licence) == (str(path), "file", "Apache-2.0")
    path.write_bytes(b"own")
    assert find(str(path), tmp_path).licence == ""


def test_packaged_weights_are_found() -> None:
    found = find("samora_tiny", Path("nowhere"))
    assert (found.origin, found.digest) == ("packaged", ASSETS["samora_tiny"].sha256)


@pytest.mark.parametrize("link", [False, True])
def test_add_recognises_by_content(free: Asset, tmp_path: Path, link: bool, server: FileServer) -> None:
    file, folder = tmp_path / "any name.bin", tmp_path / "weights"
    file.write_bytes(CONTENT)
    assert add(file, folder, link=link) == free
    path = folder / "toy.pth"
    assert path.is_symlink() == link
    assert path.read_bytes() == CONTENT
    assert find("toy", folder).digest == DIGEST
    record = read_record(path)
    assert record is not None
    assert record.source == str(file)
    assert not server.requests
    # Once more, and from its own place, changes nothing.
    for again in (file, path):
        add(again, folder)
    assert path.is_symlink() == link


def test_add_recognises_by_digest(toy: Asset, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    assert add(tmp_path / "x", tmp_path / "weights") == toy


def test_add_refuses_a_restricted_file_until_accepted(restricted: Asset, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    with pytest.raises(AssetError, match="E-WEIGHT-11"):
        add(tmp_path / "x", tmp_path / "weights")
    add(tmp_path / "x", tmp_path / "weights", accept=True)
    record = read_record(tmp_path / "weights" / "toy.pth")
    assert record is not None
    assert record.accepted


def test_add_refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="E-WEIGHT-05"):
        add(tmp_path / "x", tmp_path)


def test_add_tells_a_truncated_download_by_its_name(toy: Asset, tmp_path: Path) -> None:
    file = tmp_path / "toy.pth"
    file.write_bytes(CONTENT[:1000])
    with pytest.raises(DataError, match="E-WEIGHT-06") as caught:
        add(file, tmp_path / "weights")
    assert "1,000 bytes" in caught.value.found
    assert "cut short" in caught.value.found
    file.rename(tmp_path / "other.pth")
    with pytest.raises(DataError, match="E-WEIGHT-07"):
        add(tmp_path / "other.pth", tmp_path / "weights")


def test_add_refuses_the_right_network_with_other_values(
    free: Asset, toy: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(replace(free, size=7, sha256="0" * 64), monkeypatch)
    (tmp_path / "x").write_bytes(CONTENT)
    with pytest.raises(DataError, match=r"E-WEIGHT-06[\s\S]*the network of toy, but not its published") as caught:
        add(tmp_path / "x", tmp_path / "weights")
    assert "--backbone-weights" in caught.value.fix


def test_add_does_not_replace_another_file(free: Asset, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    add(tmp_path / "x", tmp_path / "weights")
    other = tmp_path / "y"
    torch.save({"a": torch.ones(3)}, other)
    with pytest.raises(DataError, match="E-WEIGHT-13"):
        add(other, tmp_path / "weights")
    assert (tmp_path / "weights" / "toy.pth").read_bytes() == CONTENT


def test_what_belongs_together_comes_together(
    free: Asset, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(replace(free, needs=("toy_data",)), monkeypatch)
    install(Asset("toy_data", "toy.data", "Apache-2.0", server.url), monkeypatch)
    get("toy", tmp_path / "got", patience=QUICK)
    assert {"toy.pth", "toy.data"} <= names(tmp_path / "got")
    file = tmp_path / "toy.index"
    file.write_bytes(CONTENT)
    with pytest.raises(AssetError, match="E-WEIGHT-05"):
        add(file, tmp_path / "added")
    (tmp_path / "toy.data").write_bytes(b"values")
    add(file, tmp_path / "added")
    assert (tmp_path / "added" / "toy.data").read_bytes() == b"values"
    (tmp_path / "added" / "toy.data").unlink()
    with pytest.raises(AssetError, match="the weights toy_data are not there"):
        find("toy", tmp_path / "added")


def test_two_at_once_fetch_once(
    toy: Asset, server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.hold_after = 70_000
    with caplog.at_level(logging.INFO, logger="samora"):
        threads = [threading.Thread(target=get, args=("toy", tmp_path), kwargs={"patience": QUICK}) for _ in range(2)]
        threads[0].start()
        assert server.held.wait(10)
        threads[1].start()
        while "another process is getting it; waiting" not in caplog.text:
            assert threads[1].is_alive()
        server.hold_after = None
        server.ended.set()
        for thread in threads:
            thread.join(20)
    assert (tmp_path / "toy.pth").read_bytes() == CONTENT
    # One connection that was cut, one that brought the rest; the second process asked for nothing.
    assert len(server.requests) == 2
    assert "already there" in caplog.text


def test_two_processes_at_once_fetch_once(server: FileServer, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from samora_pipeline.weights.catalog import ASSETS, Asset\n"
        "from samora_pipeline.weights.obtain import get\n"
        f"ASSETS['toy'] = Asset('toy', 'toy.pth', 'MIT', sys.argv[1], {len(CONTENT)}, '{DIGEST}')\n"
        "get('toy', Path(sys.argv[2]))"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, server.url, str(tmp_path)]) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert (tmp_path / "toy.pth").read_bytes() == CONTENT
    assert server.requests == [None]
