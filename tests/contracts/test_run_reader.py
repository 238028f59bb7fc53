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
