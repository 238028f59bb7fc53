"""Each ablation preset at full size and 224 px: a step of stage 2, and two steps of every stage of the recipes.

    python -m pytest -m slow tests/trainers/test_full_size.py

All weights are random, those of the teachers too. One process, at most 16 GB.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.models.fusions import merges
from samora_pipeline.weights.sam_checkpoint import base_state
from tests.trainers.processes import exit_code, forked
from tests.trainers.runs import draw_nothing, losses
from tests.trainers.small_data import NAME, make_dataset
from tests.trainers.test_ablations import chosen, take_a_step, tiny_runs
from trainers.cli import main
from trainers.methods import VolumeNetworkSettings
from trainers.runs.naming import FAST_NAME
from trainers.stages import validate

SIZE = 224

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("full_size"), input_size=SIZE)


@pytest.mark.parametrize(("name", "trainer"), list(tiny_runs()))
def test_every_preset_takes_a_step(root: Path, name: str, trainer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merges, "EVALUATIONS", 3)
    assert chosen(name, trainer).backbone in ("sam_vit_b", "sam2_hiera_b+")
    spec = take_a_step(root, name, trainer, None)
    model = chosen(name, trainer).model
    assert not isinstance(model, VolumeNetworkSettings)
    assert spec.input_size == (model.input_size or SIZE)


# CPT and distillation, and each level by its own objective; the pixel level is the same in all recipes.
TAUGHT = ("teacher_image", "teacher_patch", "expert_image", "expert_patch", "expert_pixel")
RECIPES = [
    ("table12-full", "HSAMoraTrainer", TAUGHT),
    ("table12-full", "SAMora2Trainer", TAUGHT),
    ("table5-image-scratch", "SAMoraTrainer", ("expert_image",)),
    ("table5-patch-scratch", "SAMoraTrainer", ("expert_patch",)),
    ("table5-pixel-scratch", "SAMora2Trainer", ("expert_pixel",)),
]


def random_base(folder: Path, backbone: str) -> Path:
    """A file in the layout of the public ones, with random weights."""
    path = folder / f"{backbone}.safetensors"
    if not path.is_file():
        torch.manual_seed(0)
        decoder = BACKBONES.get(backbone).own_decoder
        save_file(
            base_state(build_network(ModelSpec(backbone, SIZE, 4, levels=(), decoder=decoder, lora_rank=4))), path
        )
    return path


@pytest.mark.parametrize(("name", "trainer", "stages"), RECIPES)
def test_every_stage_of_the_recipes_takes_two_steps(
    root: Path, name: str, trainer: str, stages: tuple[str, ...]
) -> None:
    base = random_base(root, chosen(name, trainer).backbone)
    words = ["90", trainer, "2cases", "--root", str(root), "--device", "cpu", "--debug", "--preset", name]
    words += ["--fast-dev-run", "--backbone-weights", str(base)]
    for teacher in ("teacher_image", "teacher_patch"):
        words += ["--set", f"{teacher}.weights=random"]

    def work() -> int:
        validate.write_run_report = lambda *arguments, **options: None
        draw_nothing()
        return main(words)

    assert exit_code(forked(work), seconds=7200) == 0
    results = root / "results" / NAME / FAST_NAME
    (fold,) = results.glob(f"{trainer}__*/fold_0")
    assert len(losses(fold)) == 1
    assert np.isfinite(losses(fold)).all()
    assert set(stages) <= {record.parent.name for record in results.glob("pretraining/*/*/record.json")}
