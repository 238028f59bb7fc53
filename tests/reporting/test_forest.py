"""The forest plot: a mark per run and organ at the difference, its interval, and all that must be said in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from samora_pipeline.evaluation.comparison import PairedTable, Variant, compare
from samora_pipeline.evaluation.run_scores import read_run
from samora_pipeline.reporting.forest import draw_forest, forest_figure
from tests.fake_run import random_dice, write_scored_run


def compared(tmp_path: Path, cases: int = 12) -> PairedTable:
    variants = []
    for seed in range(3):
        dice = random_dice(seed, cases, shift=0.02 * seed)
        run = read_run(str(write_scored_run(tmp_path, dice, name=f"r{seed}")), tmp_path)
        variants.append(Variant(run.label, (run,)))
    return compare(variants, variants[0], "physical")[0]


def texts(figure: Figure) -> str:
    own = [text.get_text() for axes in figure.axes for text in (*axes.texts, axes.xaxis.label, *axes.get_yticklabels())]
    legend = [text.get_text() for one in figure.legends for text in one.get_texts()]
    return "\n".join([figure.get_suptitle(), *own, *legend])


def test_each_row_has_a_mark_at_its_difference_and_its_interval(tmp_path: Path) -> None:
    table = compared(tmp_path)
    axes = forest_figure(table).axes[0]
    marks = [np.asarray(line.get_xdata()) for line in axes.lines]
    drawn = {(round(float(mark[0]), 9), len(mark)) for mark in marks if len(mark)}
    for row in (*table.overall, *table.organs):
        if row.test.interval is None or row.test.difference is None:
            pytest.fail("there are twelve patients")
        assert (round(row.test.difference, 9), 1) in drawn
        assert (round(row.test.interval.low, 9), 2) in drawn
    low, high = axes.get_xlim()
    assert low == -high


def test_words_say_n_direction_baseline_and_flags(tmp_path: Path) -> None:
    table = compared(tmp_path, cases=6)
    said = texts(forest_figure(table, ("PHANTOM",)))
    assert said.startswith("*** PHANTOM ***")
    assert "difference from SAMoraTrainer__10pct__r0" in said
    assert "n = 6 patients cannot support a ranking" in said
    assert "run better →" in said
    assert "mean over organs" in said
    assert f"{table.overall[0].test.difference:+.3f}" in said
    assert "SAMoraTrainer__10pct__r2" in said
    assert "cannot support" not in texts(forest_figure(compared(tmp_path / "more")))


def test_runs_differ_in_colour_and_in_mark(tmp_path: Path) -> None:
    axes = forest_figure(compared(tmp_path)).axes[0]
    marks = {(line.get_marker(), line.get_color()) for line in axes.lines if line.get_marker() not in ("None", "|")}
    assert len({mark for mark, _ in marks}) == len({colour for _, colour in marks}) == 2


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_file_is_written_and_leaves_nothing_else(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "plots" / f"forest.{ending}"
    draw_forest(compared(tmp_path), path, ("PHANTOM",))
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert path.stat().st_size > 2000


def test_equal_runs_are_drawn_at_zero(tmp_path: Path) -> None:
    variants = []
    for place in "ab":
        run = read_run(str(write_scored_run(tmp_path / place, random_dice(1), name=place)), tmp_path)
        variants.append(Variant(run.label, (run,)))
    figure = forest_figure(compare(variants, variants[0], "physical")[0])
    assert "[0.000, 0.000]" in texts(figure)
