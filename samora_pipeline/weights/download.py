"""Fetching one large file over HTTP: a cut costs nothing but the time to reconnect.

What has arrived stays in a partial file, with the validator (ETag or Last-Modified) of what it is a part of, so that
another run goes on where this one ended, and starts again if the file at the source has changed (RFC 9110, 13 and 14).
Proxies are taken from the environment as urllib does it.
"""

import http.client
import re
import socket
import ssl
import time
import urllib.request
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from samora_pipeline.errors import AssetError, DataError, ResourceError
from samora_pipeline.files import require_space, write_text
from samora_pipeline.run_log import Progress, logger

CHUNK = 1 << 16
_SPARE = 64 << 20
"""bytes that stay free on the disk"""
_PASSING = (408, 429, 500, 502, 503, 504)
"""answers that another try may not get"""
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")


@dataclass(frozen=True)
class Patience:
    """Seconds to wait for an answer, and before each new try; a try that brought something starts the row anew."""

    timeout: float = 30.0
    waits: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)


PATIENCE = Patience()


class _CutError(Exception):
    """The connection ended early; what has arrived is kept."""


def download(url: str, part: Path, *, title: str, size: int | None = None, patience: Patience = PATIENCE) -> None:
    """Fetch ``url`` into ``part``, going on from what lies there already.

    Raises:
        AssetError: ``E-WEIGHT-10`` the source cannot be reached, or refuses.
        DataError: ``E-WEIGHT-06`` what is offered has not ``size`` bytes.
        ResourceError: ``E-DISK-01``, ``E-DISK-02`` it does not fit on the disk.
    """
    failures = 0
    while True:
        before = _length(part)
        try:
            _continue(url, part, title, size, patience.timeout)
        except _CutError as error:
            failures = 0 if _length(part) > before else failures + 1
            if failures > len(patience.waits):
                raise _unreachable(url, part, str(error)) from error
            wait = patience.waits[max(0, failures - 1)]
            logger.info("%s: %s; trying again in %g s", title, error, wait)
            time.sleep(wait)
        else:
            return


def reachable(url: str, seconds: float = 2.0) -> bool:
    """Whether the source answers within some seconds; nothing of the file is fetched."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.build_opener(_Redirects).open(request, timeout=seconds):
            return True
    except (OSError, http.client.HTTPException):
        return False


def discard(part: Path) -> None:
    """Remove a partial file and what is known of it."""
    part.unlink(missing_ok=True)
    _validator_path(part).unlink(missing_ok=True)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from HTTPS to anything else."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("https", urlsplit(req.full_url).scheme):
            raise AssetError("E-WEIGHT-10", found=f"a redirection without encryption: {req.full_url} -> {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _continue(url: str, part: Path, title: str, size: int | None, timeout: float) -> None:
    """One connection. Raises ``_CutError`` where another may bring the rest."""
    offset = _usable(part, size)
    if size is not None and offset == size:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "samora_pipeline"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": _read_validator(part)}
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.build_opener(_Redirects).open(request, timeout=timeout) as response:
            start = _start(response, offset, part)
            total = _total(response.headers, start, size, url)
            require_space(part, total - start + _SPARE)
            if start == 0:
                part.unlink(missing_ok=True)
                write_text(_validator_path(part), _validator(response.headers))
            _copy(response, part, start, total, f"{title} (MB)")
    except HTTPError as error:
        with error:
            _judge_answer(error, url, part, offset)
    except (OSError, http.client.HTTPException) as error:
        raise _judge_failure(error, url, part) from error
    except ValueError as error:  # an address to go to that is none
        raise _unreachable(url, part, str(error)) from error


def _usable(part: Path, size: int | None) -> int:
    """Bytes to go on from; a part of unknown origin or of too many bytes is thrown away."""
    length = _length(part)
    complete = size is not None and length == size
    known = _read_validator(part)
    if length and not complete and (not known or (size is not None and length > size)):
        part.unlink()
        return 0
    return length


def _start(response: Any, offset: int, part: Path) -> int:
    """Where the body of an answer begins: 0 where the server does not know ranges, or the file has changed."""
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        return 0
    match = _RANGE.match(response.headers.get("Content-Range", ""))
    if match is None or match[1] is None or int(match[1]) != offset:
        part.unlink(missing_ok=True)
        raise _CutError("the server answered with another range than the one asked for")
    return offset


def _total(headers: Message, start: int, size: int | None, url: str) -> int:
    match = _RANGE.match(headers.get("Content-Range", ""))
    length = headers.get("Content-Length")
    if length is not None and not length.isdecimal():
        raise AssetError("E-WEIGHT-10", found=f"{length!r} is no size ({url})")
    total = int(match[2]) if match else start + int(length) if length else size
    if total is None:
        raise AssetError("E-WEIGHT-10", found=f"no size of {url}")
    if size is not None and total != size:
        kind = headers.get("Content-Type", "unknown")
        raise _wrong_size(url, f"{total:,} bytes of type {kind} are offered; nothing was fetched", size)
    return total


def _wrong_size(url: str, found: str, size: int) -> DataError:
    return DataError(
        "E-WEIGHT-06",
        what=f"{Path(urlsplit(url).path).name}: wrong content at the source",
        found=found,
        expected=f"{size:,} bytes",
        fix=f"open {url} in a browser: a proxy may stand between; else samora_weights add FILE",
    )


def _validator(headers: Message) -> str:
    """What tells two versions of a file apart; a weak ETag does not promise equal bytes."""
    tag = headers.get("ETag", "")
    return headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag


def _copy(response: Any, part: Path, start: int, total: int, title: str) -> None:
    host = f"from {urlsplit(response.url).hostname}"
    done = start
    with Progress(title, _megabytes(total), _megabytes(start), "MB") as progress:
        while chunk := response.read(CHUNK):
            if done + len(chunk) > total:
                discard(part)
                raise _wrong_size(response.url, f"more than {total:,} bytes came; they were thrown away", total)
            _append(part, chunk)
            progress.advance(host, _megabytes(done + len(chunk)) - _megabytes(done))
            done += len(chunk)
    # http.client says nothing when a body with a Content-Length ends early.
    if done < total:
        raise _CutError(f"the connection ended after {done:,} of {total:,} bytes")


def _append(part: Path, chunk: bytes) -> None:
    # Opened anew each time, so that errors of the disk are not taken for errors of the network.
    try:
        with part.open("ab") as stream:
            stream.write(chunk)
    except OSError as error:
        found = f"{error.strerror or error}; what is there stays, and this command goes on from it"
        raise ResourceError("E-DISK-01", path=part, found=found) from error


def _judge_answer(error: HTTPError, url: str, part: Path, offset: int) -> None:
    """Return if the part is complete after all; else raise what the status code means."""
    if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
        match = _RANGE.match(error.headers.get("Content-Range", ""))
        if match and int(match[2]) == offset:
            return
        part.unlink(missing_ok=True)
        raise _CutError("the file at the source has another length now") from error
    answer = f"the server answered {error.code} {error.reason}"
    raise (_CutError(answer) if error.code in _PASSING else _unreachable(url, part, answer)) from error


def _judge_failure(error: OSError | http.client.HTTPException, url: str, part: Path) -> Exception:
    """Tell what a new try can mend from what it cannot: no network, no such host, a certificate that is not trusted."""
    cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, OSError) else error
    text = str(cause) or type(cause).__name__
    if isinstance(cause, socket.gaierror | ssl.SSLCertVerificationError):
        return _unreachable(url, part, text)
    return _CutError(text)


def _unreachable(url: str, part: Path, cause: str) -> AssetError:
    kept = _length(part)
    return AssetError("E-WEIGHT-10", found=f"{cause} ({url})" + (f"; {kept:,} bytes are kept" if kept else ""))


def _validator_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


def _read_validator(part: Path) -> str:
    """What is known of the file that ``part`` is of; empty where nothing is."""
    path = _validator_path(part)
    known = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    # It becomes part of a request.
    return known if known.isascii() and known.isprintable() else ""


def _length(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _megabytes(count: int) -> int:
    return count // 1_000_000
