"""Scans that a run would learn from although they show what it is scored on: found, taken out or let in by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from samora_pipeline.contracts.leakage import Leak
from samora_pipeline.errors import DataError

_SHOWN = 10


@dataclass(frozen=True)
class LeakReport:
    """All leaks of a run: those taken out, those let in by name, and those that nothing was said about."""

    excluded: tuple[Leak, ...] = ()
    allowed: tuple[Leak, ...] = ()
    unsettled: tuple[Leak, ...] = ()

    def require_settled(self) -> None:
        """Refuse to go on with leaks that nothing was said about.

        Raises:
            DataError: ``E-LEAK-01`` a training case shows a patient, ``E-LEAK-02`` a scan that is scored;
                ``E-LEAK-03`` such a scan is in the unlabelled pool.
        """
        if self.unsettled:
            raise _error(self.unsettled)


def settle(leaks: Iterable[Leak], *, exclude: bool, allow: Collection[str]) -> LeakReport:
    """Sort leaks by what was asked for; a case that is allowed by name is not taken out."""
    every = tuple({leak.case: leak for leak in leaks}.values())
    allowed = tuple(leak for leak in every if leak.case in allow)
    rest = tuple(leak for leak in every if leak.case not in allow)
    return LeakReport(rest, allowed, ()) if exclude else LeakReport((), allowed, rest)


def names(leaks: Iterable[Leak]) -> tuple[str, ...]:
    """The cases of leaks, sorted."""
    return tuple(sorted(leak.case for leak in leaks))


def _error(leaks: tuple[Leak, ...]) -> DataError:
    training = [leak for leak in leaks if leak.place == "training"]
    if not training:
        code, what = "E-LEAK-03", f"{len(leaks)} scans of the unlabelled pool are scans that are scored or tested on"
    elif any(leak.reason == "voxels" for leak in training):
        code, what = "E-LEAK-02", f"{len(training)} training cases show what is scored or tested on"
    else:
        code, what = "E-LEAK-01", f"{len(training)} training cases are of patients that are scored or tested on"
    shown = "; ".join(leak.text for leak in leaks[:_SHOWN])
    more = f"; and {len(leaks) - _SHOWN} more" if len(leaks) > _SHOWN else ""
    few = " ".join(names(leaks)) if len(leaks) <= _SHOWN else "CASE ..."
    return DataError(
        code,
        what,
        found=shown + more,
        expected="nothing that is scored or tested on, under any name, among what is learned from",
        fix="the same command with --exclude-leaks, which takes them out"
        f"\n       or with --allow-leak {few}, which lets them in and marks every report LEAKY",
    )
