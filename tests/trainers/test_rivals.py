"""Networks of others as trainers: they start from public files, and refuse these before anything slow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samora_pipeline.errors import SamoraError
from samora_pipeline.models.module import ModuleNetwork
from samora_pipeline.models.transunet import TransUNet
from samora_pipeline.paths import resolve_roots
from tests.trainers.runs import final, session, short
from tests.trainers.small_data import make_dataset
from tests.weights.test_hybrid_checkpoint import DEPTHS, HEADS, HIDDEN, LAYERS, WIDTH, public_arrays, write
from trainers.runs.planning import PlannedRun, plan_run
from trainers.runs.request import Request
from trainers.settings import FINETUNE
from trainers.stages.public_start import FinetunePublicStart

DEPTH = ",".join(map(str, DEPTHS))
OPTIONS = (
    *(f"model.depths={DEPTH}", f"model.width={WIDTH}", f"model.heads={HEADS}"),
    *(f"model.layers={LAYERS}", f"model.hidden={HIDDEN}"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("rivals"))


def planned(root: Path, *assignments: str) -> PlannedRun:
    request = Request("90", "TransUNetTrainer", "2cases", assignments=(*OPTIONS, *assignments))
    return plan_run(request, resolve_roots(str(root)))


def test_the_encoder_starts_from_the_file(root: Path, tmp_path: Path) -> None:
    arrays = public_arrays(3)
    path = write(tmp_path / "public.npz", arrays)
    plan = planned(root, f"finetune.weights={path}")
    stage = plan.context.stages[FINETUNE]
    assert isinstance(stage, FinetunePublicStart)
    network: Any = stage.network(plan.config, plan.context)
    assert isinstance(network, ModuleNetwork)
    assert isinstance(network.module, TransUNet)
    weight = network.module.resnet.root.weight.detach().numpy()
    assert np.array_equal(weight, arrays["conv_root/kernel"].transpose(3, 2, 0, 1))


def test_a_file_that_is_not_there_is_refused_at_planning(root: Path) -> None:
    plan = planned(root, "finetune.weights=nowhere.npz")
    with pytest.raises(SamoraError, match="E-WEIGHT-05"):
        plan.context.stages[FINETUNE].build(plan.config, plan.context)


def test_a_run_from_a_file_trains(root: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "public.npz", public_arrays())
    words = [word for one in (*OPTIONS, f"finetune.weights={path}") for word in ("--set", one)]
    command = ["90", "TransUNetTrainer", "2cases", "--root", str(root), "--device", "cpu", "--name", "start"]
    assert session([*command, *words, *short("finetune")]) == 0
    trained = final(root, "TransUNetTrainer__2cases__start").tensors
    assert trained["module.head.weight"].shape == (3, 16, 3, 3)
