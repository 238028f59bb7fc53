"""One door to an engine: the five commands that map over cases, on a Dask cluster, as in one process."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from samora_pipeline.contracts.failures import Failures
from samora_pipeline.contracts.json_io import read_json, read_object
from samora_pipeline.errors import DataError, SamoraError, UsageError
from samora_pipeline.files import digest_file
from samora_pipeline.inference.cli import main as predict
from samora_pipeline.parallel import Engine
from tests import test_one_bad_case as commands
from tests.fake_run import write_fake_run, write_image

distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
STANDINS = Path(__file__).with_name("bin")
NAMES = {"convert": "convert", "plan": "plan", "predict": "predict", "evaluate": "evaluate", "export labels": "export"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers, each a process with a GPU as Dask's resources have it."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50, resources={"GPU": 1}
    ) as running:
        yield running


@pytest.mark.parametrize("command", NAMES)
def test_a_command_on_a_cluster_leaves_what_it_leaves_alone(
    command: str, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {}
    for kind in ("alone", "cluster"):
        if kind == "cluster":
            main = getattr(commands, NAMES[command])

            def on_cluster(words: list[str], main: Callable[[list[str]], int] = main) -> int:
                return main([*words, "--dask", cluster.scheduler_address])

            monkeypatch.setattr(commands, NAMES[command], on_cluster)
        found, code, failures, made = commands.COMMANDS[command](tmp_path / kind, commands.truncated)
        assert found == 3
        assert [one.code for one in read_json(Failures, failures).cases.values()] == [code]
        places[kind] = [digest_file(path) for path in made], list(read_json(Failures, failures).cases)
    assert places["alone"] == places["cluster"]


def test_relative_paths_are_those_of_the_command(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fake_run(tmp_path / "results")
    write_image(tmp_path / "in" / "a.nii.gz")
    monkeypatch.chdir(tmp_path)
    words = ["--root", ".", "-i", "in"]
    assert predict([*words, "-o", "alone"]) == 0
    assert predict([*words, "-o", "there", "--dask", cluster.scheduler_address]) == 0
    assert digest_file(Path("alone/a.nii.gz")) == digest_file(Path("there/a.nii.gz"))
    record = read_object(Path("there/run.json"))
    assert set(record["cases"]) == {"a"}
    assert predict([*words, "-o", "there", "--continue", "--dask", cluster.scheduler_address]) == 0


def slowly(value: int) -> int:
    """A case that damages others, kills its worker, or takes a moment."""
    if value == -1:
        raise DataError("E-IMG-02", "it is damaged")
    if value == -2:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return value * value


def test_workers_that_die_return_their_cases(cluster: Any) -> None:
    over = threading.Event()

    def kill_five() -> None:
        for _ in range(5):
            if over.wait(1.0):
                return
            if pids := _pids(cluster):
                os.kill(pids[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_five)
    killer.start()
    items = [(f"case{number}", number) for number in range(150)] + [("bad", -1), ("deadly", -2)]
    try:
        outcomes = Engine(dask=cluster.scheduler_address).map(slowly, items, "squaring")
    finally:
        over.set()
        killer.join()
    assert [outcome.result for outcome in outcomes[:-2]] == [number * number for number in range(150)]
    assert [outcome.error.code for outcome in outcomes if outcome.error] == ["E-IMG-02", "E-MEM-18"]


def _pids(cluster: Any) -> list[int]:
    return [worker.process.pid for nanny in cluster.workers.values() if (worker := nanny.process) and worker.process]


def test_the_scheduler_has_its_own_patience_back(cluster: Any) -> None:
    before = cluster.scheduler.allowed_failures
    seen = []
    for _, outcome in Engine(dask=cluster.scheduler_address).each(slowly, [("a", 2)], "squaring"):
        seen.append((outcome.result, cluster.scheduler.allowed_failures))
    assert seen == [(4, 1)]
    assert cluster.scheduler.allowed_failures == before != 1


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in of Slurm on the path; its state lies in the folder that is returned."""
    pytest.importorskip("dask_jobqueue", reason="the extra jobqueue is not installed")
    for script in STANDINS.glob("s*"):
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{STANDINS}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STANDIN", str(tmp_path / "slurm"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "slurm"


def test_jobs_of_slurm_work_on_the_cases(slurm: Path) -> None:
    items = [(f"case{number}", number) for number in (3, -1, 4)]
    outcomes = Engine(dask="slurm:short:1").map(slowly, items, "squaring")
    assert [outcome.result for outcome in outcomes] == [9, None, 16]
    script = Path("dask_jobs/slurm_short.sh").read_text()
    assert "#SBATCH -p short" in script
    assert "#SBATCH -t 04:00:00" in script
    (submitted,) = slurm.glob("*.job")
    shared = [line for line in script.splitlines() if line.startswith("#SBATCH") and "-J" not in line]
    assert all(line in submitted.read_text() for line in shared)


@pytest.mark.parametrize("address", ["slurm:", "pbs:batch:none", "slurm:short:0"])
def test_jobs_that_cannot_be_described_are_refused(address: str) -> None:
    pytest.importorskip("dask_jobqueue", reason="the extra jobqueue is not installed")
    with pytest.raises(UsageError, match="E-DASK-03"):
        Engine(dask=address).map(slowly, [("a", 1)], "squaring")


def test_the_engine_is_given_once() -> None:
    assert Engine.of(None, None) == Engine(1)
    assert Engine.of(None, None, usual=None) == Engine(None)
    assert Engine.of(None, "tcp://a:1") == Engine(1, "tcp://a:1")
    for workers, dask, code in ((0, None, "E-ARG-01"), (2, "tcp://a:1", "E-ARG-09")):
        with pytest.raises(SamoraError, match=code):
            Engine.of(workers, dask)
