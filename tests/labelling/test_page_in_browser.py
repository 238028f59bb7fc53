"""The page of a round as an annotator uses it, in a real browser; skipped where there is none."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.labelling import ROUND_FILE, Round
from samora_pipeline.labelling.corrections import read_correction
from samora_pipeline.labelling.scans import open_labelled, read_round
from samora_pipeline.paths import resolve_roots
from tests.reporting.chromium import BROWSER, Chromium

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on this machine")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def test_verdicts_of_the_page_are_read_back(browser: Chromium, root: Path, tmp_path: Path) -> None:
    folder = root / "cold"
    record = read_json(Round, folder / ROUND_FILE)
    browser.open(folder / "slices.html")
    assert browser.evaluate("window.reportReady.cases") == len(record.slices)
    title, scan = "document.getElementById('title').textContent", "document.getElementById('scan').src"
    first = browser.evaluate(title), browser.evaluate(scan)
    ordered = sorted(record.slices, key=lambda one: (one.case, one.index))
    assert first[0] == f"{ordered[0].case}, slice {ordered[0].index}"

    # A verdict by mouse, one by key on the next slice.
    browser.evaluate("document.querySelector('input[value=accept]').click()")
    browser.evaluate("document.getElementById('slider').focus()")
    browser.press("ArrowRight", 39)
    assert browser.evaluate(title) == f"{ordered[1].case}, slice {ordered[1].index}"
    assert browser.evaluate(scan) != first[1]
    assert browser.evaluate("document.querySelectorAll('input[name=verdict]:checked').length") == 0
    browser.press("w", 87, "w")
    browser.press("ArrowLeft", 37)
    assert browser.evaluate("document.querySelector('input[name=verdict]:checked').value") == "accept"

    shown = "getComputedStyle(document.getElementById('proposal')).visibility"
    assert browser.evaluate(shown) == "visible"
    browser.evaluate("document.getElementById('shown').click()")
    assert browser.evaluate(shown) == "hidden"

    downloads = tmp_path / "downloads"
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
    browser.evaluate("document.getElementById('export').click()")
    for _ in range(100):
        if (downloads / "verdicts.json").is_file():
            break
        time.sleep(0.05)
    exported = json.loads((downloads / "verdicts.json").read_text())
    assert [one["verdict"] for one in exported["slices"]] == ["accept", "needs work"]
    assert browser.evaluate("window.reportReady.errors") == []
    assert {event["request"]["url"].partition(":")[0] for event in browser.called("Network.requestWillBeSent")} <= {
        "file",
        "data",
        "blob",
    }

    (downloads / "verdicts.json").replace(folder / "verdicts.json")
    dataset = open_labelled("101", resolve_roots(str(root)))
    read = read_correction(folder, read_round(folder), ordered[0].case, dataset)
    assert read.stated[:, :, ordered[0].index].all()
    assert not read.stated[:, :, ordered[1].index].any()
