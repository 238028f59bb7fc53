from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from samora_pipeline.evaluation.run_scores import read_run
from samora_pipeline.reporting.report import write_report
from samora_pipeline.reporting.report_run import ReportedRun
from tests.fake_run import places, write_reported_run


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Many threads on tiny tensors only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a scored run, with its report."""
    root = tmp_path_factory.mktemp("reported")
    folder = write_reported_run(root)
    run = ReportedRun(read_run(str(folder), folder.parent), places(root))
    write_report(run, folder / "report.html", torch.device("cpu"))
    return folder


@pytest.fixture(scope="session")
def loaded(reported: Path) -> ReportedRun:
    """The run of ``reported``."""
    return ReportedRun(read_run(str(reported), reported.parent), places(reported.parents[2]))
