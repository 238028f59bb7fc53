from __future__ import annotations

import os
from pathlib import Path

import pytest

from samora_pipeline.contracts.run import CONFIG_FILE, FINAL_CHECKPOINT
from samora_pipeline.errors import AssetError, UsageError
from samora_pipeline.inference.runs import Choice, choose, find_runs
from samora_pipeline.paths import Roots, resolve_roots

SCANS = Path("scans")


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Roots:
    for name in ("RAW", "PREPROCESSED", "RESULTS", "WEIGHTS"):
        monkeypatch.delenv(f"SAMORA_{name}", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return resolve_roots(str(tmp_path / "root"))


def finish(roots: Roots, dataset: str, run: str, *folds: str, at: float = 0.0) -> Path:
    """The files that make a fold a finished one; what is in them is not looked at here."""
    for fold in folds:
        folder = roots.results / dataset / run / f"fold_{fold}"
        folder.mkdir(parents=True)
        (folder / CONFIG_FILE).touch()
        (folder / FINAL_CHECKPOINT).touch()
        os.utime(folder / FINAL_CHECKPOINT, (at, at))
    return roots.results / dataset / run


def chosen(choice: Choice) -> tuple[str, tuple[str, ...]]:
    return choice.run.label, choice.folds


def test_the_only_run_predicts_with_all_finished_folds(roots: Roots) -> None:
    run = finish(roots, "Dataset001_A", "T__full__default", "1", "0")
    (run / "fold_2").mkdir()
    (run / "fold_2" / CONFIG_FILE).touch()
    (roots.results / "Dataset001_A" / "pretraining" / "key" / "expert_image").mkdir(parents=True)
    choice = choose(None, None, SCANS, roots)
    assert chosen(choice) == ("Dataset001_A/T__full__default", ("0", "1"))
    assert [choice.run.folds[fold] for fold in choice.folds] == [run / "fold_0", run / "fold_1"]
    assert choice.remarks == (f"model: {run} (2 folds, averaged: 0, 1)",)


def test_the_dataset_decides_where_it_is_named(roots: Roots) -> None:
    finish(roots, "Dataset001_A", "T__full__default", "0")
    finish(roots, "Dataset012_Bones", "T__full__default", "0")
    for token in ("12", "Bones", "Dataset012_Bones"):
        assert chosen(choose(None, None, SCANS, roots, token))[0] == "Dataset012_Bones/T__full__default"
    with pytest.raises(AssetError, match="E-RUN-01") as caught:
        choose(None, None, SCANS, roots, "2")
    assert "of the dataset 2 " in caught.value.found


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("SAMoraTrainer__10pct__tiny-epochs20", "Dataset001_A/SAMoraTrainer__10pct__tiny-epochs20"),
        ("epochs20", "Dataset001_A/SAMoraTrainer__10pct__tiny-epochs20"),
        ("tiny", "Dataset001_A/SAMoraTrainer__10pct__tiny"),
        ("samedtrainer", "Dataset001_A/SAMedTrainer__10pct__default"),
        ("Dataset002_B", "Dataset002_B/SAMoraTrainer__full__default"),
        ("02_B/SAMora", "Dataset002_B/SAMoraTrainer__full__default"),
        ("full/fold_1", "Dataset002_B/SAMoraTrainer__full__default"),
    ],
)
def test_any_part_of_a_name_that_no_other_has(roots: Roots, part: str, name: str) -> None:
    for run in ("SAMoraTrainer__10pct__tiny", "SAMoraTrainer__10pct__tiny-epochs20", "SAMedTrainer__10pct__default"):
        finish(roots, "Dataset001_A", run, "0")
    finish(roots, "Dataset002_B", "SAMoraTrainer__full__default", "0", "1")
    # Begun, and of no use here.
    (roots.results / "Dataset001_A" / "SAMoraTrainer__full__other" / "fold_0").mkdir(parents=True)
    (roots.results / "Dataset001_A" / "SAMoraTrainer__full__other" / "fold_0" / CONFIG_FILE).touch()
    choice = choose(part, None, SCANS, roots)
    assert choice.run.label == name
    folds = {"Dataset002_B": ("0", "1"), "02_B/SAMora": ("0", "1"), "full/fold_1": ("1",)}
    assert choice.folds == folds.get(part, ("0",))


def test_a_part_that_several_names_have_lists_them(roots: Roots) -> None:
    for number in range(12):
        finish(roots, "Dataset001_A", f"T__full__r{number:02d}", "0")
    with pytest.raises(UsageError, match="E-RUN-24") as caught:
        choose("full", None, SCANS, roots)
    assert caught.value.found.startswith("Dataset001_A/T__full__r00, Dataset001_A/T__full__r01, ")
    assert caught.value.found.endswith("r09 and 2 more")
    with pytest.raises(AssetError, match="E-RUN-01") as missing:
        choose("T__fulll__r07", None, SCANS, roots)
    assert missing.value.expected.startswith("did you mean Dataset001_A/T__full__r07, ")
    assert missing.value.typo == ("T__fulll__r07", "Dataset001_A/T__full__r07")


def test_among_several_runs_the_dataset_of_the_images_decides(roots: Roots) -> None:
    finish(roots, "Dataset001_A", "T__full__default", "0")
    finish(roots, "Dataset002_B", "T__full__default", "0")
    images = roots.raw / "Dataset002_B" / "imagesTs"
    assert chosen(choose(None, None, images, roots))[0] == "Dataset002_B/T__full__default"
    with pytest.raises(AssetError, match="E-RUN-02") as caught:
        choose(None, None, SCANS, roots)
    assert caught.value.found == "Dataset001_A/T__full__default, Dataset002_B/T__full__default"


def test_several_runs_of_one_dataset_are_listed(roots: Roots) -> None:
    finish(roots, "Dataset001_A", "T__full__default", "0", at=100)
    finish(roots, "Dataset001_A", "T__10pct__default", "0", at=200)
    finish(roots, "Dataset002_B", "T__full__default", "0", at=300)
    with pytest.raises(AssetError, match="E-RUN-02") as caught:
        choose(None, None, roots.raw / "Dataset001_A" / "imagesTs", roots)
    assert caught.value.found == "Dataset001_A/T__10pct__default, Dataset001_A/T__full__default"
    assert caught.value.fix.startswith("-m Dataset001_A/T__10pct__default ")


def test_images_are_found_in_the_dataset_trained_last(roots: Roots) -> None:
    finish(roots, "Dataset001_A", "T__full__default", "0", at=200)
    finish(roots, "Dataset002_B", "T__full__default", "0", at=100)
    choice = choose(None, None, Path("imagesTs"), roots)
    assert choice.images == roots.raw / "Dataset001_A" / "imagesTs"
    assert choice.remarks[0] == f"images: {choice.images}"
    assert choice.run.dataset == "Dataset001_A"
    of_named = choose("Dataset002_B/T__full__default", None, Path("imagesTs"), roots)
    assert of_named.images == roots.raw / "Dataset002_B" / "imagesTs"


def test_images_in_the_working_directory_come_first(roots: Roots) -> None:
    finish(roots, "Dataset001_A", "T__full__default", "0")
    Path("imagesTs").mkdir()
    assert choose(None, None, Path("imagesTs"), roots).images == Path("imagesTs")


def test_a_run_is_named_by_path_or_below_the_results(roots: Roots, tmp_path: Path) -> None:
    run = finish(roots, "Dataset001_A", "T__full__default", "0", "1")
    finish(roots, "Dataset001_A", "T__10pct__default", "0")
    whole = ("Dataset001_A/T__full__default", ("0", "1"))
    assert chosen(choose(str(run), None, SCANS, roots)) == whole
    assert chosen(choose("Dataset001_A/T__full__default", None, SCANS, roots)) == whole
    assert chosen(choose(str(run / "fold_1"), None, SCANS, roots)) == (whole[0], ("1",))
    moved = tmp_path / "elsewhere"
    run.rename(moved)
    choice = choose(str(moved), ["1", "1"], SCANS, roots)
    assert [choice.run.folds[fold] for fold in choice.folds] == [moved / "fold_1"]


def test_no_trained_run_is_an_error(roots: Roots) -> None:
    with pytest.raises(AssetError, match="E-RUN-01"):
        choose(None, None, SCANS, roots)
    finish(roots, "Dataset001_A", "T__full__default", "0")
    with pytest.raises(AssetError, match="E-RUN-01") as caught:
        choose("Dataset001_A/T__full__defualt", None, SCANS, roots)
    assert "did you mean Dataset001_A/T__full__default?" in caught.value.expected
    (roots.results / "Dataset001_A" / "unfinished").mkdir()
    with pytest.raises(AssetError, match="E-RUN-01"):
        choose("Dataset001_A/unfinished", None, SCANS, roots)
    assert len(find_runs(roots.results)) == 1


def test_a_fold_that_is_not_finished_is_refused(roots: Roots) -> None:
    finish(roots, "Dataset001_A", "T__full__default", "official")
    with pytest.raises(UsageError, match="E-FOLD-02") as caught:
        choose(None, ["0", "official", "3"], SCANS, roots)
    assert "no finished fold 0, 3" in caught.value.what
    assert caught.value.fix == "-f official"
