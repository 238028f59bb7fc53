"""Tables 3, 7 and 8 of the paper, number by number as printed, against what is trained unless told otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from tests.paper.settings import METHODS, backbone, preset_epochs, stage_settings

TABLE_3 = {"SAMed": 200, "SAMora": 20, "SAMed-2": 200, "SAMora-2": 20, "H-SAM": 300, "H-SAMora": 30}

# Table 7 describes the trainings of SimCLRv2, MAE and the denoiser (A.1); the momenta are in A.1.
TABLE_7: dict[str, dict[str, Any]] = {
    "teacher_image": {"optimizer": "lars", "learning_rate": 0.075, "batch": 512, "weight_decay": 1e-4, "epochs": 80},
    "teacher_patch": {
        "optimizer": "adamw",
        "learning_rate": 1.5e-4,
        "batch": 512,
        "weight_decay": 0.05,
        "epochs": 60,
        "betas": [0.9, 0.95],
    },
    "expert_pixel": {
        "optimizer": "adamw",
        "learning_rate": 1e-4,
        "batch": 512,
        "weight_decay": 0.05,
        "epochs": 30,
        "betas": [0.9, 0.99],
    },
}
WARMUP = {"teacher_image": 30, "teacher_patch": 30, "expert_pixel": 10}

TABLE_8 = {
    "SAMora": {"learning_rate": 5e-3, "batch": 32, "weight_decay": 0.1, "warmup": 25, "epochs": 20},
    "SAMora-2": {"learning_rate": 5e-3, "batch": 32, "weight_decay": 0.1, "warmup": 25, "epochs": 25},
    "H-SAMora": {"learning_rate": 2.5e-3, "batch": 32, "weight_decay": 0.1, "warmup": 25, "epochs": 30},
}


def of(settings: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in names}


@pytest.mark.parametrize("method", METHODS)
def test_table_3(method: str) -> None:
    assert preset_epochs(method) == TABLE_3[method]


@pytest.mark.parametrize("stage", TABLE_7)
def test_table_7(stage: str) -> None:
    assert of(stage_settings("SAMora", stage), TABLE_7[stage]) == TABLE_7[stage]


def test_table_7_for_the_distilled_experts() -> None:
    image, patch = (stage_settings("SAMora", f"expert_{level}") for level in ("image", "patch"))
    assert [(stage["epochs"], stage["batch"]) for stage in (image, patch)] == [(80, 512), (60, 512)]


@pytest.mark.parametrize("stage", TABLE_7)
def test_the_warmup_of_table_7_is_five_per_cent_and_literally_in_epochs(stage: str) -> None:
    usual, literal = stage_settings("SAMora", stage), stage_settings("SAMora", stage, "paper_literal")
    assert (usual["warmup"], usual["warmup_unit"]) == (0.05, "fraction")
    assert (literal["warmup"], literal["warmup_unit"]) == (WARMUP[stage], "epochs")


@pytest.mark.parametrize("level", ["image", "patch"])
def test_table_7_word_by_word_for_the_experts(level: str) -> None:
    expert = stage_settings("SAMora", f"expert_{level}", "paper_literal")
    printed = TABLE_7[f"teacher_{level}"]
    assert of(expert, printed) == printed
    assert expert["scale"] == "none"


def test_the_weights_of_a_1_word_by_word() -> None:
    assert stage_settings("SAMora", "expert_pixel")["dice"] == 0.0
    assert stage_settings("SAMora", "expert_pixel", "paper_literal")["dice"] == 0.9


@pytest.mark.parametrize("method", TABLE_8)
def test_table_8(method: str) -> None:
    assert of(stage_settings(method, "finetune"), TABLE_8[method]) == TABLE_8[method]


@pytest.mark.parametrize("method", TABLE_8)
def test_equation_9_and_11(method: str) -> None:
    finetune = stage_settings(method, "finetune")
    # Section 3.3: the loss of SAMed for SAMora and SAMora-2, that of H-SAM for H-SAMora.
    assert (finetune["cross_entropy"], finetune["dice"]) == ((0.1, 0.9) if method == "H-SAMora" else (0.2, 0.8))
    assert (finetune["schedule"], finetune["exponent"], finetune["schedule_epochs"]) == ("polynomial", 1.0, None)


def test_samora_2_differs_in_its_backbone_and_epochs_alone() -> None:
    ours, second = stage_settings("SAMora", "finetune"), stage_settings("SAMora-2", "finetune")
    assert {**ours, "epochs": 25} == second
    assert (backbone("SAMora"), backbone("SAMora-2")) == ("sam_vit_b", "sam2_hiera_b+")
    assert {name: stage_settings(name, "model")["decoder"] for name in TABLE_8} == {
        "SAMora": "samed",
        "SAMora-2": "sam2",
        "H-SAMora": "hsam",
    }
