from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import namedtuple
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from samora_pipeline.errors import AssetError, DataError, ResourceError
from samora_pipeline.weights import download as module
from samora_pipeline.weights.download import CHUNK, Patience, _Redirects, discard, download
from tests.weights.file_server import FileServer

CONTENT = os.urandom(5 * CHUNK + 123)
QUICK = Patience(timeout=5, waits=(0.0, 0.0, 0.0))


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer(CONTENT).running() as running:
        yield running


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "toy.pth.part"


def fetch(server: FileServer, part: Path, size: int | None = len(CONTENT), patience: Patience = QUICK) -> None:
    download(server.url, part, title="toy", size=size, patience=patience)


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_file_arrives_whole(server: FileServer, part: Path, size: int | None) -> None:
    fetch(server, part, size)
    assert part.read_bytes() == CONTENT
    assert server.requests == [None]
    discard(part)
    assert not list(part.parent.iterdir())


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_cuts_cost_only_what_had_not_arrived(server: FileServer, part: Path, size: int | None) -> None:
    server.cuts = [CHUNK, 2 * CHUNK, 0, 100]
    fetch(server, part, size)
    assert part.read_bytes() == CONTENT
    starts = [CHUNK, 3 * CHUNK, 3 * CHUNK, 3 * CHUNK + 100]
    assert server.requests == [None, *(f"bytes={start}-" for start in starts)]


def test_a_server_that_never_gets_further_is_given_up(server: FileServer, part: Path) -> None:
    server.cuts = [CHUNK, *[0] * 10]
    with pytest.raises(AssetError, match=r"E-WEIGHT-10[\s\S]*65,536 bytes are kept") as caught:
        fetch(server, part)
    assert "resume the download" in caught.value.fix
    assert len(server.requests) == 1 + len(QUICK.waits) + 1
    server.cuts = []
    fetch(server, part)
    assert part.read_bytes() == CONTENT
    assert server.requests[-1] == f"bytes={CHUNK}-"


def test_a_server_that_ignores_ranges_sends_all_again(server: FileServer, part: Path) -> None:
    server.ranges = False
    server.cuts = [2 * CHUNK]
    fetch(server, part)
    assert part.read_bytes() == CONTENT
    assert server.requests == [None, f"bytes={2 * CHUNK}-"]


@pytest.mark.parametrize("etag", ['"v1"', 'W/"v1"', ""])
def test_a_file_that_changed_or_cannot_be_told_apart_is_begun_again(server: FileServer, part: Path, etag: str) -> None:
    server.etag, server.cuts = etag, [CHUNK, *[0] * 9]
    with pytest.raises(AssetError):
        fetch(server, part, None)
    server.content, server.etag, server.cuts = CONTENT[::-1], '"v2"', []
    fetch(server, part, None)
    assert part.read_bytes() == CONTENT[::-1]


def test_another_length_at_the_source_is_begun_again(server: FileServer, part: Path) -> None:
    server.cuts = [3 * CHUNK, *[0] * 9]
    with pytest.raises(AssetError):
        fetch(server, part, None)
    server.content, server.cuts = CONTENT[:CHUNK], []
    fetch(server, part, None)
    assert part.read_bytes() == CONTENT[:CHUNK]


def test_a_part_that_is_complete_needs_nothing_more(server: FileServer, part: Path) -> None:
    fetch(server, part)
    fetch(server, part)
    assert len(server.requests) == 1
    fetch(server, part, None)
    assert server.requests[1:] == [f"bytes={len(CONTENT)}-"]
    assert part.read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_thrown_away(server: FileServer, part: Path) -> None:
    part.write_bytes(CONTENT + b"more")
    fetch(server, part)
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [503, 429, 500])
def test_a_passing_fault_is_tried_again(server: FileServer, part: Path, status: int) -> None:
    server.statuses = [status]
    fetch(server, part)
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_lasting_fault_is_not_tried_again(server: FileServer, part: Path, status: int) -> None:
    server.statuses = [status] * 3
    with pytest.raises(AssetError, match=rf"E-WEIGHT-10[\s\S]*{status}") as caught:
        fetch(server, part)
    assert caught.value.exit_code == 5
    assert server.url in caught.value.found
    assert len(server.requests) == 1
    assert not part.exists()


def test_another_size_is_refused_before_anything_is_fetched(server: FileServer, part: Path) -> None:
    with pytest.raises(DataError, match="E-WEIGHT-06") as caught:
        fetch(server, part, 7)
    assert f"{len(CONTENT):,} bytes" in caught.value.found
    assert not part.exists()


def test_a_body_that_is_shorter_than_announced(server: FileServer, part: Path) -> None:
    server.said_length, server.ranges = len(CONTENT) + 5, False
    with pytest.raises(AssetError, match="the connection ended after"):
        fetch(server, part, None)


def test_redirects_are_followed_with_the_range(server: FileServer, part: Path) -> None:
    server.redirect, server.cuts = "/moved", [CHUNK]
    fetch(server, part)
    assert part.read_bytes() == CONTENT
    assert server.paths == ["/toy.pth", "/moved"] * 2
    assert server.requests[-1] == f"bytes={CHUNK}-"


def test_a_redirect_loop_ends(server: FileServer, part: Path) -> None:
    server.redirect = "/toy.pth"
    with pytest.raises(AssetError, match="E-WEIGHT-10"):
        fetch(server, part)


@pytest.mark.parametrize(
    ("old", "new", "followed"),
    [
        ("https://a/f", "https://b/f", True),
        ("http://a/f", "https://b/f", True),
        ("https://a/f", "http://b/f", False),
        ("http://a/f", "ftp://b/f", False),
        ("https://a/f", "file:///etc/passwd", False),
    ],
)
def test_encryption_is_never_given_up(old: str, new: str, followed: bool) -> None:
    request = urllib.request.Request(old, headers={"Range": "bytes=3-"})

    def redirect() -> urllib.request.Request | None:
        return _Redirects().redirect_request(request, None, 302, "Found", {}, new)  # type: ignore[arg-type]

    if followed:
        moved = redirect()
        assert moved is not None
        assert moved.full_url == new
        assert moved.get_header("Range") == "bytes=3-"
    else:
        with pytest.raises(AssetError, match=r"E-WEIGHT-10[\s\S]*without encryption"):
            redirect()


def test_a_redirect_away_from_http_reaches_the_user(server: FileServer, part: Path) -> None:
    server.redirect = "ftp://127.0.0.1/moved"
    with pytest.raises(AssetError, match="without encryption"):
        fetch(server, part)


def test_no_such_host_is_told_at_once(part: Path) -> None:
    with pytest.raises(AssetError, match="E-WEIGHT-10"):
        download("https://no-such-host.invalid/f", part, title="f", patience=Patience(5, (100.0,)))


def test_nobody_listening_is_tried_again_and_told(server: FileServer, part: Path) -> None:
    with pytest.raises(AssetError, match="E-WEIGHT-10"):
        download("http://127.0.0.1:9/f", part, title="f", patience=QUICK)


def test_a_server_that_falls_silent_is_tried_again(server: FileServer, part: Path) -> None:
    server.hold_after = CHUNK
    fetch(server, part, patience=Patience(timeout=0.2, waits=(0.0,)))
    assert part.read_bytes() == CONTENT
    assert len(server.requests) == 6


def test_a_proxy_of_the_environment_is_used(server: FileServer, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/toy.pth"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    download("http://weights.invalid/there", part, title="toy", patience=QUICK)
    assert part.read_bytes() == CONTENT
    assert server.paths == ["http://weights.invalid/there"]


def test_space_is_looked_at_first(server: FileServer, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, module._SPARE + len(CONTENT) - 1))
    with pytest.raises(ResourceError, match="E-DISK-02"):
        fetch(server, part)
    assert not part.exists()


def test_a_full_disk_is_told_as_such(server: FileServer, tmp_path: Path) -> None:
    part = tmp_path / "full.part"
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from samora_pipeline.errors import ResourceError\n"
        "from samora_pipeline.weights.download import download\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({2 * CHUNK}, {2 * CHUNK}))\n"
        "try:\n    download(sys.argv[1], Path(sys.argv[2]), title='toy')\n"
        "except ResourceError as error:\n    sys.exit(error.code)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, server.url, str(part)], capture_output=True, text=True, check=False
    )
    assert result.stderr.strip() == "E-DISK-01"
    fetch(server, part)
    assert part.read_bytes() == CONTENT


def test_a_kill_in_the_middle_then_going_on_gives_the_same_file(server: FileServer, part: Path) -> None:
    server.hold_after = 2 * CHUNK + 1000
    code = (
        "import sys; from pathlib import Path; from samora_pipeline.weights.download import download\n"
        "download(sys.argv[1], Path(sys.argv[2]), title='toy')"
    )
    child = subprocess.Popen([sys.executable, "-c", code, server.url, str(part)])
    try:
        assert server.held.wait(30)
        while not part.is_file() or part.stat().st_size < 2 * CHUNK:
            assert child.poll() is None
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    kept = part.stat().st_size
    assert 2 * CHUNK <= kept < len(CONTENT)
    server.hold_after = None
    fetch(server, part, None)
    assert server.requests == [None, f"bytes={kept}-"]
    assert hashlib.sha256(part.read_bytes()).digest() == hashlib.sha256(CONTENT).digest()


@contextmanager
def serving(head: bytes, blocks: Iterable[bytes]) -> Iterator[tuple[str, list[int]]]:
    """A server of one connection that sends these bytes; yields its address and the sizes of what it could send."""
    sent: list[int] = []

    def serve() -> None:
        client, _ = listener.accept()
        with client, suppress(OSError):
            client.recv(1 << 16)
            client.sendall(head)
            for block in blocks:
                client.sendall(block)
                sent.append(len(block))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/toy.pth", sent
        thread.join(10)


def test_an_answer_without_length_ends_at_the_known_size(part: Path) -> None:
    blocks = (b"z" * CHUNK for _ in range(2000))
    with serving(b"HTTP/1.1 200 OK\r\n\r\n", blocks) as (url, sent):
        with pytest.raises(DataError, match="E-WEIGHT-06"):
            download(url, part, title="toy", size=3 * CHUNK, patience=QUICK)
        assert not part.exists()
    assert sum(sent) < 1000 * CHUNK


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_answers_without_sense_are_no_fault_of_ours(part: Path, head: bytes) -> None:
    with serving(head, ()) as (url, _), pytest.raises(AssetError, match="E-WEIGHT-10"):
        download(url, part, title="toy", size=100, patience=Patience(timeout=5, waits=()))


def test_what_a_server_says_is_no_command_to_the_terminal(part: Path) -> None:
    head = b"HTTP/1.1 404 \x1b[2J\x1b]0;pwned\x07\r\nContent-Length: 0\r\n\r\n"
    with serving(head, ()) as (url, _), pytest.raises(AssetError) as caught:
        download(url, part, title="toy", size=100, patience=QUICK)
    assert "\x1b" not in caught.value.text()
