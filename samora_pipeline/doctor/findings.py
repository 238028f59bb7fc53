"""What a probe of ``samora_doctor`` finds, and how one that fails itself is kept from stopping the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from samora_pipeline.errors import DataError, ResourceError

Status = Literal["ok", "warn", "fail"]

CONTRACT = DataError.exit_code
"""exit code of what is set up wrongly"""
RESOURCES = ResourceError.exit_code
"""exit code of what the machine does not have"""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found and, unless that is fine, how it is mended.

    ``exit_code`` is that of the whole command when ``status`` is ``fail``.
    """

    name: str
    status: Status
    value: str
    fix: str = ""
    exit_code: int = CONTRACT


Probe = Callable[[], Iterable[Finding]]


def run_probes(probes: Sequence[tuple[str, Probe]]) -> list[Finding]:
    """All findings in order. A probe that raises becomes a finding of its own, behind those it made before."""
    findings: list[Finding] = []
    for name, probe in probes:
        try:
            findings.extend(probe())
        except Exception as error:
            text = f"could not be looked at: {type(error).__name__}: {error}".strip().splitlines()[0]
            findings.append(Finding(name, "warn", text[:300]))
    return findings


def exit_code(findings: Iterable[Finding]) -> int:
    """0 without failures; else 6 where the machine lacks something, 4 where something is set up wrongly."""
    return max((finding.exit_code for finding in findings if finding.status == "fail"), default=0)
