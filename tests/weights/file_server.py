"""A local HTTP server that serves one file with the faults of real networks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FileServer:
    """What is served and how; ``requests`` keeps the Range header of every request.

    ``cuts`` are body lengths after which a connection is closed, one per request, None for no cut. ``statuses`` are
    answers given first. ``hold_after`` stops sending after so many bytes until the server ends.
    """

    content: bytes
    etag: str = '"v1"'
    ranges: bool = True
    cuts: list[int | None] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    redirect: str = ""
    hold_after: int | None = None
    said_length: int | None = None
    requests: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""
    ended: threading.Event = field(default_factory=threading.Event)
    held: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[FileServer]:
        class Handler(_Handler):
            state = self

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}/toy.pth"
        try:
            yield self
        finally:
            self.ended.set()
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: FileServer

    def do_GET(self) -> None:
        state = self.state
        asked = self.headers.get("Range")
        state.requests.append(asked)
        state.paths.append(self.path)
        if state.statuses:
            self._answer(state.statuses.pop(0), {})
        elif state.redirect and not self.path.endswith("/moved"):
            self._answer(302, {"Location": state.redirect})
        else:
            self._send_file(asked)

    def _send_file(self, asked: str | None) -> None:
        state, total = self.state, len(self.state.content)
        same = self.headers.get("If-Range") in (None, state.etag)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges and same else 0
        if start >= total > 0:
            self._answer(416, {"Content-Range": f"bytes */{total}"})
            return
        body = state.content[start:]
        headers = {"Content-Length": str(state.said_length or len(body)), "ETag": state.etag}
        if start:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        self._answer(206 if start else 200, headers)
        cut = state.cuts.pop(0) if state.cuts else None
        if state.hold_after is not None:
            self.wfile.write(body[: state.hold_after])
            self.wfile.flush()
            state.held.set()
            state.ended.wait(60)
        else:
            self.wfile.write(body if cut is None else body[:cut])
        self.close_connection = True

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass
