"""A config.json that names code, wherever in it, is refused unless that is allowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samora_pipeline.contracts.run import CONFIG_FILE
from samora_pipeline.contracts.run_reader import named_code, read_run_config
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.registry import Registry, is_code_name
from tests.fake_run import write_scored_run

Plain = dict[str, Any]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("os:system", True),
        ("a.b_1.c:Class", True),
        ("é.b:Ü", True),
        ("hl_attn", False),
        ("C:\\weights", False),
        ("window:-160,240", False),
        ("5:6", False),
        ("a:b:c", False),
        ("a-b:C", False),
        (" os:system", False),
        ("os:system\n", False),
        (".a:B", False),
        ("a b:C", False),
    ],
)
def test_what_counts_as_code_is_all_that_a_registry_imports(name: str, expected: bool) -> None:
    assert is_code_name(name) is expected
    if not expected:
        with pytest.raises(UsageError) as caught:
            Registry[object]("part").get(name)
        assert caught.value.code == "E-NAME-01"


def _trainer(plain: Plain) -> None:
    plain["trainer"] = "intruder:Trainer"


def _part_of_the_network(plain: Plain) -> None:
    plain["model"]["fusion"]["name"] = "intruder:Trainer"


def _stage(settings: Plain) -> Plain:
    return {"name": "finetune", "kind": "finetune", "digest": "", "settings": settings}


def _deep_in_the_settings(plain: Plain) -> None:
    plain["stages"] = [_stage({"noise": [{"kind": ["intruder:Trainer"]}]})]


def _a_key(plain: Plain) -> None:
    plain["stages"] = [_stage({"intruder:Trainer": 1})]


def _a_stage(plain: Plain) -> None:
    plain["stages"] = [{**_stage({}), "kind": "intruder:Trainer"}]


@pytest.mark.parametrize("change", [_trainer, _part_of_the_network, _deep_in_the_settings, _a_key, _a_stage])
def test_code_anywhere_in_it_is_refused_and_accepted_on_demand(tmp_path: Path, change: Callable[[Plain], None]) -> None:
    path = write_scored_run(tmp_path, {"a": [0.5, 0.5]}) / "fold_official" / CONFIG_FILE
    assert read_run_config(path).name == "default"
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))
    with pytest.raises(DataError) as caught:
        read_run_config(path)
    assert caught.value.code == "E-CODE-01"
    assert "intruder:Trainer" in caught.value.found
    assert "--allow-code" in caught.value.fix
    assert read_run_config(path, allow_code=True).name == "default"


def test_code_is_found_at_any_depth() -> None:
    plain: Any = "os:system"
    for _ in range(5000):
        plain = [plain]
    assert named_code([plain, {"b.c:D": 1}, "os:system", 3, None]) == ("b.c:D", "os:system")


def _set(*place: Any) -> Callable[[Plain], None]:
    *keys, last, value = place

    def change(plain: Plain) -> None:
        for key in keys:
            plain = plain[key]
        plain[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("model", "input_size", 100_000),
        _set("model", "input_size", 0),
        _set("model", "input_size", -64),
        _set("model", "num_outputs", 10**9),
        _set("model", "num_outputs", 2),
        _set("model", "in_channels", 10**9),
        _set("model", "lora_rank", 10**9),
        _set("model", "lora_rank", -1),
        _set("plans", "slice_size", "value", 10**12),
        _set("plans", "slice_size", "value", -1),
        _set("plans", "in_plane_spacing", "value", 0.0),
        _set("plans", "channel_names", []),
        _set("plans", "channel_names", ["x"] * 100_000),
        _set("plans", "intensity", "value", []),
        _set("labels", "names", {"a": [1000], "b": [2]}),
        _set("labels", "names", {"a": [-1], "b": [2]}),
        _set("labels", "names", {"a": [1], "b": [1]}),
        _set("labels", "names", {"a": [], "b": [2]}),
        _set("labels", "ignore", 1),
    ],
)
def test_sizes_and_labels_that_no_model_has_are_refused_before_anything_is_made(
    tmp_path: Path, change: Callable[[Plain], None]
) -> None:
    path = write_scored_run(tmp_path, {"a": [0.5, 0.5]}) / "fold_official" / CONFIG_FILE
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))
    with pytest.raises(DataError, match="E-RUN-05"):
        read_run_config(path)


@pytest.mark.parametrize(
    ("change", "decides"),
    [
        (_set("model", "fusion", "options", {"order": "1-1-2"}), True),
        (_set("model", "decoder_stages", "mean"), True),
        (_set("plans", "slice_axis", "value", "coronal"), True),
        (_set("plans", "intensity", "value", [{"scheme": "window", "low": 0.0, "high": 10.0}]), True),
        (_set("labels", "names", {"spleen": [1], "liver": [2]}), True),
        (_set("labels", "names", {"spleen": [2], "liver": [1]}), True),
        (_set("base", "digest", "1" * 64), True),
        (_set("plans", "slice_axis", "why", "another reason"), False),
        (_set("warnings", ["PHANTOM"]), False),
        (_set("model", "block_adapters", False), False),
    ],
)
def test_the_digest_covers_what_decides_a_prediction_and_nothing_else(
    tmp_path: Path, change: Callable[[Plain], None], decides: bool
) -> None:
    path = write_scored_run(tmp_path, {"a": [0.5, 0.5]}) / "fold_official" / CONFIG_FILE
    before = read_run_config(path).deciding_digest
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))
    assert (read_run_config(path).deciding_digest != before) is decides


def test_a_field_that_a_later_version_adds_changes_no_digest(tmp_path: Path) -> None:
    path = write_scored_run(tmp_path, {"a": [0.5, 0.5]}) / "fold_official" / CONFIG_FILE
    before = read_run_config(path).deciding_digest
    plain = json.loads(path.read_text())
    del plain["model"]["decoder_stages"], plain["model"]["block_adapters"]
    path.write_text(json.dumps(plain))
    assert read_run_config(path).deciding_digest == before
