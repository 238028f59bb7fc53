import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planners.experiment_planner import ExperimentPlanner
from samora_pipeline.contracts.dataset import DatasetJson, PublishedBudget, PublishedSplit, RawDataset, SamoraJson
from samora_pipeline.contracts.fingerprint import CaseFingerprint, Fingerprint, IntensityStats, Subset
from samora_pipeline.contracts.plans import IntensityRule, Planned
from samora_pipeline.errors import DataError, UsageError

STATS = IntensityStats(50.0, 20.0, -1000.0, 2000.0, -150.0, 60.0, 300.0)
WHOLE = IntensityStats(-500.0, 300.0, -1024.0, 3000.0, -1000.0, -700.0, 400.0)
Spacing = tuple[float, float, float]


def case(
    spacing: Spacing = (1.0, 1.0, 5.0),
    shape: tuple[int, int, int] = (256, 256, 40),
    axes: str = "LPS",
    subset: Subset = "train",
    channels: int = 1,
) -> CaseFingerprint:
    digest = None if subset == "unlabelled" else "label"
    return CaseFingerprint(
        subset, shape, spacing, axes, ("image",) * channels, digest, (WHOLE,) * channels, (STATS,) * channels, ()
    )


def planner(
    cases: dict[str, CaseFingerprint] | None = None,
    channels: tuple[str, ...] = ("CT",),
    labels: tuple[str, ...] = ("organ",),
    overrides: dict[str, str] | None = None,
    pooled: IntensityStats | None = STATS,
    edited: dict[str, Any] | None = None,
    **ours: Any,
) -> ExperimentPlanner:
    description = DatasetJson(
        {str(index): name for index, name in enumerate(channels)},
        {"background": 0, **{name: value for value, name in enumerate(labels, start=1)}},
        4,
        ".nii.gz",
    )
    fingerprint = Fingerprint(
        dataset="Dataset007_Boxes",
        cases=cases or {f"case_{index}": case(channels=len(channels)) for index in range(4)},
        foreground=(pooled,) * len(channels),
    )
    dataset = RawDataset(Path("raw"), description, SamoraJson(**ours))
    return ExperimentPlanner(dataset, fingerprint, overrides or {}, edited or {})


def test_the_default_plan() -> None:
    plans = planner().plan()
    assert plans.slice_axis.value == "axial"
    assert (plans.in_plane.value, plans.in_plane_spacing.value) == ("resize", None)
    assert (plans.slice_size.value, plans.input_size.value) == (None, None)
    assert plans.channels.value == "repeat"
    assert plans.intensity.value == (IntensityRule("window", -150.0, 300.0),)
    assert plans.mirror.value is True
    assert len(plans.planned) == 8
    assert all(planned.why for planned in plans.planned.values())
    assert (plans.overrides, plans.edited) == ({}, {})


@pytest.mark.parametrize(
    ("spacing", "axes", "expected"),
    [
        ((1.0, 1.0, 5.0), "LPS", "axial"),
        ((1.0, 5.0, 1.0), "LPS", "coronal"),
        ((1.0, 1.0, 5.0), "RSA", "coronal"),
        ((1.0, 1.0, 5.0), "ASL", "sagittal"),
        ((1.0, 1.0, 1.0), "LPS", "axial"),
        ((1.0, 1.4, 1.0), "LPS", "axial"),
        ((1.0, 1.6, 1.0), "LPS", "coronal"),
        ((1.0, 3.0, 2.5), "LPS", "axial"),
    ],
)
def test_slices_lie_across_the_coarse_axis(spacing: Spacing, axes: str, expected: str) -> None:
    planned = planner({f"case_{index}": case(spacing, axes=axes) for index in range(3)}).plan().slice_axis
    assert planned.value == expected
    assert "mm" in planned.why


def test_fields_of_view_that_differ_are_resampled() -> None:
    small, large = case((1.0, 1.0, 5.0), (200, 180, 40)), case((2.0, 2.0, 5.0), (200, 220, 40))
    plans = planner({"small": small, "large": large}).plan()
    assert plans.in_plane.value == "resample_and_pad"
    assert "180 to 440 mm, a ratio of 2.44" in plans.in_plane.why
    assert (plans.slice_size.value, plans.in_plane_spacing.value) == (224, round(440 / 224, 4))
    preferred = planner({"small": small, "large": large}, overrides={"input_size": "512"}).plan()
    assert (preferred.slice_size.value, preferred.in_plane_spacing.value) == (512, 1.0)
    fine = planner({"small": case((1.0, 1.0, 5.0), (20, 20, 40)), "large": case((1.0, 1.0, 5.0), (60, 60, 40))}).plan()
    assert fine.in_plane_spacing.value == 1.0
    similar = planner({"a": case(), "b": case((1.9, 1.9, 5.0))}).plan()
    assert similar.in_plane.value == "resize"


def test_nothing_is_decided_on_published_test_cases_or_on_unknown_spacing() -> None:
    cases = {"a": case(), "b": case((1.0, 9.0, 1.0), (900, 900, 9))}
    split = PublishedSplit(("a",), ("b",))
    assert planner(cases, published_split=split).plan().slice_axis.value == "axial"
    assert planner({"a": case(), "b": case((1, 9, 1), (900, 900, 9), subset="test")}).plan().in_plane.value == "resize"
    unknown = planner({"b": case((1.0, 9.0, 1.0))}, spacing_known=False).plan()
    assert (unknown.slice_axis.value, unknown.in_plane.value) == ("axial", "resize")
    assert "not known" in unknown.slice_axis.why


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(
            (name, "percentiles")
            for name in ("MR", "mri", "T1", "T2", "T1w", "T2w", "FLAIR", "LGE", "ADC", "zscore", "T1gd")
        ),
        *((name, "range") for name in ("noNorm", "rescale_to_0_1")),
    ],
)
def test_channel_names_as_in_nnunet(name: str, expected: str) -> None:
    assert planner(channels=(name,)).plan().intensity.value == (IntensityRule(expected),)


def test_ct_takes_the_published_window_then_the_foreground_then_whole_volumes() -> None:
    assert planner(window=(-125.0, 275.0)).plan().intensity.value == (IntensityRule("window", -125.0, 275.0),)
    assert planner().plan().intensity.value == (IntensityRule("window", -150.0, 300.0),)
    unlabelled = planner({"a": case(subset="unlabelled")}, pooled=None).plan().intensity
    assert unlabelled.value == (IntensityRule("window", -1000.0, 400.0),)
    assert "no labels" in unlabelled.why


def test_channels() -> None:
    assert planner(channels=("R", "G", "B")).plan().intensity.value == (IntensityRule("window", 0.0, 255.0),) * 3
    assert planner(channels=("R", "G", "B")).plan().channels.value == "as_is"
    assert planner(channels=("T1", "T2")).plan().channels.value == "adapter"


@pytest.mark.parametrize("name", ["PET", "CTA", "contrast", ""])
def test_a_name_that_says_nothing_is_never_a_silent_default(name: str) -> None:
    with pytest.raises(DataError, match=r"(?s)E-CHAN-03.*--set intensity.1=percentiles"):
        planner(channels=("CT", name)).plan()
    plans = planner(channels=("CT", name), overrides={"intensity.1": "window:-3,8.5"}).plan()
    assert plans.intensity.value[1] == IntensityRule("window", -3.0, 8.5)
    assert "set by --set intensity.1=window:-3,8.5" in plans.intensity.why


@pytest.mark.parametrize(
    ("labels", "mirror"),
    [
        (("left kidney", "right kidney"), False),
        (("rightparotid", "leftparotid", "mandible"), False),
        (("Lung_L", "Lung_R"), False),
        (("l_femur", "r_femur"), False),
        (("LeftLung", "RightLung"), False),
        (("LV", "RV", "myocardium"), False),
        (("kidney-rt", "kidney-lt"), False),
        (("liver", "spleen"), True),
        (("left atrium",), True),
        (("cleft", "bright"), True),
        (("liver", "river"), True),
        (("l", "tumor"), True),
        (("aorta", "gallbladder", "kidney(L)", "kidney(R)"), False),
        (("Anterior", "Posterior"), False),
    ],
)
def test_flips_are_off_where_labels_tell_a_direction_from_its_opposite(labels: tuple[str, ...], mirror: bool) -> None:
    planned = planner(labels=labels).plan().mirror
    assert planned.value is mirror
    assert mirror or labels[0] in planned.why or labels[2] in planned.why
    assert planner(labels=labels, mirror=True).plan().mirror.value is True


def test_any_value_can_be_set_and_its_reason_says_so() -> None:
    overrides = {
        "slice_axis": "sagittal",
        "in_plane": "resample_and_pad",
        "in_plane_spacing": "1.25",
        "slice_size": "256",
        "input_size": "512",
        "mirror": "false",
        "intensity.0": "range",
    }
    plans = planner(overrides=overrides).plan()
    assert (plans.slice_axis.value, plans.in_plane.value, plans.in_plane_spacing.value) == (
        "sagittal",
        "resample_and_pad",
        1.25,
    )
    assert (plans.slice_size.value, plans.input_size.value) == (256, 512)
    assert (plans.mirror.value, plans.intensity.value) == (False, (IntensityRule("range"),))
    for key, text in overrides.items():
        assert f"set by --set {key}={text}" in getattr(plans, key.partition(".")[0]).why
    assert plans.overrides == overrides
    assert planner(overrides={"input_size": "512"}).plan().slice_size.value is None


def test_what_was_edited_by_hand_wins_and_other_values_follow_from_it() -> None:
    edited = {"slice_axis": "coronal", "in_plane": "resample_and_pad", "intensity.0": IntensityRule("range")}
    own = planner(overrides={"slice_axis": "sagittal"}, edited=edited)
    plans = own.plan()
    assert (plans.slice_axis.value, plans.in_plane.value) == ("coronal", "resample_and_pad")
    assert plans.in_plane_spacing.value == max(round(256 / 224, 4), 1.0)
    assert own.notes[0] == "edited by hand: slice_axis sagittal -> coronal"
    assert own.notes[2] == "edited by hand: intensity.0 window -150 to 300 -> range"
    assert plans.edited == edited
    assert planner(edited={"slice_axis": "axial"}).plan().edited == {}


def test_an_edit_is_seen_by_the_digests_of_what_was_decided() -> None:
    plans = planner(channels=("CT", "MR")).plan()
    rules = (plans.intensity.value[0], IntensityRule("range"))
    changed = dataclasses.replace(
        plans, mirror=Planned(False, ""), channels=Planned("adapter", "said otherwise"), intensity=Planned(rules, "")
    )
    assert changed.edited == {"mirror": False, "intensity.1": IntensityRule("range")}


@pytest.mark.parametrize(
    ("key", "text", "code"),
    [
        ("imput_size", "224", "E-SET-01.*did you mean input_size"),
        ("intensity.1", "range", "E-SET-01"),
        ("channels", "repeat", "E-SET-01"),
        ("input_size", "225", "E-SET-02"),
        ("input_size", "0", "E-SET-02"),
        ("slice_axis", "diagonal", "E-SET-03.*axial.*coronal.*sagittal"),
        ("in_plane_spacing", "-1", "E-SET-02"),
        ("in_plane_spacing", "1.0", "E-SET-02.*resample_and_pad"),
        ("batch_size", "2", "E-SET-01"),
        ("slice_size", "32.5", "E-SET-03"),
        ("mirror", "perhaps", "E-SET-03"),
        ("intensity.0", "window:5,5", "E-SET-02"),
        ("intensity.0", "window", "E-SET-02"),
        ("intensity.0", "range:1,2", "E-SET-02"),
        ("intensity.0", "percentile", "E-NAME-01.*did you mean percentiles"),
    ],
)
def test_wrong_settings_are_refused(key: str, text: str, code: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){code}"):
        planner(overrides={key: text}).plan()


def test_a_planning_rule_is_one_subclass() -> None:
    class Larger(ExperimentPlanner):
        def input_size(self) -> Planned[int | None]:
            spacing = np.median([self._spacing(case, "axial")[1] for case in self.cases])
            return Planned(512, f"{spacing:g} mm pixels need more room")

    base = planner()
    plans = Larger(base.dataset, base.fingerprint, {}, {}).plan()
    assert (plans.input_size.value, plans.slice_size.value) == (512, None)


@pytest.mark.parametrize("axis", ["coronal", "sagittal"])
def test_published_slices_are_not_read_along_another_axis(axis: str) -> None:
    slices = {"10pct": PublishedBudget("slices", ("case_0",), {"case_0": (1, 2)})}
    with pytest.raises(DataError, match=f"(?s)E-SPLIT-09.*10pct.*slice_axis={axis}.*axial slices"):
        planner(overrides={"slice_axis": axis}, budgets=slices).plan()
    assert planner(overrides={"slice_axis": "axial"}, budgets=slices).plan().slice_axis.value == "axial"
    cases = {"10pct": PublishedBudget("cases", ("case_0",))}
    assert planner(overrides={"slice_axis": axis}, budgets=cases).plan().slice_axis.value == axis
