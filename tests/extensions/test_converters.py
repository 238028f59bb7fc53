"""The contract of every converter of the catalogue, and of the catalogue itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dataset_conversion.catalogue import load_converters
from dataset_conversion.converter import Converter
from dataset_conversion.datasets.decathlon import TASKS
from tests.dataset_conversion.samples import make_sample
from tests.extensions import converter_contract as contract

CONVERTERS = load_converters()


@pytest.fixture(params=CONVERTERS, ids=lambda converter: converter.name)
def converter(request: pytest.FixtureRequest) -> Converter:
    found: Converter = request.param
    return found


def test_it_introduces_itself(converter: Converter) -> None:
    contract.check_introduction(converter)


def test_what_it_states_of_labels_and_lists_agrees_with_itself(converter: Converter) -> None:
    contract.check_labels_and_lists(converter)


def test_its_cases_can_be_handed_to_other_processes(converter: Converter, tmp_path: Path) -> None:
    contract.check_cases_can_be_sent_to_other_processes(converter, *make_sample(converter, tmp_path / "source"))


def test_what_it_writes_is_a_raw_dataset(converter: Converter, tmp_path: Path) -> None:
    sample = make_sample(converter, tmp_path / "source")
    contract.check_raw_dataset(converter, *sample, tmp_path / "raw" / "Dataset700_Sample")


def test_equal_sources_give_equal_surveys(converter: Converter, tmp_path: Path) -> None:
    contract.check_equal_surveys(converter, *make_sample(converter, tmp_path / "source"))


def test_an_empty_folder_is_refused_and_nothing_written(converter: Converter, tmp_path: Path) -> None:
    if converter.name == "Phantom":
        pytest.skip("draws its scans, needs no source")
    empty = tmp_path / "Dataset900_Empty"
    empty.mkdir()
    _, options = make_sample(converter, tmp_path / "elsewhere")
    contract.check_empty_folder_is_refused(converter, empty, options, tmp_path / "raw" / "Dataset700_Sample")


def test_names_and_homes_are_unique() -> None:
    names = [converter.name.lower() for converter in CONVERTERS]
    homes = [10 + number for number in TASKS]
    homes += [converter.home for converter in CONVERTERS if converter.home is not None]
    assert len(set(names)) == len(names)
    assert len(set(homes)) == len(homes)
    assert all(0 < home < 100 for home in homes)


def _imported(command: str) -> set[str]:
    """The modules that Python holds after ``command``, in a process of its own."""
    code = f"import sys\ntry:\n    {command}\nexcept SystemExit:\n    pass\nprint('\\n!', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.rpartition("!")[2].split())


def test_help_imports_nothing_heavy() -> None:
    imported = _imported("from dataset_conversion.cli import main; main(['--help'])")
    assert "dataset_conversion.cli" in imported
    assert not {"numpy", "scipy", "nibabel", "SimpleITK", "torch", "PIL", "tqdm"} & imported


@pytest.mark.parametrize(
    ("token", "module"), [("KiTS19", "kits19"), ("Task03_Liver", "decathlon"), ("Dataset012_Mine", "nnunet")]
)
def test_finding_one_converter_imports_no_other(token: str, module: str) -> None:
    imported = _imported(f"from dataset_conversion.catalogue import find_converter; find_converter({token!r})")
    datasets = {name for name in imported if name.startswith("dataset_conversion.datasets.")}
    assert datasets == {f"dataset_conversion.datasets.{module}"}
