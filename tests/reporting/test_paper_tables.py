"""Tables shaped like the paper's: where each value comes from, and when a reported one may stand beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from samora_pipeline.contracts.model_spec import FusionSpec, Level, ModelSpec, ModuleSpec
from samora_pipeline.contracts.pool import PAPER_NAMES, PAPER_SLICES
from samora_pipeline.contracts.run import BaseRecord, PoolRecord, StageRecord
from samora_pipeline.contracts.splits import Selection
from samora_pipeline.contracts.timing import StageTiming, Timing
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.evaluation.comparison import Variant, group_seeds
from samora_pipeline.evaluation.run_scores import distinct_labels, read_run
from samora_pipeline.models.assembly import build_network
from samora_pipeline.reporting.paper_plan import missing_commands
from samora_pipeline.reporting.paper_tables import SHAPES, paper_table
from samora_pipeline.reporting.text_tables import TextTable
from tests.fake_run import SYNAPSE, random_dice, write_scored_run

VIT = ModelSpec("sam_vit_b", 224, 9, lora_rank=4, fusion=FusionSpec(options={"residual": "paper"}))
POOL = PoolRecord({f"Dataset009_{name}": ("a",) for name in PAPER_NAMES}, (), slices=PAPER_SLICES, intensity="fed_menu")
TIMING = Timing(
    device="cuda",
    ranks=8,
    stages={
        "teacher_image": StageTiming(3600.0),
        "teacher_patch": StageTiming(1800.0),
        "expert_image": StageTiming(7200.0, reused=True),
        "finetune": StageTiming(360.0, epochs=20),
        "validate": StageTiming(99.0),
    },
    seconds_per_volume=3.25,
)


def variants(tmp_path: Path, *runs: dict[str, Any]) -> list[Variant]:
    """One run per dict of changes, on 8 organs of Synapse with the ViT-B unless told otherwise."""
    read = []
    for number, changes in enumerate(runs):
        values: dict[str, Any] = {"labels": SYNAPSE, "model": VIT, "name": f"r{number}", "timing": TIMING}
        values |= {"pool": POOL} | changes
        dice = values.pop("dice", random_dice(number, 12, len(values["labels"].names)))
        read.append(read_run(str(write_scored_run(tmp_path, dice, **values)), tmp_path, allow_code=True))
    return group_seeds(distinct_labels(read))


def cells(table: TextTable, row: int = 0) -> dict[str, str]:
    return dict(zip(table.header, table.rows[row], strict=True))


def table(number: int, listed: Sequence[Variant], **changes: Any) -> TextTable:
    return paper_table(number, listed, changes.get("protocol", "sam_family"), changes.get("warnings", ()))


@pytest.mark.parametrize("number", [1, 13])
def test_organs_stand_beside_their_reported_values(tmp_path: Path, number: int) -> None:
    listed = variants(tmp_path, {}, {"trainer": "SAMedTrainer", "split": "full", "recipe": "none"})
    made = table(number, listed)
    first, second = cells(made), cells(made, 1)
    summary = listed[0].first.summary.sam_family
    assert (first["Training set"], first["Method"], second["Training set"]) == ("10%", "SAMora", "full")
    assert first["Spleen"] == f"{100 * summary.mean['1'].Dice:.2f}"
    assert first["Mean Dice"] == f"{100 * summary.foreground_mean.Dice:.2f}"
    assert first["HD95 voxel"] == f"{summary.foreground_mean.HD95:.2f}"
    assert (first["reported Spleen"], first["reported Mean Dice"]) == ("88.04", "79.41")
    assert first["reported HD95 voxel"] == "15.68"
    # The aorta of the fully supervised SAMed is printed under Spleen.
    assert (second["reported Aorta"], second["reported Spleen"]) == ("87.77", "88.72")
    assert any("order of TransUNet" in note for note in made.notes)
    assert any("HD95 in voxels" in note for note in made.notes)


def test_two_means_are_quoted_where_the_paper_contradicts_itself(tmp_path: Path) -> None:
    made = table(1, variants(tmp_path, {"trainer": "HSAMoraTrainer"}))
    assert cells(made)["reported Mean Dice"] == "84.34 (84.55)"


@pytest.mark.parametrize(
    "changes",
    [
        {"fold": "0"},
        {"warnings": ("PHANTOM",)},
        {"dataset": "Dataset007_BTCV"},
        {"trainer": "AnotherTrainer"},
        {"split": "20pct"},
    ],
)
def test_nothing_is_reported_beside_what_the_paper_did_not_do(tmp_path: Path, changes: dict[str, Any]) -> None:
    made = table(1, variants(tmp_path, changes))
    assert not [name for name in made.header if name.startswith("reported")]


def test_nothing_is_reported_under_another_protocol(tmp_path: Path) -> None:
    made = table(1, variants(tmp_path, {}), protocol="physical")
    assert "HD95 mm" in made.header
    assert not [name for name in made.header if name.startswith("reported")]


def test_what_a_run_does_otherwise_is_said(tmp_path: Path) -> None:
    other = {
        "model": ModelSpec("samora_tiny", 128, 9, lora_rank=8),
        "recipe": "scratch",
        "base": BaseRecord("samora_tiny", "0", "packaged"),
    }
    made = table(1, variants(tmp_path, {}, other))
    said = "The run differs from the paper in"
    assert cells(made)[said] == "-"
    found = cells(made, 1)[said]
    assert found == ("samora_tiny; input of 128 px; rank 8; base packaged; recipe scratch; scope block, residual delta")


def test_the_pool_is_among_what_a_run_does_otherwise(tmp_path: Path) -> None:
    own = PoolRecord({"Dataset001_Synapse": ("a", "b"), "Dataset005_LiTS": ("c",)}, ())
    few = replace(POOL, slices=500)
    made = table(1, variants(tmp_path, {"pool": own}, {"pool": few}, {"pool": own, "trainer": "SAMedTrainer"}))
    said = [cells(made, row)["The run differs from the paper in"] for row in range(3)]
    assert said[0] == "pool of 3 scans (Synapse, LiTS)"
    assert said[1].startswith("pool of 500 slices of 8 scans (")
    assert said[2] == "-"


def test_sam_adapter_stands_beside_its_reported_row(tmp_path: Path) -> None:
    made = table(13, variants(tmp_path, {"trainer": "SAMAdapterTrainer", "recipe": "none"}))
    assert cells(made)["Method"] == "SAM Adapter"
    assert cells(made)["reported Mean Dice"] == "58.28"


def test_published_slices_are_the_share_that_they_are_of(tmp_path: Path) -> None:
    from tests.fake_run import TWO

    slices = Selection("5pct_slices", "official", "slices", 0, True, ("a",), {"a": (1, 2)})
    scans = Selection("5pct", "official", "cases", 0, True, ("a",))
    la = {"dataset": "Dataset002_LA", "labels": TWO}
    runs = [la | {"split": one.split, "selection": one} for one in (slices, scans)]
    made = table(2, variants(tmp_path, *runs))
    said = "The run differs from the paper in"
    assert [cells(made, row)["reported 5% LA"] for row in range(2)] == ["90.13", "90.13"]
    assert [cells(made, row)[said] for row in range(2)] == ["-", "all slices of the labelled scans"]


def test_h_sams_second_stage_alone_is_said(tmp_path: Path) -> None:
    models = [replace(VIT, decoder="hsam", decoder_stages=stages) for stages in ("mean", "last")]
    made = table(1, variants(tmp_path, *({"trainer": "HSAMoraTrainer", "model": model} for model in models)))
    said = [cells(made, row)["The run differs from the paper in"] for row in range(2)]
    assert said == ["-", "decoder stages last"]


@pytest.mark.parametrize("number", [2, 14])
def test_datasets_are_columns_and_share_a_row(tmp_path: Path, number: int) -> None:
    from tests.fake_run import TWO

    la = {"dataset": "Dataset002_LA", "split": "5pct", "labels": TWO}
    listed = variants(tmp_path, {}, la, {"trainer": "HSAMTrainer"})
    made = table(number, listed)
    assert [row[0] for row in made.rows] == ["SAMora", "H-SAM"]
    first = cells(made)
    assert (first["reported 10% Synapse"], first["reported 5% LA"]) == ("79.41", "90.13")
    assert first["5% LA"] == f"{100 * listed[1].first.summary.sam_family.foreground_mean.Dice:.2f}"
    assert cells(made, 1)["5% LA"] == "-"
    assert any("4 of the 80" in note for note in made.notes)


def test_parameters_are_those_of_the_network(tmp_path: Path) -> None:
    spec = ModelSpec("samora_tiny", 128, 9, lora_rank=4)
    made = table(3, variants(tmp_path, {"model": spec}))
    count = sum(parameter.numel() for parameter in build_network(spec).parameters())
    assert cells(made)["Total parameters (M)"] == f"{count / 1e6:.2f}"
    assert cells(made)["Fine-tuning epochs"] == "20"
    assert cells(made)["reported Total parameters (M)"] == "118.5"
    stranger = replace(spec, backbone="nowhere.to:BeFound")
    assert cells(table(3, variants(tmp_path / "x", {"model": stranger})))["Total parameters (M)"] == "-"


@pytest.mark.parametrize(("number", "column"), [(4, "Mean Dice"), (11, "10% Synapse")])
def test_fusions_by_order_and_module(tmp_path: Path, number: int, column: str) -> None:
    h_samora = {"trainer": "HSAMoraTrainer"}
    made = table(
        number,
        variants(
            tmp_path,
            h_samora,
            h_samora | {"model": replace(VIT, fusion=FusionSpec(options={"order": "1-2-1"}))},
            h_samora | {"model": replace(VIT, fusion=FusionSpec(name="lac"))},
            {},
        ),
    )
    assert [row[:4] for row in made.rows] == [
        ("2", "1", "1", "HL-Attn"),
        ("1", "2", "1", "HL-Attn"),
        ("✓", "✓", "✓", "LAC"),
        ("2", "1", "1", "HL-Attn"),
    ]
    assert [cells(made, row)[f"reported {column}"] for row in range(4)] == ["84.34", "83.86", "82.41", "-"]


@pytest.mark.parametrize("number", [5, 15])
def test_single_experts_by_their_recipe(tmp_path: Path, number: int) -> None:
    def one(level: Level, recipe: str) -> dict[str, Any]:
        return {"model": replace(VIT, levels=(level,), fusion=None), "recipe": recipe}

    made = table(
        number,
        variants(tmp_path, one(Level.IMAGE, "scratch"), one(Level.PATCH, "nocpt"), one(Level.PIXEL, "full")),
    )
    assert [row[:4] for row in made.rows] == [
        ("Scratch", "×", "×", "SAMora"),
        ("×", "T-S (w/o CPT)", "×", "SAMora"),
        ("×", "×", "Scratch", "SAMora"),
    ]
    assert [cells(made, row)["reported Mean Dice"] for row in range(3)] == ["77.2", "77.19", "76.97"]


def test_datasets_and_seconds(tmp_path: Path) -> None:
    amos = {"dataset": "Dataset004_AMOS22", "timing": replace(TIMING, seconds_per_volume=4.25)}
    first = cells(table(6, variants(tmp_path, {}, amos)))
    assert (first["Inference time (s)"], first["Timed on"]) == ("3.8", "cuda, 8 processes")
    assert (first["reported Synapse"], first["reported AMOS22"], first["reported Inference time (s)"]) == (
        "79.41",
        "90.51",
        "3.1",
    )


def test_ranks_are_columns(tmp_path: Path) -> None:
    first = cells(table(9, variants(tmp_path, {}, {"model": replace(VIT, lora_rank=16)})))
    assert (first["reported Rank = 4"], first["reported Rank = 16"]) == ("79.41", "76.88")
    assert first["The run differs from the paper in"] == "-"


def test_fusion_and_its_time(tmp_path: Path) -> None:
    made = table(10, variants(tmp_path, {"trainer": "HSAMoraTrainer"}))
    first = cells(made)
    assert (first["Fusion module"], first["Inference time (s)"], first["reported Inference time (s)"]) == (
        "HL-Attn",
        "3.2",
        "3.1",
    )
    assert any("takes 5.7 s" in note for note in made.notes)


def test_hours_of_each_phase(tmp_path: Path) -> None:
    made = table(12, variants(tmp_path, {"trainer": "HSAMoraTrainer"}, {"trainer": "HSAMoraTrainer", "recipe": "T2"}))
    first = cells(made)
    assert (first["CPT (h)"], first["Pre-training (h)"], first["Fine-tuning (h)"]) == ("1.50", "2.00", "0.10")
    assert (first["reported CPT (h)"], cells(made, 1)["reported CPT (h)"]) == ("12.7", "0.8")
    assert cells(made, 1)["Model"] == "H-SAMora-T2"


def test_missing_times_are_dashes(tmp_path: Path) -> None:
    first = cells(table(12, variants(tmp_path, {"timing": None, "trainer": "HSAMTrainer"})))
    assert [first[name] for name in ("CPT (h)", "Fine-tuning (h)", "Timed on")] == ["-", "-", "-"]


def test_seeds_share_a_cell_and_variants_do_not(tmp_path: Path) -> None:
    listed = variants(tmp_path, {}, {"seed": 1}, {"recipe": "none"})
    made = table(9, listed)
    assert len(made.rows) == 2
    assert "±" in cells(made)["Rank = 4"]
    assert "±" not in cells(made, 1)["Rank = 4"]
    assert any(note.startswith("±") for note in made.notes)


def test_runs_that_do_not_belong_in_one_table_are_refused(tmp_path: Path) -> None:
    budgets = variants(tmp_path, {}, {"split": "full"})
    with pytest.raises(DataError, match=r"(?s)E-CMP-03.*split"):
        table(4, budgets)
    assert len(table(13, budgets).rows) == 2
    datasets = variants(tmp_path / "x", {}, {"dataset": "Dataset002_LA"})
    with pytest.raises(DataError, match=r"(?s)E-CMP-03.*dataset"):
        table(13, datasets)
    fewer = variants(tmp_path / "y", {}, {"dice": random_dice(0, 3, 8), "trainer": "SAMedTrainer"})
    with pytest.raises(DataError, match=r"(?s)E-CMP-03.*cases scored in"):
        table(14, fewer)


@pytest.mark.parametrize("number", [0, 7, 8, 16])
def test_tables_of_settings_are_no_tables(tmp_path: Path, number: int) -> None:
    with pytest.raises(UsageError, match=r"(?s)E-CMP-04.*1, 2, 3, 4, 5, 6, 9"):
        table(number, variants(tmp_path, {}))


@pytest.mark.parametrize("number", sorted(SHAPES))
def test_every_table_carries_the_flags(tmp_path: Path, number: int) -> None:
    assert table(number, variants(tmp_path, {}), warnings=("TRANSDUCTIVE",)).warnings == ("TRANSDUCTIVE",)


@pytest.mark.parametrize("number", [4, 5, 11, 15])
@pytest.mark.parametrize("trainer", ["SAMedTrainer", "HSAMTrainer"])
def test_the_lora_of_a_baseline_is_no_expert_of_the_paper(tmp_path: Path, number: int, trainer: str) -> None:
    control = {"trainer": trainer, "recipe": "none", "model": replace(VIT, levels=(Level.IMAGE,), fusion=None)}
    made = cells(table(number, variants(tmp_path, control)))
    levels = [made[name] for name in made if name.lower().startswith(("image", "patch", "pixel"))]
    assert levels == ["×", "×", "×"]
    assert not [name for name in made if name.startswith("reported")]


@pytest.mark.parametrize(
    ("number", "rows", "last"),
    [
        (1, 14, ("full", "H-SAMora")),
        (2, 8, ("H-SAMora",)),
        (6, 5, ("H-SAMora",)),
        (13, 24, ("full", "H-SAMora")),
        (14, 13, ("H-SAMora",)),
    ],
)
def test_every_row_of_the_paper_is_printed_without_a_run(number: int, rows: int, last: tuple[str, ...]) -> None:
    made = paper_table(number, [], "sam_family", (), every_row=True)
    assert len(made.rows) == rows
    assert made.rows[-1][: len(last)] == last
    assert {row["Run"] for row in map(partial(cells, made), range(rows))} == {"not run; the paper's values"}
    assert all(name.startswith("reported ") for name in made.header[len(last) + 1 : -1 - (number == 6)])


def test_rows_of_the_paper_surround_what_was_run(tmp_path: Path) -> None:
    listed = variants(tmp_path, {}, {"trainer": "UNetTrainer", "recipe": "none"}, {"trainer": "SAMedTrainer"})
    made = paper_table(13, listed, "sam_family", (), every_row=True)
    by_key = {row[:2]: cells(made, number) for number, row in enumerate(made.rows)}
    assert len(by_key) == len(made.rows) == 25
    assert made.rows[-1][:2] == ("10%", "UNet")
    assert by_key["10%", "UNet"]["reported Mean Dice"] == "-"
    mine = by_key["10%", "SAMora"]
    assert (mine["Run"], mine["reported Mean Dice"]) == (listed[0].label, "79.41")
    assert mine["Mean Dice"] == f"{100 * listed[0].first.summary.sam_family.foreground_mean.Dice:.2f}"
    theirs = by_key["full", "SwinUnet"]
    assert (theirs["Mean Dice"], theirs["reported Aorta"], theirs["reported HD95 voxel"]) == ("-", "85.47", "21.55")


def test_a_run_outside_the_published_split_takes_no_row_of_the_paper(tmp_path: Path) -> None:
    made = paper_table(13, variants(tmp_path, {"fold": "0"}), "sam_family", (), every_row=True)
    own = [cells(made, number) for number, row in enumerate(made.rows) if row[:2] == ("10%", "SAMora")]
    assert [(row["reported Mean Dice"], row["Mean Dice"] == "-") for row in own] == [("79.41", True), ("-", False)]


def test_loss_length_and_slices_without_labels_are_among_what_a_run_does_otherwise(tmp_path: Path) -> None:
    settings = {
        **{"cross_entropy": 0.2, "dice": 0.8, "epochs": 20, "steps_per_epoch": None},
        **{"consistency": None, "self_training": None},
    }
    other = settings | {"cross_entropy": 0.5, "dice": 0.5, "steps_per_epoch": 6, "consistency": {"decay": 0.99}}
    runs = [{"stages": (StageRecord("finetune", "finetune", "", one),)} for one in (settings, other)]
    made = table(1, variants(tmp_path, *runs, runs[0] | {"trainer": "SAMora2Trainer"}))
    said = [cells(made, row)["The run differs from the paper in"] for row in range(3)]
    assert said[0] == "-"
    assert said[1] == (
        "loss 0.5 cross-entropy + 0.5 Dice; 20 epochs of at most 6 steps; consistency with slices without labels"
    )
    # 25 in Table 8, where Table 3 has 20.
    assert "20 epochs" in said[2]


def test_the_plan_names_what_no_run_has_measured(tmp_path: Path) -> None:
    from tests.fake_run import TWO

    la = {"dataset": "Dataset002_LA", "split": "5pct", "labels": TWO}
    lines = missing_commands(14, variants(tmp_path, {}, la, {"trainer": "SAMedTrainer", "recipe": "none"}))
    assert len(lines) == 13 * 3 - 3 - 3
    assert "samora_train PROMISE12 SAMoraTrainer 7.5pct_slices --unlabeled paper" in lines
    assert "samora_train LA SAMedTrainer 5pct_slices" in lines
    assert "samora_external nnunet LA 5pct_slices" in lines
    own = [line.split()[1] for line in lines if " SAMoraTrainer " in line]
    assert own == ["PROMISE12"]


def test_a_method_on_slices_has_its_own_row_and_needs_no_command_again(tmp_path: Path) -> None:
    from tests.fake_run import TWO

    la = {"dataset": "Dataset002_LA", "split": "5pct", "labels": TWO, "trainer": "UAMTTrainer", "recipe": "none"}
    listed = variants(tmp_path, la | {"model": ModuleSpec("unet2d", 128, 2)})
    made = paper_table(14, listed, "sam_family", (), every_row=True)
    last = cells(made, -1)
    assert (last["Method"], last["reported 5% LA"]) == ("UA-MT, 2-D U-Net, ours", "-")
    lines = [line for line in missing_commands(14, listed) if "UAMTTrainer" in line]
    assert [line.split("  #")[0] for line in lines] == ["samora_train PROMISE12 UAMTTrainer 7.5pct_slices"]


def test_networks_of_others_say_how_they_were_trained(tmp_path: Path) -> None:
    own = {"trainer": "TransUNetTrainer", "recipe": "none", "split": "full"}
    public = StageRecord("finetune", "finetune_public_start", "", {"weights": "R50.npz"})
    made = table(
        13,
        variants(
            tmp_path,
            own | {"model": ModuleSpec("transunet", 128, 9)},
            own | {"model": ModuleSpec("transunet", 224, 9), "stages": (public,)},
            {
                **{"trainer": "UNETR++", "split": "full", "recipe": "none", "model": ModuleSpec("UNETR++", 224, 9)},
                "stages": (StageRecord("external", "external", "", {}),),
            },
        ),
    )
    said = [cells(made, row)["The run differs from the paper in"] for row in range(3)]
    assert said == [
        "input of 128 px; optimizer, length and augmentation of this package, from random weights",
        "optimizer, length and augmentation of this package",
        "-",
    ]
    assert [cells(made, row)["reported Mean Dice"] for row in range(3)] == ["77.49", "77.49", "87.22"]


@pytest.mark.parametrize(("number", "lines", "first"), [(1, 14, "10pct"), (2, 24, "10pct"), (6, 15, "AMOS22 10pct")])
def test_the_plan_of_an_empty_results_folder_has_every_value(number: int, lines: int, first: str) -> None:
    made = missing_commands(number, [])
    assert len(made) == lines
    assert first in made[0]


def test_the_plan_of_presets_is_refused() -> None:
    with pytest.raises(UsageError, match="E-CMP-10"):
        missing_commands(11, [])
    with pytest.raises(UsageError, match="E-CMP-04"):
        missing_commands(7, [])
