from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from samora_pipeline.contracts.fingerprint import FINGERPRINT_FILE, Fingerprint
from samora_pipeline.contracts.json_io import read_json, write_json
from samora_pipeline.contracts.plans import PLANS_FILE, Planned, Plans
from samora_pipeline.contracts.run import FINAL_CHECKPOINT, LATEST_CHECKPOINT, SUMMARY_FILE, Choice
from samora_pipeline.contracts.splits import SPLITS_FILE, Fold, Splits
from samora_pipeline.errors import AssetError, DataError, UsageError
from samora_pipeline.files import digest_file
from samora_pipeline.paths import Roots, resolve_roots
from samora_pipeline.weights.records import WeightsRecord, write_record
from tests.trainers.small_data import NAME, SCORED, TRAIN, make_dataset
from trainers.recipes import DISTILLED_IMAGE, RECIPES, Recipe
from trainers.runs.folder import check_progress, config_digest, write_config
from trainers.runs.planning import PlannedRun, plan_run
from trainers.runs.request import Request
from trainers.settings import EXPERT_IMAGE
from trainers.stages.unlabelled import teacher_text

BASIC = Request("90", "SAMoraTrainer", "2cases", backbone="samora_tiny", backbone_weights="bootstrap")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def root(data: Path, tmp_path: Path) -> Path:
    """A root of its own for each test, on shared data."""
    shutil.copytree(data, tmp_path / "root")
    return tmp_path / "root"


def _plan(root: Path, **changes: Any) -> PlannedRun:
    return plan_run(replace(BASIC, **changes), _roots(root))


def _roots(root: Path) -> Roots:
    return resolve_roots(str(root))


def _keys(plan: PlannedRun) -> dict[str, str]:
    """Of the stages whose results runs share, in their order."""
    return {record.name: record.key for record in plan.config.stages if record.digest}


def _run_name(plan: PlannedRun) -> str:
    return plan.context.folder.parent.name


def test_planning_writes_nothing(root: Path) -> None:
    before = sorted(root.rglob("*"))
    _plan(root)
    assert sorted(root.rglob("*")) == before


def test_names_come_from_what_differs(root: Path) -> None:
    first = _run_name(_plan(root))
    assert first.startswith("SAMoraTrainer__2cases__")
    others = [
        _run_name(_plan(root, **changes))
        for changes in (
            {"seed": 1},
            {"recipe": "none"},
            {"levels": ("image",)},
            {"transductive": True},
            {"assignments": ("finetune.epochs=3",)},
        )
    ]
    assert len({first, *others}) == 6
    assert _run_name(_plan(root)) == first
    assert _run_name(_plan(root, name="mine")) == "SAMoraTrainer__2cases__mine"
    # The name says what was typed, on whatever machine.
    assert first == "SAMoraTrainer__2cases__tiny-bootstrap"
    assert others[-1] == "SAMoraTrainer__2cases__tiny-bootstrap-epochs3"


def test_public_weights_may_be_awaited(root: Path) -> None:
    samed = Request("90", "SAMedTrainer", "2cases", backbone="sam_vit_b", name="named")
    missing = replace(samed, backbone_weights="mae_vit_l_full")
    with pytest.raises(AssetError) as caught:
        plan_run(missing, _roots(root))
    assert (caught.value.code, caught.value.exit_code) == ("E-WEIGHT-05", 5)
    assert "bootstrap" in caught.value.fix
    # Public weights that may be fetched are planned with before they are there.
    awaited = plan_run(samed, _roots(root))
    assert awaited.context.base is not None
    assert awaited.context.base.awaited
    (root / "weights").mkdir()
    own = root / "weights" / "own.pth"
    own.write_bytes(b"weights")
    plan = plan_run(samed, _roots_with(root, own))
    assert plan.config.base is not None
    assert plan.config.base.origin == "public"
    assert plan.context.base is not None
    assert not plan.context.base.awaited
    assert _run_name(plan_run(Request("90", "SAMedTrainer", "2cases"), _roots(root))) == "SAMedTrainer__2cases__default"


def _roots_with(root: Path, file: Path) -> Roots:
    """Roots whose weights folder has a file in the place of the public one."""
    from samora_pipeline.weights import catalog

    asset = catalog.ASSETS["sam_vit_b"]
    catalog.ASSETS["sam_vit_b"] = replace(asset, size=file.stat().st_size, sha256=digest_file(file))
    file.rename(file.with_name(asset.file))
    return _roots(root)


@pytest.fixture(autouse=True)
def _catalogue() -> object:
    from samora_pipeline.weights import catalog

    before = dict(catalog.ASSETS)
    yield
    catalog.ASSETS.update(before)


@pytest.mark.parametrize("name", ["", "a b", "../x", "a__b", "fast-dev-run", "-x"])
def test_names_that_cannot_be_folders_are_refused(root: Path, name: str) -> None:
    with pytest.raises(UsageError, match="E-ARG-15"):
        _plan(root, name=name)


@pytest.mark.parametrize("split", ["10%", "0.1", "0pct", "half"])
def test_splits_that_do_not_exist(root: Path, split: str) -> None:
    with pytest.raises(DataError) as caught:
        _plan(root, split=split)
    assert (caught.value.code, caught.value.exit_code) == ("E-SPLIT-04", 4)


def test_folds(root: Path) -> None:
    assert _plan(root).config.fold == "0"
    assert _plan(root, fold="1").config.scored == TRAIN[:2]
    everything = _plan(root, fold="all").config
    assert set(everything.scored) == set(TRAIN)
    assert "SCORED ON TRAINING CASES" in everything.warnings
    with pytest.raises(UsageError, match="E-FOLD-01"):
        _plan(root, fold="7")


def test_a_dataset_that_is_not_preprocessed(root: Path) -> None:
    (root / "preprocessed" / NAME / PLANS_FILE).unlink()
    with pytest.raises(DataError) as caught:
        _plan(root)
    assert caught.value.code == "E-PLAN-01"
    assert caught.value.fix == "samora_plan_and_preprocess -d 90"


def test_a_plan_that_is_older_than_its_measurements(root: Path) -> None:
    path = root / "preprocessed" / NAME / FINGERPRINT_FILE
    write_json(replace(read_json(Fingerprint, path), skipped={"case_9": "E-GEO-01"}), path)
    with pytest.raises(DataError) as caught:
        _plan(root)
    assert caught.value.code == "E-PLAN-13"
    assert "samora_plan_and_preprocess -d 90" in caught.value.fix


def test_raw_files_that_were_changed_since_are_found_by_their_bytes(root: Path) -> None:
    label = root / "raw" / NAME / "labelsTr" / f"{TRAIN[1]}.nii.gz"
    label.touch()
    _plan(root)
    image = nibabel.load(label)
    voxels = np.asarray(image.dataobj).copy()
    voxels[:2] = 1
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), label)
    with pytest.raises(DataError) as caught:
        _plan(root)
    assert (caught.value.code, caught.value.found) == ("E-PLAN-14", TRAIN[1])
    assert caught.value.fix == "samora_plan_and_preprocess -d 90"
    # Without its raw files a dataset can still be trained on.
    label.unlink()
    _plan(root)


def test_keys_change_with_what_determines_an_expert_and_with_nothing_else(root: Path) -> None:
    first = _keys(_plan(root))
    assert set(first) == {"bootstrap", "expert_image", "expert_patch", "expert_pixel"}
    assert _keys(_plan(root, split="full", name="x", assignments=("finetune.epochs=2",))) == first
    patch = _keys(_plan(root, assignments=("expert_patch.epochs=2",)))
    assert {stage for stage in first if first[stage] != patch[stage]} == {"expert_patch"}
    rank = _keys(_plan(root, assignments=("model.lora_rank=8",)))
    assert {stage for stage in first if first[stage] != rank[stage]} == set(first) - {"bootstrap"}
    for changes in ({"seed": 1}, {"fold": "1"}, {"transductive": True}, {"assignments": ("bootstrap.epochs=2",)}):
        changed = _keys(_plan(root, **changes))
        assert all(first[stage] != changed[stage] for stage in first)


def test_another_plan_makes_other_keys(root: Path) -> None:
    first = _keys(_plan(root))
    path = root / "preprocessed" / NAME / PLANS_FILE
    plans = read_json(Plans, path)
    write_json(replace(plans, mirror=Planned(True, "another reason")), path)
    assert _keys(_plan(root)) == first
    write_json(replace(plans, mirror=Planned(False, "tests")), path)
    assert not set(_keys(_plan(root)).values()) & set(first.values())


def test_the_same_folder_takes_no_other_configuration(root: Path) -> None:
    plan = _plan(root, name="a")
    write_config(plan.context.folder, plan.config)
    assert _plan(root, name="a").config == plan.config
    # A start that failed before its first step blocks nothing.
    assert _plan(root, name="a", assignments=("finetune.epochs=7",)).method.finetune.epochs == 7
    (plan.context.folder / LATEST_CHECKPOINT).touch()
    with pytest.raises(DataError) as caught:
        _plan(root, name="a", assignments=("finetune.epochs=7", "finetune.dice=0.5"))
    error = caught.value
    assert (error.code, error.exit_code) == ("E-RUN-19", 4)
    assert f"stages.finetune.settings.epochs {plan.method.finetune.epochs} -> 7" in error.found
    assert "stages.finetune.settings.dice 0.8 -> 0.5" in error.found
    assert "--name" in error.fix


def test_folds_of_one_run_share_their_settings(root: Path) -> None:
    plan = _plan(root, name="a")
    write_config(plan.context.folder, plan.config)
    assert _plan(root, name="a", fold="1").context.folder.parent == plan.context.folder.parent
    with pytest.raises(DataError) as caught:
        _plan(root, name="a", fold="1", assignments=("finetune.epochs=7",))
    assert caught.value.code == "E-RUN-19"
    assert caught.value.found.startswith("stages.finetune.settings.epochs ")


def test_a_plan_that_only_changed_its_reasons_is_the_same(root: Path) -> None:
    plan = _plan(root, name="a")
    config = replace(plan.config, plans=replace(plan.config.plans, slice_axis=Planned("axial", "measured again")))
    write_config(plan.context.folder, config)
    _plan(root, name="a")


def test_a_second_start_takes_what_the_first_chose(root: Path) -> None:
    first = _plan(root, name="a")
    stored = dict(first.config.choices)
    assert {name: choice.value for name, choice in stored.items()} == {
        "recipe": "scratch",
        "model.input_size": 64,
    }
    # As if it had been chosen by other rules.
    choices = {**stored, "recipe": Choice("none", "another machine")}
    write_config(first.context.folder, replace(first.config, choices=choices))
    assert _plan(root, name="a").config.choices["recipe"] == choices["recipe"]
    # Another run chooses anew.
    assert _plan(root, name="b").config.choices == stored


def test_what_changes_no_result_may_change(root: Path) -> None:
    plan = _plan(root, name="a")
    write_config(plan.context.folder, plan.config)
    (plan.context.folder / LATEST_CHECKPOINT).touch()
    smaller = _plan(root, name="a", assignments=("finetune.micro_batch=2", "expert_image.micro_batch=3"))
    assert smaller.context.stages["finetune"].settings.micro_batch == 2
    assert config_digest(smaller.config) == config_digest(plan.config)
    digests = [{name: stage.digest for name, stage in one.context.stages.items()} for one in (plan, smaller)]
    assert digests[0] == digests[1]


def test_the_input_size_is_the_runs_own_choice_and_stays(root: Path) -> None:
    path = root / "preprocessed" / NAME / PLANS_FILE
    plans = read_json(Plans, path)
    write_json(replace(plans, input_size=Planned(None, "tests")), path)
    first = _plan(root, name="a")
    assert first.config.choices["model.input_size"].value == first.config.model.input_size == 128
    smaller = _plan(root, name="a", assignments=("model.input_size=64",)).config
    choices = {**smaller.choices, "model.input_size": Choice(64, "tests")}
    write_config(first.context.folder, replace(smaller, choices=choices))
    assert _plan(root, name="a").config.model.input_size == 64


def test_an_existing_run_is_continued_or_named_anew(root: Path) -> None:
    plan = _plan(root, name="a")
    check_progress(plan.context.folder, resume=False)
    write_config(plan.context.folder, plan.config)
    check_progress(plan.context.folder, resume=False)
    (plan.context.folder / LATEST_CHECKPOINT).touch()
    with pytest.raises(UsageError) as caught:
        check_progress(plan.context.folder, resume=False)
    assert (caught.value.code, caught.value.found) == ("E-RUN-21", str(plan.context.folder))
    assert " -c " in caught.value.fix
    for name in (FINAL_CHECKPOINT, SUMMARY_FILE):
        (plan.context.folder / name).touch()
    with pytest.raises(UsageError) as caught:
        check_progress(plan.context.folder, resume=False)
    assert caught.value.code == "E-RUN-22"
    assert "--name" in caught.value.fix
    check_progress(plan.context.folder, resume=True)


def test_selections_are_stored_once_and_beside_others(root: Path) -> None:
    one, other = _plan(root), _plan(root, split="10slices", seed=3)
    one.context.dataset.store_selection(one.config.selection)
    other.context.dataset.store_selection(other.config.selection)
    splits = read_json(Splits, root / "preprocessed" / NAME / SPLITS_FILE)
    assert set(splits.selections) == {"2cases/0/0", "10slices/0/3"}
    assert _plan(root).config.selection == splits.selections["2cases/0/0"]
    assert sum(len(indices) for indices in splits.selections["10slices/0/3"].slices.values()) == 10


def test_the_pool_holds_no_scored_case(root: Path) -> None:
    plan = _plan(root)
    assert plan.context.pool is not None
    cases = plan.context.pool.record.cases[NAME]
    assert set(cases) == {*TRAIN[:4], "more_0"}
    assert set(plan.context.pool.record.excluded) == set(SCORED)
    plan.context.pool.check()


def test_scored_cases_come_in_only_when_asked_for(root: Path) -> None:
    plan = _plan(root, transductive=True)
    assert plan.context.pool is not None
    assert set(SCORED) <= set(plan.context.pool.record.cases[NAME])
    assert plan.context.pool.record.excluded == ()
    assert "TRANSDUCTIVE" in plan.config.warnings
    plan.context.pool.check()


def test_published_test_cases_are_in_no_pool(root: Path) -> None:
    path = root / "preprocessed" / NAME / SPLITS_FILE
    splits = read_json(Splits, path)
    write_json(replace(splits, folds={**splits.folds, "official": Fold(TRAIN[:5], TRAIN[5:])}), path)
    plan = _plan(root, fold="1")
    assert plan.context.pool is not None
    # Fold 1 trains on case_5, so it is no secret to that fold; fold 0 neither trains on it nor may see it.
    assert TRAIN[5] in plan.context.pool.record.cases[NAME]
    assert TRAIN[5] not in _plan(root, fold="0").config.pool.cases[NAME]


def test_other_scans_of_a_scored_patient_are_kept_out(root: Path) -> None:
    path = root / "raw" / NAME / "samora.json"
    ours = json.loads(path.read_text())
    path.write_text(json.dumps({**ours, "patients": {"more_0": "patient", SCORED[0]: "patient"}}))
    pool = _plan(root).config.pool
    assert "more_0" not in pool.cases[NAME]
    assert "more_0" in pool.excluded


def test_no_pool_where_nothing_is_learned_without_labels(root: Path) -> None:
    plan = _plan(root, recipe="none", backbone_weights=None, transductive=True)
    assert plan.context.pool is None
    assert [record.name for record in plan.config.stages] == ["finetune"]
    assert plan.config.experts == {}
    assert "TRANSDUCTIVE" not in plan.config.warnings


def test_recipe_full_needs_both_teachers(root: Path) -> None:
    request = Request("90", "SAMoraTrainer", "2cases", backbone="sam_vit_b", recipe="full")
    with pytest.raises(AssetError) as caught:
        plan_run(request, _roots(root))
    assert list(plan_run(request, _roots(root), dry=True).config.teachers) == ["image", "patch"]
    assert (caught.value.code, caught.value.exit_code) == ("E-WEIGHT-05", 5)
    assert "mae_vit_l_full" in caught.value.what
    assert all(way in caught.value.fix for way in ("samora_weights add", "another recipe", "samora_tiny", "bootstrap"))
    # SimCLRv2 may be fetched unasked, so the image level alone is planned without any file.
    plan = plan_run(replace(request, levels=("image",)), _roots(root))
    assert list(plan.config.teachers) == ["image"]
    assert plan.config.teachers["image"].licence == "Apache-2.0"
    assert list(_keys(plan)) == ["teacher_image", "expert_image"]
    assert plan_run(replace(request, recipe="scratch"), _roots(root)).config.teachers == {}


def test_recipes_share_what_they_train_alike(root: Path) -> None:
    def keys(**changes: object) -> dict[str, str]:
        return _keys(_plan(root, **changes))

    full, scratch, nocpt = (keys(recipe=recipe) for recipe in ("full", "scratch", "nocpt"))
    stages = ["bootstrap", "teacher_image", "teacher_patch", "expert_image", "expert_patch", "expert_pixel"]
    assert list(full) == stages
    assert list(nocpt) == [stage for stage in stages if not stage.startswith("teacher")]
    assert full["expert_pixel"] == scratch["expert_pixel"] == nocpt["expert_pixel"]
    for stage in ("expert_image", "expert_patch"):
        assert len({full[stage], scratch[stage], nocpt[stage]}) == 3
    longer = keys(recipe="full", assignments=("teacher_patch.epochs=9",))
    assert {stage for stage in full if full[stage] != longer[stage]} == {"teacher_patch", "expert_patch"}
    other = keys(recipe="full", backbone="samora2_tiny", trainer="SAMora2Trainer")
    assert {stage for stage in full if full[stage] == other[stage]} == {"teacher_image", "teacher_patch"}
    for changes in ({"seed": 1}, {"fold": "1"}, {"transductive": True}):
        changed = keys(recipe="full", **changes)
        assert all(full[stage] != changed[stage] for stage in full)


def test_teachers_without_public_weights_are_flagged(root: Path) -> None:
    full, nocpt = (_plan(root, recipe=recipe).config for recipe in ("full", "nocpt"))
    assert "TEACHER FROM RANDOM WEIGHTS" in full.warnings
    assert "UNTRAINED TEACHER" in nocpt.warnings
    assert full.teachers["patch"].network == "mae_tiny"
    assert full.teachers["patch"].continued
    assert not nocpt.teachers["patch"].continued
    for config, trained in ((full, True), (nocpt, False)):
        records = [record for record in config.stages if record.name in ("teacher_image", "teacher_patch")]
        assert [bool(record.digest) for record in records] == [trained, trained]
        assert [record.settings["continued"] for record in records] == [trained, trained]


@pytest.mark.parametrize(
    ("assignment", "code"),
    [
        ("teacher_image.network=mae_tiny", "E-TEACH-02"),
        ("teacher_image.network=simclr", "E-NAME-01"),
        ("teacher_image.input_size=40", "E-TEACH-01"),
        ("expert_image.feature=map8", "E-TEACH-03"),
    ],
)
def test_teachers_that_do_not_fit_are_refused(root: Path, assignment: str, code: str) -> None:
    with pytest.raises(UsageError, match=code):
        _plan(root, recipe="full", assignments=(assignment,))


def test_a_trainer_that_distils_without_a_teacher_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "full", Recipe("no teacher", {EXPERT_IMAGE: DISTILLED_IMAGE}))
    with pytest.raises(UsageError, match="E-TEACH-06"):
        _plan(root, recipe="full")


def test_the_licence_of_a_teacher_goes_into_the_run_and_its_model_card(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "renamed.pth"
    file.write_bytes(b"weights")
    record = WeightsRecord("mae_vit_l_full", 7, digest_file(file), "first use", "CC-BY-NC-4.0", True, "x")
    write_record(file, record)
    plan = _plan(root, recipe="nocpt", levels=("patch",), assignments=(f"teacher_patch.weights={file}",))
    assert plan.config.teachers["patch"].licence == "CC-BY-NC-4.0"
    text = teacher_text(plan.config.teachers["patch"])
    assert text == f"mae_tiny from {file} (CC-BY-NC-4.0); taken as it is"


def test_one_level_has_no_fusion(root: Path) -> None:
    model = _plan(root, levels=("patch",)).config.model
    assert model.levels == ("patch",)
    assert model.fusion is None
