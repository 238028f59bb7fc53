"""``--listed-skips-only``: a test that is skipped for a reason that is not in allowed_skips.txt fails the session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_LIST = Path(__file__).with_name("allowed_skips.txt")
_PREFIX = "Skipped: "


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--listed-skips-only", action="store_true", help=f"fail where a skip is not in {_LIST.name}")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--listed-skips-only"):
        config.pluginmanager.register(UnlistedSkips(_allowed()), "unlisted-skips")


@pytest.fixture(scope="session", autouse=True)
def _single_precision_on_a_cpu() -> Iterator[None]:
    """What a CPU is faster at is measured: runs of one test could differ. Tests of the choice put it back.

    Where no test module has imported torch, nothing runs a network.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "torch" in sys.modules:
            from samora_pipeline.inference import precision

            patch.setattr(precision, "cpu_bf16_instructions", lambda: "")
        yield


class UnlistedSkips:
    """Collects the skips that are on no list. ``allowed``: parts of their reasons."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self.allowed = allowed
        self.found: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not hasattr(report, "wasxfail"):
            self._look(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._look(report)

    def _look(self, report: Any) -> None:
        if not report.skipped:
            return
        reason = str(report.longrepr[2]).removeprefix(_PREFIX)
        if not any(part in reason for part in self.allowed):
            self.found.append(f"{report.nodeid}: {reason}")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.found:
            terminalreporter.section(f"skips that are not in {_LIST.name}", red=True)
            for line in self.found:
                terminalreporter.line(line)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.found and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _allowed() -> tuple[str, ...]:
    """The lines of the list, without comments."""
    lines = (line.partition("#")[0].strip() for line in _LIST.read_text().splitlines())
    return tuple(line for line in lines if line)
