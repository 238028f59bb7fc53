"""How the slices of an unlabelled pool look and how many there are: its settings, and Fed-MENU's preprocessing.

Fed-MENU (DIAL-RPI/Fed-MENU), which the paper names for its unlabelled CT, brings scans into LPS orientation, resamples
the axes that are finer than 0.8 x 0.8 x 1.5 mm to that (never the coarser ones), and scales HU from [-200, 400] to
[0, 1]. Here the store's axial slices are in that orientation already; in the plane, slices are shrunk and padded;
across it, the slices nearest to steps of 1.5 mm are taken instead of interpolated ones. What is not CT keeps the
intensity rule of its own plan: percentiles for MR.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from samora_pipeline.contracts.plans import IntensityRule, Planned, Plans
from samora_pipeline.contracts.pool import PoolIntensity
from samora_pipeline.errors import UsageError

FED_MENU_WINDOW = (-200.0, 400.0)
"""HU"""
FED_MENU_SPACING = 0.8
"""mm in the plane"""
FED_MENU_STEP = 1.5
"""mm across it"""

_WHY = "Fed-MENU"


@dataclass(frozen=True)
class PoolSettings:
    """What ``--set pool.NAME=VALUE`` changes.

    ``own``: whether the run's own scans are in it, beside the datasets of ``--unlabeled``. ``slices``: how many are
    chosen, by quota and seed (None: all that show something). ``intensity``: ``plan`` reads each dataset by its own
    plan, ``fed_menu`` see above. ``complete``: whether everything asked for must be there, the paper's datasets and
    the number of slices; without it a pool is made of what there is.

    Raises:
        UsageError: ``E-SET-04`` a number of slices that is not positive.
    """

    own: bool = True
    slices: int | None = None
    intensity: PoolIntensity = "plan"
    complete: bool = True

    def __post_init__(self) -> None:
        if self.slices is not None and self.slices <= 0:
            raise UsageError("E-SET-04", what="slices must be positive", found=str(self.slices))


# "100,000 unlabelled CT images", processed as in Fed-MENU (section 4.1).
PAPER_POOL = PoolSettings(slices=100_000, intensity="fed_menu")


def pool_plans(plans: Plans, own: Plans, intensity: PoolIntensity, *, spacing_known: bool) -> Plans:
    """The plan by which a dataset's slices come into a pool: its own, at the sizes of the run's dataset ``own``."""
    plans = replace(plans, slice_size=own.slice_size, input_size=own.input_size)
    if intensity == "plan":
        return plans
    window = IntensityRule("window", *FED_MENU_WINDOW)
    rules = tuple(
        window if name.strip().lower() == "ct" else rule
        for name, rule in zip(plans.channel_names, plans.intensity.value, strict=True)
    )
    return replace(
        plans,
        in_plane=Planned("shrink_and_pad", _WHY),
        in_plane_spacing=Planned(FED_MENU_SPACING if spacing_known else None, _WHY),
        intensity=Planned(rules, _WHY),
    )


def slice_step(intensity: PoolIntensity, *, spacing_known: bool) -> float | None:
    """The distance in mm that finer slices are thinned to, or None."""
    return FED_MENU_STEP if intensity == "fed_menu" and spacing_known else None
