from __future__ import annotations

from pathlib import Path

import pytest

from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.paths import resolve_roots
from samora_pipeline.registry import Registry


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for name in ("Dataset001_Synapse", "Dataset014_Hippocampus", "notes"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    return tmp_path / "raw"


@pytest.mark.parametrize("token", ["1", "001", "Synapse", "Dataset001_Synapse"])
def test_a_dataset_is_found_by_number_and_name(raw: Path, token: str) -> None:
    folder = resolve_roots(str(raw.parent)).dataset(token)
    assert (folder.number, folder.name, folder.raw) == (1, "Synapse", raw / "Dataset001_Synapse")


def test_a_dataset_is_found_by_path(raw: Path, tmp_path: Path) -> None:
    folder = resolve_roots(str(tmp_path / "other")).dataset(str(raw / "Dataset014_Hippocampus"))
    assert folder.folder_name == "Dataset014_Hippocampus"


def test_a_typing_error_gets_the_nearest_name(raw: Path) -> None:
    with pytest.raises(DataError, match="did you mean Synapse") as caught:
        resolve_roots(str(raw.parent)).dataset("Synapce")
    assert caught.value.code == "E-NAME-02"


def test_the_flag_wins_over_the_environment_and_single_overrides_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAMORA_ROOT", raising=False)
    assert resolve_roots(None).root == Path("samora_data")
    monkeypatch.setenv("SAMORA_ROOT", str(tmp_path / "environment"))
    monkeypatch.setenv("SAMORA_WEIGHTS", str(tmp_path / "weights"))
    assert resolve_roots(None).raw == tmp_path / "environment" / "raw"
    roots = resolve_roots(str(tmp_path / "flag"))
    assert roots.raw == tmp_path / "flag" / "raw"
    assert roots.weights == tmp_path / "weights"


def test_a_registry_knows_its_names_and_reaches_outside() -> None:
    registry: Registry[object] = Registry("thing")
    registry.register("Apple")("apple")
    assert registry.get("Apple") == "apple"
    assert registry.get("pathlib:Path") is Path
    with pytest.raises(ValueError, match="twice"):
        registry.register("Apple")("again")
    with pytest.raises(UsageError, match="did you mean Apple"):
        registry.get("aple")
    with pytest.raises(UsageError, match="cannot be imported"):
        registry.get("pathlib:Nothing")
