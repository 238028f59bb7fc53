"""The scripts of docs/cluster.md, executed as they are printed against a stand-in of Slurm; two agents of torchrun."""

from __future__ import annotations

import os
import re
import shlex
import socket
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from tests.trainers.runs import losses
from tests.trainers.small_data import INPUT, make_dataset
from trainers.study.table import StudyTable, read_table

ROOT = Path(__file__).parents[2]
STANDINS = Path(__file__).with_name("bin")
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
SCRIPTS = {
    match[1]: text
    for text in re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    if (match := re.search(r"--job-name=(\S+)", text))
}
FOLDER = "Dataset001_Balls"
_LENGTH = {"epochs": 2, "steps_per_epoch": 2, "batch": 2}
_SETTINGS = [f"{stage}.{name}={value}" for stage in ("expert_pixel", "finetune") for name, value in _LENGTH.items()]
SMALL = [
    *("--backbone", "samora_tiny", "--recipe", "scratch", "--levels", "pixel", "--device", "cpu", "--name", "a"),
    *(word for setting in (f"model.input_size={INPUT}", *_SETTINGS) for word in ("--set", setting)),
]


def environment(folder: Path) -> dict[str, str]:
    """Slurm's commands on the path, and a samora_train whose runs are small."""
    for script in STANDINS.iterdir():
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    own = folder / "bin"
    own.mkdir()
    main = "import sys; from trainers.cli import main; sys.exit(main())"
    words = shlex.join([sys.executable, "-c", main])
    (own / "samora_train").write_text(f'#!/bin/sh\nexec {words} "$@" {shlex.join(SMALL)}\n')
    (own / "samora_train").chmod(0o755)
    paths = [str(own), str(STANDINS), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {
        **os.environ,
        "PATH": os.pathsep.join(paths),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "SAMORA_ROOT": str(folder),
        "SLURM_STANDIN": str(folder / "slurm"),
    }


def submit(name: str, folder: Path, **variables: str) -> str:
    """Submit a script of the page and wait for it; return what it wrote. It has to end with 0."""
    make_dataset(folder, folder_name=FOLDER)
    (folder / "job.sh").write_text(SCRIPTS[name])
    given = {**environment(folder), **variables}
    done = subprocess.run(
        ["sbatch", "--wait", "job.sh"], cwd=folder, env=given, capture_output=True, text=True, timeout=280, check=False
    )
    written = "".join(path.read_text() for path in [*folder.glob("slurm-*.out"), *folder.glob("fold-*.out")])
    assert done.returncode == 0, done.stderr + written
    return written


def fold(folder: Path, number: int = 0) -> Path:
    return folder / "results" / FOLDER / "SAMoraTrainer__full__a" / f"fold_{number}"


def expert(folder: Path) -> Path:
    (found,) = (folder / "results" / FOLDER / "pretraining").glob("*/expert_pixel")
    return found


def test_the_page_has_these_scripts() -> None:
    assert set(SCRIPTS) == {"samora", "samora-folds", "samora-nodes", "samora-apptainer"}


@pytest.mark.slow
def test_a_run_that_is_signalled_is_put_back_in_line_and_finishes(tmp_path: Path) -> None:
    written = submit("samora", tmp_path, SLURM_STANDIN_UNTIL="checkpoint_latest.safetensors")
    assert written.count("resume with:") == 1
    assert (fold(tmp_path) / "summary.json").is_file()


@pytest.mark.slow
def test_an_array_trains_every_fold(tmp_path: Path) -> None:
    submit("samora-folds", tmp_path)
    assert all((fold(tmp_path, number) / "summary.json").is_file() for number in (0, 1))


@pytest.mark.slow
def test_a_container_is_handed_the_command(tmp_path: Path) -> None:
    submit("samora-apptainer", tmp_path)
    assert (fold(tmp_path) / "summary.json").is_file()


@pytest.mark.slow
def test_two_nodes_by_slurm_and_by_torchrun_learn_what_one_process_learns(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("one", "slurm", "agents")]
    for place in places:
        place.mkdir()
    make_dataset(places[0], folder_name=FOLDER)
    given = environment(places[0])
    words = ["samora_train", "1", "SAMoraTrainer", "full"]
    subprocess.run(words, cwd=places[0], env=given, check=True, timeout=200, capture_output=True)
    submit("samora-nodes", places[1])
    make_dataset(places[2], folder_name=FOLDER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{probe.getsockname()[1]}"
    how = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting]
    agent = [sys.executable, "-m", "torch.distributed.run", *how, "--no-python", *words]
    given = environment(places[2])
    agents = [subprocess.Popen(agent, cwd=places[2], env=given, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [one.wait(250) for one in agents] == [0, 0]
    for place in places[1:]:
        np.testing.assert_allclose(losses(expert(place)), losses(expert(places[0])), rtol=1e-5)
        np.testing.assert_allclose(losses(fold(place)), losses(fold(places[0])), rtol=1e-5)


def test_the_study_of_the_page_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "study.toml").write_text(text)
    table = read_table(tmp_path / "study.toml")
    assert isinstance(table, StudyTable)
    assert len(table.runs) * len(table.seeds) * len(table.folds) == 12
    assert set(table.runs) == set(tomllib.loads(text)["runs"])


def test_images_are_made_by_plain_installs() -> None:
    docker = (ROOT / "containers" / "Dockerfile").read_text().splitlines()
    apptainer = (ROOT / "containers" / "samora.def").read_text().partition("%post\n")[2].partition("\n\n")[0]
    runs = [line.removeprefix("RUN ") for line in docker if line.startswith("RUN ")]
    steps = [*runs, *(line.strip() for line in apptainer.splitlines())]
    assert len(steps) == 2
    setup = (ROOT / "setup.py").read_text()
    for step in steps:
        assert step.startswith("pip install ")
        (extras,) = re.findall(r"\[(.+)\]", step)
        assert all(f'"{extra}": [' in setup for extra in extras.split(","))
