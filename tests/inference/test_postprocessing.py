"""Components against a flood fill, and the choice against a literal restatement of its rule."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from samora_pipeline.contracts.json_io import read_json, sealed, write_json
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.postprocessing import POSTPROCESSING_FILE, PostProcessing, Step, read_steps
from samora_pipeline.errors import DataError
from samora_pipeline.inference.postprocessing import FOREGROUND, apply_steps, choose, keep_largest

Labels = npt.NDArray[np.uint8]
TWO = LabelScheme({"a": (1,), "b": (2,)})
NESTED = LabelScheme({"whole": (1, 2), "core": (2,)}, region_order=(1, 2))


def flood_fill(labels: Labels, values: tuple[int, ...]) -> Labels:
    """Components by walking from voxel to voxel; the largest stay."""
    left = {tuple(int(i) for i in index) for index in np.argwhere(np.isin(labels, values))}
    components = []
    while left:
        waiting, component = [left.pop()], []
        while waiting:
            voxel = waiting.pop()
            component.append(voxel)
            for step in itertools.product((-1, 0, 1), repeat=3):
                neighbour = tuple(v + s for v, s in zip(voxel, step, strict=True))
                if neighbour in left:
                    left.remove(neighbour)
                    waiting.append(neighbour)
        components.append(component)
    result = labels.copy()
    largest = max((len(component) for component in components), default=0)
    for component in components:
        if len(component) < largest:
            for voxel in component:
                result[voxel] = 0
    return result


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("values", [(1,), (2,), (1, 2), (3,)])
def test_the_largest_component_stays(seed: int, values: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 1, 2], np.uint8), (7, 9, 6), p=(0.9, 0.06, 0.04))
    before = labels.copy()
    found = keep_largest(labels, values)
    assert np.array_equal(found, flood_fill(labels, values))
    assert np.array_equal(labels, before)
    assert np.array_equal(keep_largest(labels.transpose(2, 0, 1)[::-1], values), found.transpose(2, 0, 1)[::-1])


def dice(truth: Labels, guess: Labels, values: tuple[int, ...]) -> float | None:
    one, other = np.isin(truth, values), np.isin(guess, values)
    return float(2 * (one & other).sum() / (one.sum() + other.sum())) if one.any() else None


def restated(cases: list[tuple[str, Labels, Labels]], scheme: LabelScheme) -> list[str]:
    """The names of the steps that the rule keeps."""

    def means(predictions: list[Labels]) -> dict[str, float]:
        table = {}
        for name, values in scheme.foreground:
            scores = [dice(case[1], guess, values) for case, guess in zip(cases, predictions, strict=True)]
            known = [score for score in scores if score is not None]
            if known:
                table[name] = float(np.mean(known))
        return table

    current = [guess for _, _, guess in cases]
    kept = []
    everything = tuple(sorted({v for _, values in scheme.foreground for v in values}))
    for name, values in [(FOREGROUND, everything), *scheme.foreground]:
        trial = [flood_fill(guess, values) for guess in current]
        old, new = means(current), means(trial)
        if np.mean(list(new.values())) > np.mean(list(old.values())) + 1e-12 and all(new[k] >= old[k] for k in old):
            current = trial
            kept.append(name)
    return kept


def random_case(rng: np.random.Generator, name: str) -> tuple[str, Labels, Labels]:
    """Two blocks as truth; the prediction has islands of either label, and sometimes two parts of one organ."""
    truth = np.zeros((12, 10, 8), np.uint8)
    truth[1:5, 1:6, 1:5], truth[7:11, 2:8, 2:6] = 1, 2
    if rng.random() < 0.4:
        truth[9:11, 8:10, 6:8] = 1
    guess = truth.copy()
    for _ in range(int(rng.integers(0, 4))):
        x, y, z = (int(rng.integers(0, size)) for size in truth.shape)
        guess[x, y, z] = rng.integers(1, 3)
    if rng.random() < 0.3:
        guess[9:11] = 0
    return name, truth, guess


@pytest.mark.parametrize("scheme", [TWO, NESTED])
@pytest.mark.parametrize("seed", range(12))
def test_a_step_is_kept_where_the_mean_rises_and_no_label_falls(seed: int, scheme: LabelScheme) -> None:
    rng = np.random.default_rng(seed)
    cases = [random_case(rng, f"case{number}") for number in range(3)]
    chosen = choose(cases, scheme)
    assert [step.name for step in chosen.kept] == restated(cases, scheme)
    assert chosen.held_out == ("case0", "case1", "case2")
    for step in chosen.kept:
        assert all(step.after[name] >= step.before[name] for name in step.before)


def test_both_answers_occur() -> None:
    """The seeds above are no test if every case is decided alike."""
    decided = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        decided.add(tuple(step.kept for step in choose([random_case(rng, f"{i}") for i in range(3)], TWO).steps))
    assert len(decided) >= 3


def test_an_organ_in_two_parts_keeps_them() -> None:
    truth = np.zeros((9, 5, 5), np.uint8)
    truth[0:3], truth[5:8] = 1, 1
    assert not choose([("lungs", truth, truth.copy())], LabelScheme({"lung": (1,)})).kept


def test_ignored_voxels_do_not_count() -> None:
    scheme = LabelScheme({"a": (1,)}, ignore=9)
    truth = np.zeros((9, 4, 4), np.uint8)
    truth[0:4], truth[7:] = 1, 9
    guess = np.where(truth == 9, np.uint8(1), truth).astype(np.uint8)
    assert not choose([("case", truth, guess)], scheme).kept
    truth[7:] = 0
    assert [step.name for step in choose([("case", truth, guess)], scheme).kept] == [FOREGROUND]


def test_without_held_out_cases_nothing_is_tried() -> None:
    assert choose([], TWO) == PostProcessing((), ())


def test_an_ensemble_applies_what_all_folds_chose(tmp_path: Path) -> None:
    def step(name: str, value: int, kept: bool = True) -> Step:
        return Step(name, (value,), kept, {"a": 0.5}, {"a": 0.6})

    folds = [tmp_path / f"fold_{number}" for number in range(3)]
    write_json(PostProcessing(("x",), (step("a", 1), step("b", 2))), folds[0] / POSTPROCESSING_FILE)
    write_json(PostProcessing(("y",), (step("b", 2), step("a", 1, False))), folds[1] / POSTPROCESSING_FILE)
    assert read_json(PostProcessing, folds[0] / POSTPROCESSING_FILE).kept[0].name == "a"
    assert [one.name for one in read_steps(folds[:1])] == ["a", "b"]
    assert [one.name for one in read_steps(folds[:2])] == ["b"]
    assert read_steps(folds) == ()
    labels = np.array([[[1, 1, 0, 2, 0, 2, 2, 0, 1]]], np.uint8)
    assert apply_steps(labels, read_steps(folds[:1])).ravel().tolist() == [1, 1, 0, 0, 0, 2, 2, 0, 0]


def test_a_choice_that_was_edited_is_refused(tmp_path: Path) -> None:
    path = tmp_path / POSTPROCESSING_FILE
    write_json(sealed(PostProcessing(("x",), (Step("a", (1,), True, {"a": 0.5}, {"a": 0.6}),))), path)
    assert [step.name for step in read_steps([tmp_path])] == ["a"]
    path.write_text(path.read_text().replace("true", "false"))
    with pytest.raises(DataError) as refused:
        read_steps([tmp_path])
    assert refused.value.code == "E-RUN-07"
