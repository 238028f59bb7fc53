from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from samora_pipeline.contracts.run import LATEST_CHECKPOINT
from samora_pipeline.paths import resolve_roots
from tests.trainers.runs import TINY, command, fold_folder
from tests.trainers.small_data import NAME, make_dataset
from trainers import cli
from trainers.methods import TRAINERS
from trainers.runs.folder import check_config, check_progress, write_config
from trainers.runs.request import Request
from trainers.runs.typed import check_typed


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("cli"))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from trainers.cli import build_parser; build_parser().format_help();"
        "heavy = {'torch', 'nibabel', 'SimpleITK', 'matplotlib', 'numpy', 'pandas'} & set(sys.modules);"
        "sys.exit(bool(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_arguments_of_another_tool_are_refused_without_torch() -> None:
    code = (
        "import sys; from trainers.cli import main; code = main(['1', '2d', '0']);"
        "sys.exit(code + 10 * ('torch' in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("E-ARG-03 ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("SAMoraTrainer 2cases --stage expert_imgae", "E-STAGE-01"),
        ("SAMoraTrainer 2cases --set finetune.epoch=3", "E-SET-01"),
        ("SAMoraTrainer 2cases --set teacher_patch.epoch=3 --set expert_image.temperature=0.2", "E-SET-01"),
        ("SAMoraTrainer 2cases --set bootstrap.epoch=3", "E-SET-01"),
        ("SAMoraTrainer 2cases --set fusion=hlattn", "E-NAME-01"),
        ("SAMoraTrainer 2cases --set fusion.order=1-1", "E-SET-03"),
        ("SAMoraTrainer 2cases --set model.decoder=samd", "E-NAME-01"),
        ("SAMoraTrainer 2cases --set expert_pixel.noise.name=mixtur", "E-NAME-01"),
        ("SAMoraTrainer 2cases --set teacher_image.network=simclr", "E-NAME-01"),
        ("SAMoraTrainer 2cases --backbone sam_vit", "E-NAME-01"),
        ("SAMoraTrainer 2cases --recipe ful", "E-RECIPE-01"),
        ("SAMoraTrainer 2cases --levels imag", "E-ARG-06"),
        ("SAMoraTrainer 2cases --preset table4-lc", "E-PRESET-01"),
        ("SAMoraTrainer 2cases -f 9", "E-FOLD-01"),
        ("SAMoraTrainer 10prct", "E-SPLIT-04"),
    ],
)
def test_what_is_mistyped_is_refused_without_torch(root: Path, words: str, code: str) -> None:
    program = (
        "import sys; from trainers.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(code + 10 * ('torch' in sys.modules))"
    )
    typed = [sys.executable, "-c", program, "90", *words.split(), "--root", str(root), "--dry-run"]
    result = subprocess.run(typed, check=False, capture_output=True, text=True)
    assert result.stderr.startswith(f"{code} ")
    assert result.returncode == (4 if code == "E-SPLIT-04" else 2)


def test_what_any_choice_of_the_machine_would_take_is_not_refused(root: Path) -> None:
    roots = resolve_roots(str(root))
    for assignment in (
        *("expert_image.temperature=0.2", "expert_image.scale=token", "teacher_image.epochs=2"),
        *("bootstrap.epochs=2", "finetune.epochs=2"),
    ):
        for trainer in TRAINERS.names():
            check_typed(Request("90", trainer, "2cases", assignments=(assignment,)), roots)


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (["--recipe", "fulll"], "E-RECIPE-01", 2),
        (["--stage", "train"], "E-STAGE-01", 2),
        (["--set", "finetune.epoch=3"], "E-SET-01", 2),
        (["-f", "9"], "E-FOLD-01", 2),
        (["--backbone", "vit"], "E-NAME-01", 2),
        (["--device", "gpu"], "E-DEV-01", 2),
        (["--backbone-weights", "nowhere.pth"], "E-WEIGHT-05", 5),
        (["--unlabeled", "77"], "E-NAME-02", 4),
        (["--stage", "validate"], "E-RUN-23", 5),
        (["--stage", "expert_image"], "E-RUN-23", 5),
    ],
)
def test_errors_come_before_anything_is_written(
    root: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: str, exit_code: int
) -> None:
    basic = [word for word in command(root) if word != "--debug"]
    assert cli.main([*basic, *words]) == exit_code
    assert capsys.readouterr().err.startswith(code)
    assert not list((root / "results").rglob("config.json"))


def test_a_split_that_does_not_exist(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["90", "SAMoraTrainer", "10%", "--root", str(root), *TINY[:4]]) == 4
    assert capsys.readouterr().err.startswith("E-SPLIT-04 ")


def test_several_folds_are_planned_one_after_the_other(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(root, "--dry-run", "-f", "0", "1", "0")) == 0
    told = capsys.readouterr().out
    assert [line.split(", ")[1] for line in told.splitlines() if line.startswith("labelled")] == ["fold 0", "fold 1"]


def test_a_dry_run_tells_everything_and_writes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(root.rglob("*"))
    assert cli.main(command(root, "--dry-run", "--seed", "1", "--transductive")) == 0
    told = capsys.readouterr().out
    for part in (
        f"root      {root} (--root)",
        "base      bootstrap: bootstrap (not trained yet)",
        "labelled  10 slices of 2 cases (2cases, fold 0, drawn with seed 1)",
        "changed   seed = 1",
        "warning   TRANSDUCTIVE",
        "7 cases, their labels unused",
        "expert_patch: 2 epochs of at most 2 steps, batches of 4",
        '"cross_entropy": 0.2',
        "dry run: nothing was written",
    ):
        assert part in told
    lines = {line.split()[0]: line.split()[1:] for line in told.splitlines() if line.startswith("  ") and "," in line}
    assert lines["base"][0] == "0"
    assert lines["experts"][0] == "0"
    assert lines["fusion"][1] == lines["decoder"][1] == "0"
    assert sorted(root.rglob("*")) == before


def test_a_run_that_was_begun_is_not_begun_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from samora_pipeline.paths import resolve_roots
    from trainers.runs.planning import plan_run
    from trainers.runs.request import Request

    plan = plan_run(
        Request("90", "SAMoraTrainer", "2cases", None, backbone=TINY[1], backbone_weights=TINY[3], name="begun"),
        resolve_roots(str(root)),
    )
    write_config(plan.context.folder, plan.config)
    # A start that failed before its first step (download, device) blocks neither this command nor another.
    check_progress(plan.context.folder, resume=False)
    check_config(plan.context.folder, replace(plan.config, recipe="none"))
    (plan.context.folder / LATEST_CHECKPOINT).touch()
    assert plan.context.folder == fold_folder(root, "SAMoraTrainer__2cases__begun")
    words = ["90", "SAMoraTrainer", "2cases", "--root", str(root), *TINY[:4], "--name", "begun"]
    assert cli.main(words) == 2
    assert capsys.readouterr().err.startswith("E-RUN-21")
    assert cli.main([*words, "--set", "finetune.epochs=1"]) == 4
    told = capsys.readouterr().err
    assert told.startswith("E-RUN-19")
    assert f"stages.finetune.settings.epochs {plan.method.finetune.epochs} -> 1" in told
    assert not (root / "results" / NAME / "pretraining").exists()


def test_the_command_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        cli._resume_command(["1", "SAMoraTrainer", "10pct", "--name", "a b"])
        == "samora_train 1 SAMoraTrainer 10pct --name 'a b' -c"
    )
    assert cli._resume_command(["1", "-c"]) == "samora_train 1 -c"
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert cli._resume_command(["1"]) == "torchrun --nnodes 2 --nproc-per-node 2 --no-python samora_train 1 -c"
