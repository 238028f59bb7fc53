"""Well-formed exported models with hostile values, and hostile texts as names, taken through the commands."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.reliability.base import RAW, Workplace
from tests.reliability.edits import put
from tests.reliability.forked import Outcome

CONFIG = "fold_0/config.json"
ESCAPES = "\x1b[2J\x1b]0;pwned\x07"
_MOST_MEMORY = 3_000_000
"""kB"""


def _more(*place_and_value: Any) -> Callable[[Any], None]:
    return put("plans", *place_and_value[:-1], "value", place_and_value[-1])


VALUES: dict[str, Callable[[Any], None]] = {
    **{f"input_size {size}": put("model", "input_size", size) for size in (100_000, 10**9, 0, -64)},
    **{f"num_outputs {count}": put("model", "num_outputs", count) for count in (10**9, 0, -1)},
    **{f"lora_rank {rank}": put("model", "lora_rank", rank) for rank in (10**9, 0, -1)},
    **{f"slice_size {size}": _more("slice_size", size) for size in (100_000, 10**12, 0, -1)},
    **{f"in_plane_spacing {size}": _more("in_plane_spacing", size) for size in (1e-9, 0.0)},
    "in_channels": put("model", "in_channels", 10**9),
    "no levels": put("model", "levels", []),
    "a level thrice": put("model", "levels", ["image"] * 3),
    "another decoder": put("model", "decoder", "hsam"),
    "another backbone": put("model", "backbone", "sam_vit_h"),
    "no fusion": put("model", "fusion", None),
    "window of no width": _more("intensity", [{"scheme": "window", "low": 0.0, "high": 0.0}]),
    "no intensity": _more("intensity", []),
    "100,000 channels": put("plans", "channel_names", ["x"] * 100_000),
    "no channels": put("plans", "channel_names", []),
    "label 1000": put("labels", "names", {"a": [1000], "b": [2]}),
    "label -1": put("labels", "names", {"a": [-1], "b": [2]}),
    "equal labels": put("labels", "names", {"a": [1], "b": [1]}),
    "100,000 labels": put("labels", "names", {f"a{i}": [i % 255 + 1] for i in range(100_000)}),
    "escapes as labels": put("labels", "names", {ESCAPES: [1], "b\nE-OK": [2]}),
    "nul as label": put("labels", "names", {"a\0b": [1], "</nifti>]]>": [2]}),
    "escapes as warnings": put("warnings", [ESCAPES, "<script>alert(3)</script>"]),
    "escapes as split": put("split", ESCAPES),
    "file ending": put("file_ending", "/../../../evil"),
    "dataset": put("dataset", "../../etc"),
    "base /etc/passwd": put("base", "name", "/etc/passwd"),
    "base /dev/zero": put("base", "name", "/dev/zero"),
    "code as trainer": put("trainer", "evil_module:T"),
    "half a character": put("name", "\ud800"),
    "depth": put("choices", {"x": {"value": json.loads("[" * 900 + "]" * 900), "why": ""}}),
}
"""edits of a config.json"""


def edited(model: Path, change: Callable[[Any], None]) -> dict[str, bytes]:
    """The files of an exported model with its config edited, and digests that fit."""
    files = {path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*") if path.is_file()}
    config = json.loads(files[CONFIG])
    change(config)
    files[CONFIG] = json.dumps(config).encode()
    known = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
        if name != "digests.json"
    }
    return {**files, "digests.json": json.dumps({"files": known, "schema_version": 1}).encode()}


def trial(place: Workplace, name: str) -> list[str]:
    """Use a hostile model as a folder and as a zip, import it, list; what is wrong, in words."""
    folder = place.setup(("root/raw", "root/results"))
    files = edited(place.made / "mfolder", VALUES[name])
    for file, content in files.items():
        path = folder / "hostile" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with zipfile.ZipFile(folder / "hostile.zip", "w") as archive:
        for file, content in files.items():
            archive.writestr(zipfile.ZipInfo(file), content)
    scan = sorted((folder / RAW / "imagesTr").iterdir())[0]
    predict = ["samora_predict", "-i", str(scan), "-o", f"{folder}/out", "--device", "cpu", "--fp32"]
    wrong = []
    for words in (
        [*predict, "-m", f"{folder}/hostile"],
        ["samora_import", f"{folder}/hostile.zip", "-o", f"{folder}/root/results/Dataset100_Balls/hostile"],
        ["samora_predict", "--list"],
    ):
        outcome = place.run(words)
        wrong += [f"{words[0]} {' '.join(words[1:])[-40:]}: {fault}" for fault in _faults(outcome)]
    return wrong


def _faults(outcome: Outcome) -> list[str]:
    found = {
        "out of time": outcome.status is None,
        "traceback": outcome.crashed,
        "no code": outcome.status not in (None, 0, 3) and not outcome.code,
        "memory": outcome.memory > _MOST_MEMORY,
        "escapes": bool(outcome.controls),
    }
    return [f"{fault}\n{outcome.text[-600:]}" for fault, here in found.items() if here]
