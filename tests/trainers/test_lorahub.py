"""LoRAHub in stage 2: kills and ranks around the search for its weights."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.trainers.runs import command, final, session, session_on_ranks
from tests.trainers.small_data import make_dataset

WORDS = ("--recipe", "none", "--set", "fusion=lorahub", "--backbone-weights", "samora_tiny", "--stage", "finetune")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("lorahub"))


def weights(root: Path, name: str) -> Tensor:
    return final(root, f"SAMoraTrainer__2cases__{name}").tensors["image_encoder.blocks.0.fusion.weights"]


@pytest.mark.parametrize("step", [2, 4])
def test_killed_before_or_after_the_search_a_run_ends_the_same(root: Path, step: int) -> None:
    if not (root / "results").is_dir():
        assert session(command(root, *WORDS, "--name", "whole")) == 0
    words = command(root, *WORDS, "--name", f"killed{step}")
    assert session(words, at=("finetune", step, signal.SIGKILL)) == -signal.SIGKILL
    assert session([*words, "-c"]) == 0
    whole, killed = (final(root, f"SAMoraTrainer__2cases__{name}").tensors for name in ("whole", f"killed{step}"))
    assert not torch.allclose(weights(root, "whole"), torch.full((3,), 1 / 3))
    assert all(torch.equal(killed[key], value) for key, value in whole.items())


@pytest.mark.slow
def test_ranks_find_the_same_weights(root: Path) -> None:
    assert session(command(root, *WORDS, "--name", "one")) == 0
    assert session_on_ranks(2, command(root, *WORDS, "--name", "two")) == [0, 0]
    torch.testing.assert_close(weights(root, "two"), weights(root, "one"))
