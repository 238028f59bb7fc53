"""The faults: each changes one file. It returns a remark, or None where it does not apply to that file."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

Fault = Callable[[Path, random.Random], str | None]
PERMISSION = "a matter of permission"
"""the remark of faults that root does not notice"""


def _bytes(change: Callable[[bytearray, random.Random], object]) -> Fault:
    """A fault of the bytes of a file that has some."""

    def fault(path: Path, draw: random.Random) -> str | None:
        data = bytearray(path.read_bytes())
        if not data:
            return None
        changed = change(data, draw)
        path.write_bytes(changed if isinstance(changed, bytes) else data)
        return ""

    return fault


def _flip(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice([1, 1, 1, 3, 8])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _head(data: bytearray, draw: random.Random) -> None:
    data[draw.randrange(min(len(data), 400))] = draw.randrange(256)


def _cut(data: bytearray, draw: random.Random) -> bytes:
    return bytes(data[: draw.choice([draw.randrange(len(data)), max(0, len(data) - draw.choice([1, 4, 8]))])])


def _zeroed(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    count = min(draw.choice([16, 512, 4096]), len(data) - at)
    data[at : at + count] = bytes(count)


def _instead(make: Callable[[Path], object]) -> Fault:
    """Something else in the place of the file."""

    def fault(path: Path, _draw: random.Random) -> str:
        path.unlink()
        make(path)
        return ""

    return fault


def _full_folder(path: Path) -> None:
    path.mkdir()
    (path / "x").write_text("x")


def swapped(path: Path, draw: random.Random) -> str | None:
    """Another file of the folder under this name, and this one under that."""
    others = [other for other in files_below(path.parent) if other != path and other.suffix == path.suffix]
    if not others:
        return None
    other, spare = draw.choice(others), path.with_name("xx.tmp")
    path.rename(spare)
    other.rename(path)
    spare.rename(other)
    return str(other)


def copy_beside(path: Path, draw: random.Random) -> str:
    """A copy under another name, which belongs to nothing."""
    beginning = draw.choice(["extra_", ".", ".partial-1234abcd-", "é ", "a\nb"])
    shutil.copy(path, path.with_name(beginning + path.name))
    return ""


def unreadable(path: Path, _draw: random.Random) -> str:
    """A file that its user must not read."""
    path.chmod(0)
    return PERMISSION


def closed_folder(path: Path, draw: random.Random) -> str:
    """A folder that its user must not read, or not write to."""
    path.parent.chmod(0o000 if draw.random() < 0.5 else 0o555)
    return PERMISSION


def other_time(path: Path, draw: random.Random) -> str:
    """Another time of the last change."""
    os.utime(path, (draw.choice([0, 4102444800, 1e9]),) * 2)
    return ""


def _nifti(change: Callable[[Any, random.Random], nibabel.Nifti1Image]) -> Fault:
    def fault(path: Path, draw: random.Random) -> str | None:
        if not path.name.endswith(".nii.gz"):
            return None
        image = change(nibabel.load(path), draw)
        path.unlink()
        nibabel.save(image, path)
        return ""

    return fault


def _not_finite(image: Any, draw: random.Random) -> nibabel.Nifti1Image:
    array = np.asarray(image.dataobj).astype(np.float32)
    array.flat[draw.randrange(array.size)] = draw.choice([np.nan, np.inf, -np.inf, 3e38])
    return nibabel.Nifti1Image(array, image.affine)


def _type(image: Any, draw: random.Random) -> nibabel.Nifti1Image:
    kind = draw.choice(["f4", "f8", "c8", "i2", "u1", "u4"])
    return nibabel.Nifti1Image(np.asarray(image.dataobj).astype(kind), image.affine)


def _fourth_axis(image: Any, draw: random.Random) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(np.stack([np.asarray(image.dataobj)] * draw.choice([1, 2]), -1), image.affine)


def header_byte(path: Path, draw: random.Random) -> str | None:
    """One byte of the header of a NIfTI file."""
    if not path.name.endswith(".nii.gz"):
        return None
    data, at = bytearray(gzip.decompress(path.read_bytes())), draw.randrange(352)
    data[at] = draw.randrange(256)
    path.write_bytes(gzip.compress(bytes(data)))
    return f"byte {at}"


_TEXTS = (
    "../../x",
    "/etc/passwd",
    "a\nb",
    "\x1b[31mred",
    "<script>alert(1)</script>",
    "\u202e",
    "x" * 100_000,
    "\ud800",
)


def json_value(path: Path, draw: random.Random) -> str | None:
    """A value of a JSON file that is of another type, size or form, or not there."""
    try:
        whole = json.loads(path.read_text()) if path.suffix == ".json" else None
    except ValueError:
        return None
    places = list(_places(whole))
    if not places:
        return None
    holder, key = draw.choice(places)
    old, edit = holder[key], draw.choice(["delete", "deep", "huge", "text", *_OTHERS])
    if edit == "delete":
        del holder[key]
    elif edit == "deep":
        holder[key] = "DEEP"
        depth = draw.choice([100, 5000, 100_000])
        path.write_text(json.dumps(whole).replace('"DEEP"', "[" * depth + "]" * depth))
        return f"{key} deep {depth}"
    elif edit == "huge":
        holder[key] = 10 ** draw.choice([9, 18, 30, 400])
    elif edit == "text":
        holder[key] = draw.choice(_TEXTS)
    else:
        holder[key] = _OTHERS[edit](old)
    path.write_text(json.dumps(whole, indent=1))
    return f"{key} {edit} {str(old)[:40]}"


_OTHERS: dict[str, Callable[[Any], Any]] = {
    "list": lambda old: [old],
    "null": lambda old: None,
    "more": lambda old: old + 1 if isinstance(old, int | float) else 7,
    "negative": lambda old: -1,
    "not a number": lambda old: float("nan"),
    "fraction": lambda old: 1.5,
    "empty": lambda old: type(old)() if isinstance(old, dict | list | str) else "",
    "true": lambda old: True,
}


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from _places(value[key])
        yield value, key


FAULTS: dict[str, tuple[int, Fault]] = {
    "flip": (5, _bytes(_flip)),
    "head": (2, _bytes(_head)),
    "cut": (4, _bytes(_cut)),
    "zeroed": (3, _bytes(_zeroed)),
    "appended": (1, _bytes(lambda data, draw: bytes(data) + draw.randbytes(draw.choice([1, 10, 5000])))),
    "random": (1, _bytes(lambda data, draw: draw.randbytes(len(data)))),
    "empty": (1, _bytes(lambda data, draw: b"")),
    "mark": (1, _bytes(lambda data, draw: b"\xef\xbb\xbf" + bytes(data))),
    "deleted": (1, _instead(lambda path: None)),
    "folder": (1, _instead(Path.mkdir)),
    "full_folder": (1, _instead(_full_folder)),
    "link_to_itself": (1, _instead(lambda path: path.symlink_to(path.name))),
    "link_to_nowhere": (1, _instead(lambda path: path.symlink_to("/nonexistent/x"))),
    "pipe": (1, _instead(os.mkfifo)),
    "zeros": (1, _instead(lambda path: path.symlink_to("/dev/zero"))),
    "nothing": (1, _instead(lambda path: path.symlink_to("/dev/null"))),
    "swapped": (2, swapped),
    "copy_beside": (2, copy_beside),
    "unreadable": (1, unreadable),
    "closed_folder": (1, closed_folder),
    "other_time": (1, other_time),
    "not_finite": (4, _nifti(_not_finite)),
    "type": (4, _nifti(_type)),
    "fourth_axis": (2, _nifti(_fourth_axis)),
    "header_byte": (8, header_byte),
    "json_value": (28, json_value),
}
"""how often each is drawn, and what it does"""

NO_FILE = frozenset(
    {"deleted", "folder", "full_folder", "link_to_itself", "link_to_nowhere", "pipe", "zeros", "nothing", "empty"}
)
"""those after which there is no file with any content"""
VALID = frozenset({"not_finite", "type", "fourth_axis", "header_byte", "json_value", "swapped", "deleted"})
"""those that can leave another valid file"""


def files_below(top: Path) -> list[Path]:
    """The files that faults can go into."""
    if top.is_file():
        return [top]
    return [path for path in sorted(top.rglob("*")) if path.is_file() and path.name != ".lock"]


def spoil(path: Path, draw: random.Random) -> tuple[str, str]:
    """Draw a fault that applies to a file, and make it: its name and its remark."""
    names, weights = list(FAULTS), [weight for weight, _ in FAULTS.values()]
    for _ in range(100):
        (name,) = draw.choices(names, weights)
        try:
            remark = FAULTS[name][1](path, draw)
        except (OSError, ValueError, nibabel.spatialimages.HeaderDataError):
            remark = None  # such as a type that the file's format does not have
            continue
        if remark is not None:
            return name, remark
    raise RuntimeError(f"no fault for {path}")
