"""Whole runs of samora_train, samora_predict and samora_report on the pretended device."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from tests.no_pictures import savefig
from tests.pretend_cuda.commands import RUNS, make_data, predict, report, train, words_of
from tests.pretend_cuda.full_size import pretended
from tests.pretend_cuda.insides import around_steps, final_tensors, places_of_memory

WAITS = 2
"""of the host for the device in one step of any stage, at most"""
FAST_RUNS = ("full",)
OUT_OF_MEMORY = 6
_EXPERT = ("--recipe", "scratch", "--levels", "pixel")
_NONE = ("--recipe", "none")
# "monitor" and "compare" train the same expert, so that one of them needs a rank of its own.
MEMORY = {
    "step": _NONE,
    "weights": _NONE,
    "monitor": (*_EXPERT, "--set", "model.lora_rank=2"),
    "compare": _EXPERT,
    "prediction weights": _NONE,
}
FAST_MEMORY = ("step", "weights")


@pytest.fixture(autouse=True)
def nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretended")
    make_data(folder)
    return folder


@dataclass
class Trained:
    code: int
    text: str
    bytes_held: int
    waits: dict[str, int] = field(default_factory=dict)
    """of the last step of each stage"""
    worst: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def waits_of_steps(device: Any, seen: dict[str, Counter[str]]) -> Iterator[None]:
    earlier: Counter[str] = Counter()

    def before(step: int) -> None:
        nonlocal earlier
        earlier = device.ledger.waits.copy()

    def after(stage: str, parts: int) -> None:
        seen[stage] = device.ledger.waits - earlier

    with around_steps(before, after):
        yield


def _train(root: Path, name: str) -> Trained:
    trainer, *more = RUNS[name]
    seen: dict[str, Counter[str]] = {}
    with pretended() as device:
        with waits_of_steps(device, seen):
            code, text = train(words_of(root, name, trainer, *more))
        gc.collect()
        trained = Trained(code, text, device.bytes)
    for stage, waits in seen.items():
        trained.waits[stage] = sum(waits.values())
        trained.worst[stage] = "; ".join(f"{number} {line}" for line, number in waits.most_common(3))
    return trained


@pytest.mark.parametrize(
    "name", [name if name in FAST_RUNS else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_a_run_ends_lets_go_and_waits_seldom(name: str, root: Path) -> None:
    trained = _train(root, name)
    assert trained.code == 0, trained.text[-2000:]
    assert trained.bytes_held == 0
    assert trained.waits
    assert not {stage: trained.worst[stage] for stage, each in trained.waits.items() if each > WAITS}


def test_prediction_and_report_use_the_device(root: Path) -> None:
    (run,) = root.glob("results/*/SAMoraTrainer__2cases__full")
    (images,) = root.glob("raw/*/imagesUn")
    place = ["--root", str(root), "--device", "cuda"]
    with pretended() as device:
        everything = ["--tta", "--save-probabilities", "--save-uncertainty"]
        code, text = predict([*place, "-i", str(images), "-o", str(root / "predicted"), "-m", str(run), *everything])
        assert code == 0, text
        assert "bf16" in text
        assert device.peak > 0
        code, text = report([str(run), *place, "-o", str(root / "report.html")])
        assert code == 0, text
    assert (root / "report.html").is_file()


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_weights(root: Path) -> None:
    def end(step: int) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    finals = {}
    for name in ("whole", "cut"):
        words = words_of(root, name, "SAMedTrainer", epochs=2)
        with pretended():
            if name == "cut":
                with around_steps(end, lambda stage, parts: None):
                    assert train(words)[0] == 128 + signal.SIGTERM
                words.append("-c")
            code, text = train(words)
            assert code == 0, text
        (file,) = root.glob(f"results/*/SAMedTrainer__2cases__{name}/fold_*/checkpoint_final.safetensors")
        finals[name] = final_tensors(file)
    assert finals["whole"].keys() == finals["cut"].keys()
    assert all(torch.equal(value, finals["cut"][name]) for name, value in finals["whole"].items())


@contextlib.contextmanager
def out_of_memory(owner: Any, name: str, number: int, *, forever: bool = False) -> Iterator[None]:
    """Within the context the n-th call of a function, or every one from it on, finds no memory."""
    calls, original = count(1), getattr(owner, name)

    def full(*arguments: Any, **options: Any) -> Any:
        call = next(calls)
        if call == number or (forever and call > number):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(*arguments, **options)

    setattr(owner, name, full)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _marks(name: str) -> list[pytest.MarkDecorator]:
    return [] if name in FAST_MEMORY else [pytest.mark.slow]


@pytest.mark.parametrize("name", [pytest.param(name, marks=_marks(name)) for name in MEMORY])
def test_a_command_says_that_memory_is_out(name: str, root: Path) -> None:
    run = f"full_{name.replace(' ', '_')}"
    with pretended(), out_of_memory(*places_of_memory()[name], forever=name == "step"):
        code, text = train(words_of(root, run, "SAMoraTrainer", *MEMORY[name]))
    assert code == OUT_OF_MEMORY, text[-2000:]
    assert "E-MEM" in text


def test_a_step_that_does_not_fit_is_repeated_in_halves(root: Path) -> None:
    with pretended(), out_of_memory(*places_of_memory()["one step"]):
        code, text = train(words_of(root, "step_halves", "SAMedTrainer"))
    assert code == 0, text[-2000:]
    assert text.count("memory ran out") == 1
    (file,) = root.glob("results/*/SAMedTrainer__2cases__step_halves/fold_*/timing.json")
    assert json.loads(file.read_text())["stages"]["finetune"]["recomputed"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prediction halves its step", "decode"])
def test_a_prediction_that_does_not_fit_is_made_in_halves(name: str, root: Path) -> None:
    with pretended(), out_of_memory(*places_of_memory()[name]):
        code, text = train(words_of(root, f"halves_{name.replace(' ', '_')}", "SAMedTrainer"))
    assert code == 0, text[-2000:]
