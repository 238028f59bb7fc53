import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from planners.cli import main
from planners.shards import Shard, owner
from samora_pipeline.files import shared
from tests.raw_data import load, make_raw_dataset, save, tree

NAME = "Dataset007_Boxes"


def run(root: Path, *arguments: str) -> int:
    return main(["--root", str(root), "-d", "7", "-np", "1", *arguments])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_raw_dataset(tmp_path / "raw" / NAME, cases=6, test=1, unlabelled=2, samora={"origin": "x"})
    return tmp_path


@pytest.fixture
def expected(root: Path) -> dict[str, str]:
    assert run(root) == 0
    hashes = tree(root / "preprocessed" / NAME)
    shutil.rmtree(root / "preprocessed")
    return hashes


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_equal_one_run(root: Path, expected: dict[str, str], count: int) -> None:
    target = root / "preprocessed" / NAME
    for index in reversed(range(1, count + 1)):
        assert run(root, "--shard", f"{index}/{count}") == 0
        assert not (target / "plans.json").exists()
    assert run(root, "--merge") == 0
    assert tree(target) == expected


def test_shards_at_the_same_time_equal_one_run(root: Path, expected: dict[str, str]) -> None:
    program = "from planners.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "--root", str(root), "-d", "7", "-np", "1", "--shard"]
    running = [subprocess.Popen([*command, f"{index}/2"], stdout=subprocess.DEVNULL) for index in (1, 2)]
    assert [process.wait() for process in running] == [0, 0]
    assert run(root, "--merge") == 0
    assert tree(root / "preprocessed" / NAME) == expected


def test_each_shard_stores_its_own_cases(root: Path) -> None:
    names = [f"case_{index:02d}" for index in range(6)] + ["test_00", "free_00", "free_01"]
    assert run(root, "--shard", "2/3") == 0
    stored = {path.stem for path in (root / "preprocessed" / NAME / "slices").glob("*.json")}
    assert stored == {name for name in names if Shard(2, 3).owns(name)}
    assert 0 < len(stored) < len(names)
    assert {owner(f"case_{index}", 4) for index in range(100)} == {1, 2, 3, 4}


def test_a_shard_measures_its_own_cases_first_and_helps_the_others_from_the_end() -> None:
    from planners.cases import CaseSource
    from samora_pipeline.contracts.dataset import RawCase

    sources = [CaseSource(RawCase(f"c{index}", (), None), "train") for index in range(8)]
    order = [source.name for source in Shard(1, 2).order(sources)]
    own = [source.name for source in sources if owner(source.name, 2) == 1]
    assert order[: len(own)] == own
    assert order[len(own) :] == [f"c{index}" for index in reversed(range(8)) if owner(f"c{index}", 2) == 2]


def test_a_merge_before_the_end_names_what_is_missing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = root / "preprocessed" / NAME
    assert run(root, "--merge") == 4
    assert "E-SHARD-01" in capsys.readouterr().err
    assert run(root, "--shard", "1/3") == 0
    assert run(root, "--merge") == 4
    error = capsys.readouterr().err
    assert "E-SHARD-02" in error
    assert "shards 2, 3 of 3 have not finished" in error
    assert f"-d {NAME} --shard 2/3; samora_plan_and_preprocess -d {NAME} --shard 3/3" in error
    assert run(root, "--shard", "2/3") == 0
    assert run(root, "--shard", "3/3") == 0
    damaged = next((target / "slices").glob("case_0?.b2nd"))
    damaged.write_bytes(damaged.read_bytes()[:-7])
    assert run(root, "--merge") == 4
    error = capsys.readouterr().err
    assert "E-SHARD-02" in error
    assert f"1 cases are not stored or damaged: {damaged.stem}" in error
    repair = f"{owner(damaged.stem, 3)}/3"
    assert f"--shard {repair}" in error
    assert not (target / "plans.json").exists()
    assert run(root, "--shard", repair) == 0
    assert run(root, "--merge") == 0
    assert (target / "plans.json").is_file()


def test_shards_of_different_plans_are_not_merged(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "--shard", "1/2") == 0
    assert run(root, "--shard", "2/2", "--set", "input_size=64") == 0
    assert run(root, "--merge") == 4
    error = capsys.readouterr().err
    assert "E-SHARD-03" in error
    assert "shards 1 and 2 differ in slice_size (224 and 64), input_size (224 and 64)" in error
    assert run(root, "--shard", "1/3") == 0
    assert run(root, "--merge") == 4
    assert "parts of 2 and of 3 shards" in capsys.readouterr().err
    assert not (root / "preprocessed" / NAME / "plans.json").exists()
    assert run(root) == 0
    assert not (root / "preprocessed" / NAME / ".shards").exists()


def test_shards_of_another_state_of_the_raw_dataset_are_not_merged(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in (1, 2):
        assert run(root, "--shard", f"{index}/2") == 0
    path = root / "raw" / NAME / "labelsTr/case_02.nii.gz"
    save(path, load(path)[::-1])
    assert run(root, "--merge") == 4
    assert "E-SHARD-04" in capsys.readouterr().err
    assert run(root, "--shard", "1/2") == 0
    assert run(root, "--merge") == 4
    assert "E-SHARD-03" in capsys.readouterr().err
    assert run(root, "--shard", "2/2") == 0
    assert run(root, "--merge") == 0


def test_cases_set_aside_by_the_shards_stay_out_and_are_reported(root: Path, expected: dict[str, str]) -> None:
    faulty = root / "raw" / NAME / "imagesTr/case_03_0000.nii.gz"
    faulty.write_bytes(faulty.read_bytes()[:-9])
    assert run(root, "--shard", "1/2") == 4
    assert run(root, "--set-aside") == 3
    target = root / "preprocessed" / NAME
    alone = tree(target)
    shutil.rmtree(target)
    for index in (1, 2):
        assert run(root, "--shard", f"{index}/2", "--set-aside") == 3
    assert run(root, "--merge") == 3
    assert tree(target) == alone
    assert json.loads((target / "dataset_fingerprint.json").read_text())["set_aside"] == {"case_03": "E-IMG-02"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--shard", "0/2"], "E-ARG-04"),
        (["--shard", "3/2"], "E-ARG-04"),
        (["--shard", "half"], "E-ARG-04"),
        (["--merge", "--set", "input_size=64"], "E-ARG-09"),
        (["--shard", "1/2", "--verify-only"], "E-ARG-09"),
        (["--dask", "tcp://127.0.0.1:9"], "E-ARG-09"),
    ],
)
def test_wrong_arguments(root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: str) -> None:
    assert run(root, *arguments) == 2
    assert capsys.readouterr().err.startswith(code)
    assert not (root / "preprocessed").exists()


def test_shards_and_whole_runs_keep_each_other_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with shared(root / "preprocessed" / NAME):
        assert run(root) == 6
        assert run(root, "--merge") == 6
        assert capsys.readouterr().err.count("E-LOCK-01") == 2
        assert run(root, "--shard", "1/1") == 0


@pytest.fixture
def cluster() -> Iterator[str]:
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as running:
        yield running.scheduler_address


def test_a_dask_cluster_of_processes_gives_the_same_tree(
    root: Path, expected: dict[str, str], cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(root), "-d", "7", "--dask", cluster]) == 0
    assert tree(root / "preprocessed" / NAME) == expected
    image = root / "raw" / NAME / "imagesTr/case_01_0000.nii.gz"
    image.write_bytes(image.read_bytes()[:-4])
    capsys.readouterr()
    assert main(["--root", str(root), "-d", "7", "--dask", cluster]) == 4
    assert capsys.readouterr().err.startswith("E-IMG-02 case_01_0000.nii.gz is truncated")
