"""Dice over labelled slices as a table and as a figure: points with their intervals, the curve, and what is next."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from samora_pipeline.contracts.colours import BLUE, VERMILLION
from samora_pipeline.evaluation.budgets import BudgetCurve, power_law
from samora_pipeline.reporting.curves import save_figure
from samora_pipeline.reporting.text_tables import TextTable

_STEPS = 200


def budget_table(curve: BudgetCurve, more: int, warnings: tuple[str, ...]) -> TextTable:
    """The runs by their labelled slices, what the curve says there, and what ``more`` slices should bring."""
    rows = [
        (str(point.slices), point.label, _dice(point.dice, point.low, point.high), f"{curve.at(point.slices)[0]:.3f}")
        for point in curve.points
    ]
    most = curve.points[-1].slices
    rows.append((str(most + more), "predicted", "", _dice(*curve.at(most + more))))
    gain, low, high = curve.gain(more)
    notes = (
        f"Dice = {curve.a:.3f} - {curve.b:.3g} n^-{curve.c:.3g}, least squares; the points are off by "
        f"{curve.residual:.4f} (root mean square)",
        f"{more} slices more than {most} should bring {gain:+.3f} [{low:+.3f}, {high:+.3f}]",
        "[95 % bootstrap interval by patient]; other seeds and other draws of labels are not in it",
    )
    header = ("labelled slices", "run", "Dice", "curve")
    return TextTable("budgets", "Dice over labelled slices", header, tuple(rows), notes, warnings)


def draw_budgets(curve: BudgetCurve, more: int, path: Path, warnings: Sequence[str]) -> None:
    """Write the figure; the ending of ``path`` chooses the format."""
    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained", facecolor="white")
    axes = figure.subplots()
    first, last = curve.points[0].slices, curve.points[-1].slices + more
    places = np.linspace(first, last, _STEPS)
    drawn = np.array([power_law(places, *one) for one in curve.resampled])
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    axes.fill_between(places, low, high, color=BLUE, alpha=0.15, label="95 % interval of the curve")
    axes.plot(places, power_law(places, curve.a, curve.b, curve.c), color=BLUE, label="a - b n^-c")
    for point in curve.points:
        axes.plot([point.slices] * 2, [point.low, point.high], color=VERMILLION, linewidth=1)
    measured = np.array([(point.slices, point.dice) for point in curve.points])
    axes.plot(*measured.T, "o", color=VERMILLION, label="runs, 95 % interval by patient")
    axes.axvline(curve.points[-1].slices, color="grey", linestyle="dotted")
    axes.set(xlabel="labelled slices", ylabel="mean Dice", title=" | ".join(warnings))
    axes.legend(frameon=False)
    save_figure(figure, path)


def _dice(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
