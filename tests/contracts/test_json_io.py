from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from samora_pipeline.contracts.json_io import parse, read_json, write_json
from samora_pipeline.contracts.level import Level
from samora_pipeline.contracts.plans import IntensityRule, Planned
from samora_pipeline.errors import DataError


@dataclass(frozen=True)
class Inner:
    size: int
    ratio: float | None = None


@dataclass(frozen=True)
class Outer:
    schema_version: int = 1
    kind: Literal["a", "b"] = "a"
    levels: tuple[Level, ...] = ()
    inner: dict[str, Inner] = field(default_factory=dict)
    chosen: Planned[tuple[IntensityRule, ...]] | None = None


FULL = Outer(
    kind="b",
    levels=(Level.IMAGE, Level.PIXEL),
    inner={"x": Inner(3, 0.5), "y": Inner(4)},
    chosen=Planned((IntensityRule("window", -125, 275),), "published"),
)


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    write_json(FULL, tmp_path / "outer.json")
    assert read_json(Outer, tmp_path / "outer.json") == FULL


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"inner": {"x": {"size": 3, "colour": 1}}}, "inner.x.colour"),
        ({"inner": {"x": {"size": "3"}}}, "inner.x.size"),
        ({"inner": {"x": {"size": True}}}, "inner.x.size"),
        ({"inner": {"x": {}}}, "inner.x.size"),
        ({"levels": ["image", "voxel"]}, "levels[1]"),
        ({"kind": "c"}, "kind"),
        ({"schema_version": 2}, "schema_version"),
        ({"chosen": {"value": [], "why": 3}}, "chosen.why"),
        ({"typo": 1}, "typo"),
    ],
)
def test_a_fault_is_refused_with_its_path(change: dict[str, object], fault: str) -> None:
    with pytest.raises(DataError) as caught:
        parse(Outer, change, "file")
    assert caught.value.code == "E-JSON-03"
    assert f"file.{fault}" in caught.value.what


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1, "a": 2}', "{", "\xff"])
def test_text_that_is_not_strict_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="E-JSON-02"):
        read_json(Outer, path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"E-JSON-01 plans\.json is missing"):
        read_json(Outer, tmp_path / "plans.json")


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(Inner(1, float("nan")), tmp_path / "inner.json")
    assert list(tmp_path.iterdir()) == []


def test_keys_keep_the_order_of_the_fields(tmp_path: Path) -> None:
    write_json(FULL, tmp_path / "outer.json")
    assert list(json.loads((tmp_path / "outer.json").read_text())) == [
        "schema_version",
        "kind",
        "levels",
        "inner",
        "chosen",
    ]
