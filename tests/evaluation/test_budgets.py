"""The curve over numbers of labels: known curves are found, held-out points predicted, and runs read as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from samora_pipeline.contracts.splits import Selection
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.evaluation.budgets import BudgetCurve, fit_budgets, fit_power_law, power_law
from samora_pipeline.evaluation.run_scores import read_run
from samora_pipeline.reporting import compare_cli
from tests.fake_run import write_scored_run

BUDGETS = (30, 60, 120, 240, 480)
TRUE = (0.9, 1.2, 0.5)
SLICES = np.array(BUDGETS, dtype=float)


def write_runs(results: Path, spread: float, budgets: tuple[int, ...] = BUDGETS) -> list[str]:
    """Runs whose mean Dice follows the law, with patients that differ by the same amounts in all of them."""
    offsets = np.linspace(-spread, spread, 8)
    for count in budgets:
        mean = power_law(np.array([float(count)]), *TRUE)[0]
        dice = {f"case_{i}": (mean + offset, mean + offset) for i, offset in enumerate(offsets)}
        split = f"{count}slices"
        chosen = Selection(split, "official", "slices", 0, False, ("case_x",), {"case_x": tuple(range(count))})
        write_scored_run(results, dice, split=split, selection=chosen)
    return [f"Dataset001_Synapse/SAMoraTrainer__{count}slices__default" for count in budgets]


def curve_of(root: Path, names: list[str]) -> BudgetCurve:
    return fit_budgets([read_run(name, root / "results") for name in names], root / "preprocessed")


@pytest.mark.parametrize("true", [TRUE, (0.95, 3.0, 0.8), (0.8, 0.5, 0.3)])
def test_a_known_curve_is_found(true: tuple[float, float, float]) -> None:
    assert fit_power_law(SLICES, power_law(SLICES, *true)) == pytest.approx(true, rel=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_search_finds_a_smaller_sum_of_squares(seed: int) -> None:
    noisy = power_law(SLICES, *TRUE) + np.random.default_rng(seed).normal(0, 0.01, len(SLICES))

    def loss(x: np.ndarray) -> float:
        return float(np.square(power_law(SLICES, *x) - noisy).sum())

    bounds = [(1e-6, 1), (0, 1e3), (0.05, 3)]
    starts = [(0.9, 1.0, 0.5), (0.8, 0.4, 0.2), (0.95, 3.0, 1.0), (1.0, 0.8, 0.1)]
    best = min(
        minimize(loss, start, bounds=bounds, method="Nelder-Mead", options={"maxiter": 4000}).fun for start in starts
    )
    assert loss(np.array(fit_power_law(SLICES, noisy))) <= best * 1.01 + 1e-9


def test_points_that_were_held_out_are_predicted(tmp_path: Path) -> None:
    names = write_runs(tmp_path / "results", 0.05)
    curve = curve_of(tmp_path, names[:4])
    assert [point.slices for point in curve.points] == list(BUDGETS[:4])
    value, low, high = curve.at(480)
    truth = power_law(np.array([480.0]), *TRUE)[0]
    assert value == pytest.approx(truth, abs=0.003)
    assert low <= truth <= high
    gain, under, over = curve.gain(240)
    assert gain == pytest.approx(truth - power_law(np.array([240.0]), *TRUE)[0], abs=0.003)
    assert under - 1e-9 <= gain <= over + 1e-9
    # The same patients are drawn for all runs: what patients differ by is not in the gain.
    assert over - under < 0.2 * (high - low)


def test_intervals_of_points_are_those_of_a_plain_bootstrap(tmp_path: Path) -> None:
    curve = curve_of(tmp_path, write_runs(tmp_path / "results", 0.05))
    generator = np.random.default_rng(7)
    offsets = np.linspace(-0.05, 0.05, 8)
    means = [generator.choice(offsets, 8).mean() for _ in range(4000)]
    for point in curve.points:
        assert point.low - point.dice == pytest.approx(np.percentile(means, 2.5), abs=0.005)
        assert point.high - point.dice == pytest.approx(np.percentile(means, 97.5), abs=0.005)


def test_too_few_budgets_and_uncounted_slices_are_refused(tmp_path: Path) -> None:
    names = write_runs(tmp_path / "results", 0.05)
    with pytest.raises(DataError, match="E-CMP-06"):
        curve_of(tmp_path, [*names[:3], names[0]])
    write_scored_run(tmp_path / "results", {f"case_{i}": (0.8, 0.8) for i in range(8)}, split="full")
    with pytest.raises(DataError, match="E-CMP-07"):
        curve_of(tmp_path, [*names, "Dataset001_Synapse/SAMoraTrainer__full__default"])


def test_the_command_prints_and_writes_the_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_runs(tmp_path / "results", 0.05)
    words = ["--budgets", *names, "--root", str(tmp_path), "--next", "240", "-o", str(tmp_path / "out")]
    assert compare_cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "720" in printed
    for count in BUDGETS:
        assert f"{power_law(np.array([float(count)]), *TRUE)[0]:.3f}" in printed
    assert (tmp_path / "out" / "budgets.png").stat().st_size > 10_000
    assert "240 slices more than 480" in (tmp_path / "out" / "budgets.md").read_text()
    arguments = compare_cli.build_parser().parse_args(["--budgets", *names, "--next", "0"])
    with pytest.raises(UsageError, match="E-CMP-08"):
        compare_cli.compare_runs(arguments)
