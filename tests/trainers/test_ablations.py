"""The ablations by name: what each stands for, at full size without memory, and one step of each at tiny size.

A step of each at full size is in ``test_full_size``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from samora_pipeline.contracts.model_spec import Level, ModelSpec
from samora_pipeline.errors import UsageError
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.freezing import Part, account, freeze, parameters_by_part, snapshot, verify
from samora_pipeline.models.fusions import merges
from samora_pipeline.paths import resolve_roots
from tests.trainers.small_data import make_dataset
from trainers.cli import main
from trainers.methods import TRAINERS, ModelSettings
from trainers.runs.choices import Method, choose_method, network_spec
from trainers.runs.planning import plan_run
from trainers.runs.request import PRESETS, SHORT_NAMES, Preset, Request, resolve
from trainers.settings import FINETUNE
from trainers.stages.finetune import Finetune
from trainers.stages.labelled import LabelledTask

PAGE = Path(__file__).parents[2] / "docs" / "ablations.md"
ROWS = [(name, trainer) for name, preset in PRESETS.items() for trainer in (*preset.trainers, *preset.also)]


RELEASED = {
    "finetune.augmentation.contrast": [1.0, 1.0],
    "finetune.augmentation.brightness": [1.0, 1.0],
    "finetune.decay": "all",
    "model.input_size": 512,
}


def chosen(name: str, trainer: str, *more: str) -> Method:
    return choose_method(Request("1", trainer, "10pct", preset=name, assignments=more))


def settled(method: Method) -> tuple[object, ...]:
    """All of it but the trainer, which is made anew each time."""
    return method.recipe, method.levels, method.backbone, method.model, method.pool, method.stages, method.changes


def full_spec(method: Method) -> ModelSpec:
    spec = network_spec(method, input_size=224, channels=1, num_outputs=9)
    assert isinstance(spec, ModelSpec)
    return spec


@cache
def full_account(spec: ModelSpec, parts: frozenset[str]) -> dict[Part, tuple[int, int]]:
    with torch.device("meta"):
        network = build_network(spec)
    freeze(network, frozenset(map(Part, parts)))
    return account(network)


@pytest.mark.parametrize(("name", "trainer"), ROWS)
def test_every_preset_builds_at_full_size(name: str, trainer: str) -> None:
    method = chosen(name, trainer)
    counts = full_account(full_spec(method), frozenset(method.finetune.learns))
    assert counts[Part.BASE][0] == 0 < counts[Part.BASE][1]
    assert counts[Part.DECODER][0] > 0
    for part, (trained, frozen) in counts.items():
        assert (frozen if part in method.finetune.learns else trained) == 0
    assert isinstance(method.model, ModelSettings)
    rank = method.model.lora_rank
    per_level = 41_440 * rank if method.backbone == "sam2_hiera_b+" else 36_864 * rank
    assert sum(counts[Part.EXPERTS]) == len(method.levels) * per_level
    assert (sum(counts[Part.FUSION]) > 0) is (
        len(method.levels) > 1 and method.model.fusion.name not in ("lac", "lorahub")
    )


def test_every_table_of_ablations_is_there() -> None:
    rows = {name: preset for name, preset in PRESETS.items() if preset.table is not None}
    assert {preset.table for preset in rows.values()} == {3, 4, 5, 9, 10, 11, 12, 15}
    assert all(name.startswith(f"table{preset.table}-") for name, preset in rows.items())
    assert [*PRESETS][len(rows) :] == ["samed-released", "hsam-released"]
    assert all(trainer in TRAINERS.names() for _, trainer in ROWS)


@pytest.mark.parametrize(
    ("name", "trainer", "changes"),
    [
        ("table4-lac", "HSAMoraTrainer", {"model.fusion.name": "lac"}),
        ("table4-2-1-1", "HSAMoraTrainer", {}),
        ("table4-1-2-1", "SAMoraTrainer", {"model.fusion.order": "1-2-1"}),
        ("table5-image-nocpt", "SAMoraTrainer", {"levels": ["image"], "recipe": "nocpt"}),
        ("table5-patch-cpt", "SAMoraTrainer", {"levels": ["patch"]}),
        ("table15-pixel-scratch", "HSAMoraTrainer", {"levels": ["pixel"], "recipe": "scratch"}),
        ("table9-rank16", "SAMed2Trainer", {"model.lora_rank": 16}),
        ("table10-hcat", "HSAMoraTrainer", {"model.fusion.name": "hcat"}),
        ("table11-lorahub", "HSAMoraTrainer", {"model.fusion.name": "lorahub"}),
        ("table12-T1", "HSAMoraTrainer", {"recipe": "T1"}),
        ("table12-full", "HSAMoraTrainer", {}),
        ("table3-samed", "SAMedTrainer", {"finetune.epochs": 200}),
        ("table3-samora-2", "SAMora2Trainer", {"finetune.epochs": 20}),
        ("table3-h-samora", "HSAMoraTrainer", {}),
        ("samed-released", "SAMedTrainer", RELEASED | {"finetune.augmentation.scheme": "samed"}),
        (
            "hsam-released",
            "HSAMTrainer",
            RELEASED | {"finetune.augmentation.scheme": "hsam", "model.decoder": "hsam_released", "model.lora_rank": 5},
        ),
    ],
)
def test_a_preset_is_what_the_options_would_say(name: str, trainer: str, changes: dict[str, object]) -> None:
    assert chosen(name, trainer).changes == changes


def test_short_names_are_those_of_the_issue() -> None:
    words = ("fusion=lac", "rank=16", "levels=pixel,image", "recipe=scratch", "scope=attention")
    choices = choose_method(Request("1", "SAMoraTrainer", "10pct", assignments=words))
    model = choices.model
    assert isinstance(model, ModelSettings)
    assert (model.fusion.name, model.lora_rank, model.fusion.scope) == ("lac", 16, "attention")
    assert (choices.levels, choices.recipe) == ((Level.IMAGE, Level.PIXEL), "scratch")
    long = ("model.fusion.name=lac", "model.lora_rank=16", "model.fusion.scope=attention")
    same = Request("1", "SAMoraTrainer", "10pct", levels=("image", "pixel"), recipe="scratch", assignments=long)
    assert settled(choose_method(same)) == settled(choices)
    spellings = ("order=1-2-1", "residual=delta"), ("model.fusion.order=1-2-1", "model.fusion.residual=delta")
    brief, full = (choose_method(Request("1", "SAMoraTrainer", "10pct", assignments=said)) for said in spellings)
    assert settled(brief) == settled(full)
    assert isinstance(brief.model, ModelSettings)
    assert (brief.model.fusion.options["order"], brief.model.fusion.options["residual"]) == ("1-2-1", "delta")


def test_what_set_says_comes_after_the_preset() -> None:
    assert chosen("table4-lac", "HSAMoraTrainer", "rank=1", "fusion=mole").changes == {
        "model.fusion.name": "mole",
        "model.fusion.residual": "delta",
        "model.lora_rank": 1,
    }


@pytest.mark.parametrize("name", ["SAMoraTrainer", "HSAMoraTrainer", "SAMora2Trainer"])
def test_the_papers_models_fuse_as_equations_6_to_8_and_the_small_ones_as_measured(name: str) -> None:
    trainer = TRAINERS.get(name)()
    forms = [trainer.model_for(small=small) for small in (False, True)]
    fusions = [form.fusion for form in forms if isinstance(form, ModelSettings)]
    found = [(fusion.name, fusion.scope, fusion.options["residual"]) for fusion in fusions]
    assert found == [("hl_attn", "block", "paper"), ("hl_attn", "attention", "delta")]


@pytest.mark.parametrize(
    ("fusion", "backbone", "expected"),
    [
        ("hcat", "sam_vit_b", "paper"),
        ("hcat", "samora_tiny", "delta"),
        ("mole", "sam_vit_b", "delta"),
        ("lac", "sam_vit_b", None),
    ],
)
def test_what_fuses_step_by_step_keeps_the_residual(fusion: str, backbone: str, expected: str | None) -> None:
    request = Request("1", "SAMoraTrainer", "10pct", backbone=backbone, assignments=(f"fusion={fusion}",))
    model = choose_method(request).model
    assert isinstance(model, ModelSettings)
    assert model.fusion.options.get("residual") == expected


def test_presets_of_two_tables_are_one_run() -> None:
    four, eleven = (settled(chosen(f"table{table}-mole", "HSAMoraTrainer")) for table in (4, 11))
    assert four == eleven


@pytest.mark.parametrize(
    ("asked", "code", "expected"),
    [
        (Request("1", "SAMoraTrainer", "10pct", preset="table4-lacc"), "E-PRESET-01", "table4-lac,"),
        (Request("1", "SAMedTrainer", "10pct", preset="table4-lac"), "E-PRESET-02", "HSAMoraTrainer"),
        (Request("1", "SAMoraTrainer", "10pct", preset="table5-pixel-scratch", levels=("image",)), "E-ARG-09", ""),
        (Request("1", "SAMoraTrainer", "10pct", recipe="none", assignments=("recipe=scratch",)), "E-ARG-09", ""),
        (Request("1", "SAMoraTrainer", "10pct", assignments=("order=3-2-1",)), "E-SET-03", "2-1-1"),
        (Request("1", "SAMoraTrainer", "10pct", assignments=("fusionn=lac",)), "E-SET-01", "did you mean fusion, "),
        (Request("1", "AutoSAMTrainer", "10pct", levels=("image",)), "E-ARG-06", "no experts"),
    ],
)
def test_what_does_not_fit_is_refused(asked: Request, code: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_method(asked)
    assert caught.value.code == code
    assert expected in caught.value.expected


def test_a_trainer_of_ones_own_may_use_any_preset() -> None:
    request = Request("1", "my_package.trainers:Mine", "10pct", preset="table4-lac")
    assert resolve(request).assignments == ("model.fusion.name=lac",)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("ablations"))


def tiny_runs() -> Iterator[tuple[str, str]]:
    """The rows of the paper, one of each network: two tables have the same ones."""
    seen: list[tuple[ModelSpec, tuple[str, ...]]] = []
    for name, trainer in ((name, trainer) for name, preset in PRESETS.items() for trainer in preset.trainers):
        method = chosen(name, trainer)
        key = (full_spec(method), method.finetune.learns)
        if key not in seen:
            seen.append(key)
            yield name, trainer


@pytest.fixture
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merges, "EVALUATIONS", 3)


@pytest.mark.usefixtures("short_search")
@pytest.mark.parametrize(("name", "trainer"), list(tiny_runs()))
def test_every_preset_takes_a_step(root: Path, name: str, trainer: str) -> None:
    on_sam2 = TRAINERS.get(trainer).backbone.startswith("sam2")
    take_a_step(root, name, trainer, "samora2_tiny" if on_sam2 else "samora_tiny")


def test_samed_as_released_takes_a_step(root: Path) -> None:
    assert take_a_step(root, "samed-released", "SAMedTrainer", "samora_tiny").input_size == 512


def test_the_decoder_of_h_sams_public_code_takes_a_step(tmp_path: Path) -> None:
    """Its parameters that nothing uses are among those that learn, as in its code."""
    root = make_dataset(tmp_path, input_size=224)
    spec = take_a_step(root, None, "HSAMTrainer", "samora_tiny", "decoder=hsam_released")
    assert spec.decoder == "hsam_released"


def take_a_step(root: Path, name: str | None, trainer: str, backbone: str | None, *assignments: str) -> ModelSpec:
    """Step on a random base, with experts as if they were trained; how they are trained is tested elsewhere."""
    request = Request("90", trainer, "2cases", preset=name, backbone=backbone, assignments=assignments)
    asked = replace(resolve(request), recipe="none", backbone_weights="bootstrap")
    plan = plan_run(asked, resolve_roots(str(root)))
    stage = plan.context.stages[FINETUNE]
    assert isinstance(stage, Finetune)
    assert isinstance(plan.config.model, ModelSpec)
    settings = replace(stage.settings, batch=2, steps_per_epoch=1, epochs=1)
    network = stage.network(plan.config, replace(plan.context, base=None))
    freeze(network, frozenset(map(Part, settings.learns)))
    with torch.no_grad():
        for expert in parameters_by_part(network)[Part.EXPERTS].values():
            expert.normal_(0, 0.1)  # as after stage 1
    before = snapshot(network)
    training = LabelledTask(plan.config, settings, network, plan.context.dataset.slices, 0).training()
    training.before_epoch(0)
    (batch,) = training.batches(0)
    loss, _ = training.loss(training.load(batch, 0), 0)
    loss.backward()
    for group in training.optimizer.param_groups:
        group["lr"] = training.learning_rate(1)
    training.optimizer.step()
    verify(network, before)
    assert torch.isfinite(loss)
    return plan.config.model


def test_a_dry_run_shows_what_a_preset_stands_for(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--root", str(root), "--backbone", "samora_tiny", "--recipe", "none", "--dry-run"]
    assert main(["90", "HSAMoraTrainer", "2cases", "--preset", "table10-hcat", *words]) == 0
    shown = capsys.readouterr().out
    assert "changed   model.fusion.name = hcat" in shown
    assert '"name": "hcat"' in shown
    assert re.search(r"fusion +[\d,]+ +0\n", shown)
    assert re.search(r"base +0 +[\d,]+\n", shown)


def test_the_page_has_every_preset_with_what_it_stands_for() -> None:
    rows = dict(
        re.findall(r"^\| `(table[\w-]+|\w+-released)` \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert list(rows) == list(PRESETS)
    for name, preset in PRESETS.items():
        cells = [cell.strip() for cell in rows[name].split("|")]
        assert cells[:2] == [", ".join(preset.trainers), said(preset)], name


def said(preset: Preset) -> str:
    """A preset as options."""
    short = {full: name for name, full in SHORT_NAMES.items() if name != "input_size"}
    words = [] if preset.levels is None else [f"--levels {','.join(preset.levels)}"]
    words += [] if preset.recipe is None else [f"--recipe {preset.recipe}"]
    for assignment in preset.assignments:
        name, _, value = assignment.partition("=")
        words.append(f"--set {short.get(name, name)}={value}")
    return f"`{' '.join(words)}`" if words else "defaults"
