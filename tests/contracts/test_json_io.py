from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from samora_pipeline.contracts.fingerprint import Fingerprint
from samora_pipeline.contracts.json_io import parse, read_json, write_json
from samora_pipeline.contracts.model_spec import Level
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


@dataclass(frozen=True)
class Holder:
    outer: Outer


@dataclass(frozen=True)
class Circle:
    kind: Literal["circle"]
    radius: float

    def __post_init__(self) -> None:
        if self.radius < 0:
            raise DataError("E-SHAPE-01", "a radius is negative")


@dataclass(frozen=True)
class Square:
    kind: Literal["square"]
    side: float


SHAPE: Any = Circle | Square


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
        ({"chosen": {"value": [], "why": 3}}, "chosen.why"),
        ({"typo": 1}, "typo"),
    ],
)
def test_a_fault_is_refused_with_its_path(change: dict[str, object], fault: str) -> None:
    with pytest.raises(DataError) as caught:
        parse(Outer, change, "file")
    assert caught.value.code == "E-JSON-03"
    assert f"file.{fault}" in caught.value.what


@pytest.mark.parametrize(
    ("cls", "plain"),
    [
        (int, "1"),
        (int, 1.0),
        (float, "1"),
        (float, True),
        (bool, 1),
        (str, 1),
        (tuple[str, ...], "text"),
        (tuple[int, int], [1]),
        (tuple[int, int], [1, 2, 3]),
        (dict[str, int], [1]),
        (dict[str, int], {"a": None}),
        (Literal[1, 2], True),
        (int | tuple[int, ...], "1"),
        (Inner, [1]),
        (Inner | None, 1),
    ],
)
def test_nothing_is_converted(cls: Any, plain: object) -> None:
    with pytest.raises(DataError) as caught:
        parse(cls, plain, "file")
    assert caught.value.code == "E-JSON-03"


def test_a_whole_number_is_a_float() -> None:
    ratio = parse(Inner, {"size": 1, "ratio": 2}, "file").ratio
    assert (ratio, type(ratio)) == (2.0, float)


@pytest.mark.parametrize(("version", "place"), [({"schema_version": 2}, "file"), ({"outer": None}, "file.outer")])
def test_another_schema_is_named_with_what_makes_the_file_anew(version: dict[str, object], place: str) -> None:
    plain = {**version, **({"outer": {"schema_version": 3, "gone": 1}} if "outer" in version else {"gone": 1})}
    with pytest.raises(DataError) as caught:
        parse(Holder if "outer" in version else Outer, plain, "file")
    assert caught.value.code == "E-JSON-04"
    assert caught.value.what.startswith(f"{place} ")
    assert caught.value.found.endswith("3" if "outer" in version else "2")
    assert caught.value.expected.endswith("1")
    assert "samora_" in caught.value.fix


def test_the_command_of_a_planned_file_plans_again() -> None:
    with pytest.raises(DataError) as caught:
        parse(Fingerprint, {"schema_version": 1}, "dataset_fingerprint.json")
    assert "samora_plan_and_preprocess" in caught.value.fix


@pytest.mark.parametrize(
    ("plain", "expected"),
    [({"kind": "circle", "radius": 1}, Circle("circle", 1.0)), ({"kind": "square", "side": 2}, Square("square", 2.0))],
)
def test_a_union_is_told_by_its_kind(plain: dict[str, object], expected: object) -> None:
    assert parse(SHAPE, plain, "file") == expected
    assert parse(dict[str, Circle | Square], {"a": plain}, "file") == {"a": expected}


@pytest.mark.parametrize(
    ("plain", "fault"),
    [({"kind": "square", "radius": 1}, "file.radius"), ({"kind": "star"}, "file.kind"), ({"kind": []}, "file.kind")],
)
def test_a_fault_in_a_union_is_that_of_its_kind(plain: dict[str, object], fault: str) -> None:
    with pytest.raises(DataError) as caught:
        parse(SHAPE, plain, "file")
    assert caught.value.code == "E-JSON-03"
    assert fault in caught.value.what


def test_an_error_of_the_class_itself_is_kept() -> None:
    with pytest.raises(DataError) as caught:
        parse(tuple[Circle, ...], [{"kind": "circle", "radius": -1}], "file")
    assert caught.value.code == "E-SHAPE-01"


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
