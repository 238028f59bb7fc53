"""What comes into the unlabelled pool, on prepared datasets of balls."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samora_pipeline.contracts.fingerprint import FINGERPRINT_FILE, Fingerprint
from samora_pipeline.contracts.json_io import read_json, sealed, to_plain, write_json
from samora_pipeline.contracts.model_spec import Level
from samora_pipeline.contracts.plans import PLANS_FILE, Planned, Plans
from samora_pipeline.contracts.pool import PAPER_NAMES
from samora_pipeline.contracts.splits import SPLITS_FILE, Fold, Splits
from samora_pipeline.contracts.stored_case import read_stored_case
from samora_pipeline.errors import DataError, SamoraError, UsageError
from samora_pipeline.files import digest_json
from samora_pipeline.paths import resolve_roots
from samora_pipeline.slices.store import StoredSlices
from tests.trainers.small_data import DEPTH, INPUT, NAME, SCORED, TRAIN, make_dataset
from trainers.pool.datasets import PAPER_DATASETS
from trainers.pool.manifest import pool_manifest
from trainers.pool.pool import Pool
from trainers.runs.planning import PlannedRun, plan_run
from trainers.runs.request import Request

BASIC = Request("90", "SAMoraTrainer", "2cases", backbone="samora_tiny", backbone_weights="bootstrap")
MORE = "Dataset091_More"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(make_dataset(tmp_path_factory.mktemp("pool")), folder_name=MORE)


@pytest.fixture
def root(data: Path, tmp_path: Path) -> Path:
    shutil.copytree(data, tmp_path / "root")
    return tmp_path / "root"


def _plan(root: Path, **changes: Any) -> PlannedRun:
    return plan_run(replace(BASIC, **changes), resolve_roots(str(root)))


def _pool(root: Path, *assignments: str, **changes: object) -> Pool:
    pool = _plan(root, assignments=assignments, **changes).context.pool
    assert pool is not None
    return pool


def _change_splits(root: Path, folder: str, **folds: Fold) -> None:
    path = root / "preprocessed" / folder / SPLITS_FILE
    splits = read_json(Splits, path)
    write_json(replace(splits, folds={**splits.folds, **folds}), path)


def _change_ours(root: Path, folder: str, **values: object) -> None:
    path = root / "raw" / folder / "samora.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _rename(root: Path, old: str, new: str, renamed: Callable[[str], str] = str) -> None:
    """Give a prepared dataset another name, and its cases the names that ``renamed`` makes of theirs."""
    for kind in ("raw", "preprocessed"):
        (root / kind / old).rename(root / kind / new)
    folder = root / "preprocessed" / new
    fingerprint = read_json(Fingerprint, folder / FINGERPRINT_FILE)
    fingerprint = replace(fingerprint, cases={renamed(case): value for case, value in fingerprint.cases.items()})
    write_json(fingerprint, folder / FINGERPRINT_FILE)
    plans = replace(read_json(Plans, folder / PLANS_FILE), dataset=new)
    write_json(replace(plans, fingerprint_digest=digest_json(to_plain(fingerprint))), folder / PLANS_FILE)
    for path in sorted((folder / "slices").glob("*.json")):
        name = renamed(path.stem)
        _change_record(path, case=name)
        for ending in (".json", ".b2nd", "_label.b2nd"):
            file = path.with_name(path.stem + ending)
            if file.exists():
                file.rename(file.with_name(name + ending))


def _change_record(path: Path, **values: Any) -> None:
    """Write a stored case's record with other values, as preprocessing would have."""
    write_json(sealed(replace(read_stored_case(path), **values)), path)


def test_copies_of_scored_scans_in_another_dataset_stop_the_run(root: Path) -> None:
    plan = _plan(root, unlabeled=("91",))
    assert {(leak.case, leak.scored, leak.reason, leak.place) for leak in plan.leaks.unsettled} == {
        (f"{MORE}/{case}", case, "voxels", "pool") for case in SCORED
    }
    with pytest.raises(DataError) as caught:
        plan.leaks.require_settled()
    error = caught.value
    assert (error.code, error.exit_code) == ("E-LEAK-03", 4)
    assert f"{MORE}/case_4: same voxels as case_4" in error.found
    assert f"--allow-leak {MORE}/case_4 {MORE}/case_5" in error.fix
    assert plan.context.pool is not None
    with pytest.raises(SamoraError, match="E-POOL-02"):
        plan.context.pool.check()


def test_leaks_are_taken_out(root: Path) -> None:
    plan = _plan(root, unlabeled=("91",), exclude_leaks=True)
    plan.leaks.require_settled()
    assert plan.context.pool is not None
    plan.context.pool.check()
    assert not set(SCORED) & set(plan.config.pool.cases[MORE])
    labels = {f"{MORE}/{case}" for case in SCORED}
    assert labels <= set(plan.config.pool.excluded)
    assert set(plan.config.excluded_leaks) == labels
    assert plan.config.allowed_leaks == ()
    assert "LEAKY" not in plan.config.warnings
    assert plan.method.changes["unlabeled"] == ["91"]
    assert plan.method.changes["exclude_leaks"] is True


def test_leaks_are_let_in_by_name_and_flagged(root: Path) -> None:
    allowed = f"{MORE}/{SCORED[0]}"
    plan = _plan(root, unlabeled=("91",), allow_leak=(allowed,))
    assert [leak.case for leak in plan.leaks.unsettled] == [f"{MORE}/{SCORED[1]}"]
    plan = _plan(root, unlabeled=("91",), allow_leak=(allowed,), exclude_leaks=True)
    plan.leaks.require_settled()
    assert plan.context.pool is not None
    plan.context.pool.check()
    assert plan.config.pool.cases[MORE] == (SCORED[0],)
    assert plan.config.warnings == ("PHANTOM", "BOOTSTRAPPED BASE", "LEAKY")
    assert plan.config.allowed_leaks == (allowed,)
    assert plan.config.excluded_leaks == (f"{MORE}/{SCORED[1]}",)


def test_transductive_runs_may_see_copies_too(root: Path) -> None:
    plan = _plan(root, unlabeled=("91",), transductive=True)
    plan.leaks.require_settled()
    assert set(plan.config.pool.cases[NAME]) == {*TRAIN, "more_0"}
    # Every scan of the other dataset is a copy of one that is in already.
    assert plan.config.pool.cases[MORE] == ()
    assert plan.config.pool.copies == tuple(sorted(f"{MORE}/{case}" for case in (*TRAIN, "more_0")))
    assert "LEAKY" not in plan.config.warnings


def test_a_clean_run_has_nothing_to_settle(root: Path) -> None:
    plan = _plan(root)
    assert plan.leaks.excluded == plan.leaks.allowed == plan.leaks.unsettled == ()
    assert "LEAKY" not in plan.config.warnings


def test_a_fold_that_trains_on_a_scored_patient_or_a_copy_is_refused(root: Path) -> None:
    _change_ours(root, NAME, patients={"case_0": "p", "case_5": "p"})
    with pytest.raises(DataError, match=r"(?s)E-LEAK-01.*case_0: same patient as case_5"):
        _plan(root).leaks.require_settled()
    plan = _plan(root, split="full", exclude_leaks=True)
    plan.leaks.require_settled()
    assert set(plan.config.selection.cases) == set(TRAIN[1:4])
    assert "case_0" not in plan.config.pool.cases[NAME]
    plan = _plan(root, split="full", allow_leak=("case_0",))
    plan.leaks.require_settled()
    assert set(plan.config.selection.cases) == set(TRAIN[:4])
    assert "LEAKY" in plan.config.warnings


def test_a_stored_selection_with_a_leak_is_drawn_again_and_not_kept(root: Path) -> None:
    plan = _plan(root, split="full")
    plan.context.dataset.store_selection(plan.config.selection)
    _change_ours(root, NAME, patients={"case_0": "p", "case_5": "p"})
    assert set(_plan(root, split="full", exclude_leaks=True).config.selection.cases) == set(TRAIN[1:4])
    stored = read_json(Splits, root / "preprocessed" / NAME / SPLITS_FILE).selections["full/0/0"]
    assert set(stored.cases) == set(TRAIN[:4])


def test_evaluation_cases_of_the_other_datasets_stay_out(root: Path) -> None:
    _rename(root, MORE, "Dataset092_Other", "x_{}".format)
    _change_splits(root, "Dataset092_Other", official=Fold(("x_case_0",), ("x_case_1",)))
    path = root / "preprocessed" / "Dataset092_Other" / "slices" / "x_case_2.json"
    _change_record(path, subset="test")
    _change_ours(root, "Dataset092_Other", patients={"x_case_1": "p", "x_case_3": "p"})
    # Unlabelled, so that none of the own dataset's scans are in the pool before the copies.
    pool = _pool(root, unlabeled=("Other",), exclude_leaks=True)
    reasons = pool.candidates.reasons["Dataset092_Other"]
    assert reasons["x_case_1"] == "scored"
    assert reasons["x_case_2"] == "test"
    assert reasons["x_case_3"] == "of a scored patient"
    assert reasons["x_case_4"] == "a leak"
    assert reasons["x_case_0"] == "a copy"
    assert "Dataset092_Other/x_case_1" in pool.record.excluded


def test_a_dataset_that_is_named_twice_comes_in_once(root: Path) -> None:
    path = root / "preprocessed" / NAME
    pool = _pool(root, unlabeled=("90", "Balls", str(path.parent.parent / "raw" / NAME)))
    assert [member.dataset.name for member in pool.members] == [NAME]
    assert pool.stored == 5 * DEPTH


def test_other_channels_do_not_fit(root: Path) -> None:
    path = root / "preprocessed" / MORE / PLANS_FILE
    plans = read_json(Plans, path)
    rules = Planned(plans.intensity.value * 2, "tests")
    write_json(replace(plans, channel_names=("CT", "PET"), intensity=rules), path)
    with pytest.raises(DataError, match=r"(?s)E-POOL-01.*CT, PET"):
        _plan(root, unlabeled=("91",))


def test_the_key_changes_with_what_determines_the_slices(root: Path) -> None:
    first = _pool(root).record.key
    assert _pool(root, "finetune.epochs=3").record.key == first
    changed = [
        _pool(root, "pool.slices=7"),
        _pool(root, "pool.intensity=fed_menu"),
        _pool(root, seed=1),
        _pool(root, fold="1"),
        _pool(root, transductive=True),
    ]
    assert len({first, *(pool.record.key for pool in changed)}) == 6
    experts = {
        _plan(root, assignments=words).config.experts[level].key
        for words in ((), ("pool.slices=7",), ("pool.intensity=fed_menu",))
        for level in (Level.IMAGE,)
    }
    assert len(experts) == 3


def test_a_number_of_slices_that_is_not_there(root: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)E-POOL-06.*25 slices.*pool.slices=25"):
        _plan(root, assignments=("pool.slices=26",))
    assert _pool(root, "pool.slices=26", "pool.complete=false").slices == 25
    with pytest.raises(UsageError, match="E-SET-04"):
        _plan(root, assignments=("pool.slices=0",))


def test_the_list_is_drawn_by_quota_kept_and_read_again(root: Path) -> None:
    pool = _pool(root, "pool.slices=12")
    manifest = pool_manifest(pool)
    cases = manifest.datasets[NAME].cases
    assert set(cases) == {*TRAIN[:4], "more_0"}
    assert sorted(len(case.slices) for case in cases.values()) == [2, 2, 2, 3, 3]
    assert (manifest.slices, manifest.wanted, manifest.quota, manifest.seed) == (12, 12, 2, 0)
    assert set(manifest.excluded) == set(SCORED)
    for name, case in cases.items():
        assert (case.stored, case.shown) == (DEPTH, DEPTH)
        assert case.voxel_digests == pool.members[0].dataset.fingerprint.cases[name].voxel_digests
    before = pool.file.read_bytes()
    assert pool_manifest(_pool(root, "pool.slices=12")) == manifest
    pool.file.unlink()
    assert pool_manifest(_pool(root, "pool.slices=12")) == manifest
    assert pool.file.read_bytes() == before
    other = pool_manifest(_pool(root, "pool.slices=12", seed=1))
    assert other.digest != manifest.digest
    assert len(pool.source(manifest)) == 12


def test_a_list_that_was_changed_is_refused(root: Path) -> None:
    pool = _pool(root, "pool.slices=12")
    pool_manifest(pool)
    plain = json.loads(pool.file.read_text())
    plain["datasets"][NAME]["cases"]["case_0"]["slices"] = [0]
    pool.file.write_text(json.dumps(plain))
    with pytest.raises(DataError, match=r"(?s)E-POOL-04.*rm .*"):
        pool_manifest(pool)


def test_slices_that_were_stored_anew_with_other_content_are_noticed(root: Path) -> None:
    pool_manifest(_pool(root))
    path = root / "preprocessed" / NAME / "slices" / "case_0.json"
    (first, *others), *slices = read_stored_case(path).image_crcs
    _change_record(path, image_crcs=((first ^ 1, *others), *slices))
    with pytest.raises(DataError, match=r'(?s)E-POOL-07.*"case_0"'):
        pool_manifest(_pool(root))


def test_a_pool_of_air_is_refused(root: Path) -> None:
    path = root / "preprocessed" / NAME / PLANS_FILE
    plans = read_json(Plans, path)
    rule = replace(plans.intensity.value[0], low=5000.0, high=6000.0)
    write_json(replace(plans, intensity=Planned((rule,), "tests")), path)
    with pytest.raises(DataError, match=r"(?s)E-POOL-03.*25 slices.*air"):
        pool_manifest(_pool(root))


def test_fed_menu_slices_are_hounsfield_units_from_the_window_padded_and_never_enlarged(root: Path) -> None:
    pool = _pool(root, "pool.intensity=fed_menu", "pool.slices=5")
    manifest = pool_manifest(pool)
    assert manifest.intensity == "fed_menu"
    source = pool.source(manifest)
    (member,) = pool.members
    ids = [(case, index) for case, entry in manifest.datasets[NAME].cases.items() for index in entry.slices]
    for number, (case, index) in enumerate(ids):
        stored = StoredSlices.open(member.dataset.slices, case)
        hounsfield = stored.image(index)[0].astype(np.float64)
        expected = np.zeros((INPUT, INPUT))
        edge = (INPUT - hounsfield.shape[0]) // 2
        expected[edge:-edge, edge:-edge] = (np.clip(hounsfield, -200, 400) + 200) / 600
        np.testing.assert_allclose(source.images([number])[0, 0].numpy(), expected, atol=1e-4)


def test_the_orientation_of_fed_menu_is_that_of_the_store(root: Path) -> None:
    import nibabel

    pool = _pool(root)
    stored = StoredSlices.open(pool.members[0].dataset.slices, "case_0")
    raw = nibabel.load(root / "raw" / NAME / "imagesTr" / "case_0_0000.nii.gz")
    to_lps = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(raw.affine), nibabel.orientations.axcodes2ornt("LPS")
    )
    lps = np.asanyarray(raw.as_reoriented(to_lps).dataobj)
    for index in range(DEPTH):
        np.testing.assert_array_equal(stored.image(index)[0], lps[:, :, index].T)


def test_fed_menu_keeps_the_percentiles_of_what_is_not_ct_and_thins_fine_slices(root: Path) -> None:
    path = root / "preprocessed" / NAME / PLANS_FILE
    plans = read_json(Plans, path)
    rule = replace(plans.intensity.value[0], scheme="percentiles", low=None, high=None)
    write_json(replace(plans, channel_names=("MRI",), intensity=Planned((rule,), "tests")), path)
    (member,) = _pool(root, "pool.intensity=fed_menu").members
    assert member.plans.intensity.value == (rule,)
    assert (member.plans.in_plane.value, member.plans.in_plane_spacing.value, member.step) == (
        "shrink_and_pad",
        0.8,
        1.5,
    )
    _change_ours(root, NAME, spacing_known=False)
    (member,) = _pool(root, "pool.intensity=fed_menu").members
    assert (member.plans.in_plane_spacing.value, member.step) == (None, None)


def test_a_paper_pool_that_is_not_complete_names_what_to_convert(root: Path) -> None:
    _rename(root, MORE, "Dataset006_KiTS19")
    with pytest.raises(DataError) as caught:
        _plan(root, unlabeled=("paper",))
    error = caught.value
    assert error.code == "E-POOL-05"
    assert {dataset.name for dataset in PAPER_DATASETS} == PAPER_NAMES
    missing = [dataset for dataset in PAPER_DATASETS if dataset.name != "KiTS19"]
    assert error.found == f"no {', '.join(dataset.name for dataset in missing)}"
    for dataset in missing:
        assert f"samora_convert -d {dataset.converter}" in error.fix
    assert "KiTS19" not in error.fix
    assert "Task03" not in str(error)
    pool = _pool(root, "pool.complete=false", unlabeled=("paper",), exclude_leaks=True)
    assert [member.dataset.name for member in pool.members] == ["Dataset006_KiTS19"]
    assert pool.record.missing == tuple(dataset.name for dataset in missing)
    assert (pool.settings.slices, pool.settings.intensity) == (100_000, "fed_menu")


def test_the_papers_pool(root: Path) -> None:
    for number, dataset in enumerate(PAPER_DATASETS, start=4):
        for kind in ("raw", "preprocessed"):
            shutil.copytree(root / kind / MORE, root / kind / "Dataset095_Copy")
        _rename(root, "Dataset095_Copy", f"Dataset{number:03d}_{dataset.name}", _amos if number == 4 else str)
    with pytest.raises(DataError, match=r"(?s)E-POOL-06.*100,000 slices.*pool.slices="):
        _plan(root, unlabeled=("paper",), exclude_leaks=True)
    words = ("pool.slices=9",)
    plan = _plan(root, unlabeled=("paper",), exclude_leaks=True, assignments=words)
    assert plan.context.pool is not None
    # The run's own dataset is not on the paper's list.
    names = [member.dataset.name.partition("_")[2] for member in plan.context.pool.members]
    assert names == ["AMOS22", "LiTS", "KiTS19", "Lung", "Pancreas", "HepaticVessel", "Spleen", "Colon"]
    assert plan.method.changes["pool.slices"] == 9
    assert plan.config.pool.intensity == "fed_menu"
    assert plan.context.pool.candidates.reasons["Dataset004_AMOS22"]["amos_0500"] == "not CT"
    manifest = pool_manifest(plan.context.pool)
    assert manifest.slices == 9
    # All eight are copies of each other here: each scan comes in once, with the first dataset that has it as CT.
    amos = set(manifest.datasets["Dataset004_AMOS22"].cases)
    assert amos == {"amos_0001", "amos_0002", "amos_0003", "more_0"}
    assert set(manifest.datasets["Dataset005_LiTS"].cases) == {"case_0"}
    assert not any(manifest.datasets[f"Dataset{number:03d}_{name}"].cases for number, name in enumerate(names[2:], 6))
    both = _pool(root, *words, unlabeled=("paper", "90"), exclude_leaks=True)
    assert NAME in {member.dataset.name for member in both.members}


def _amos(case: str) -> str:
    """AMOS22 numbers its CT scans below 500 and its MR scans from 500."""
    return {"case_0": "amos_0500"}.get(case, case.replace("case_", "amos_000"))


def test_own_scans_can_stay_out(root: Path) -> None:
    alone = _pool(root, "pool.own=false", unlabeled=("91",), exclude_leaks=True)
    assert [member.dataset.name for member in alone.members] == [MORE]
    named = _pool(root, "pool.own=false", unlabeled=("91", "90"), exclude_leaks=True)
    assert {member.dataset.name for member in named.members} == {MORE, NAME}
    with pytest.raises(UsageError, match="E-POOL-08"):
        _plan(root, assignments=("pool.own=false",))
