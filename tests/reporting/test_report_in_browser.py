"""The report as a reader uses it, in a real browser; skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.run import SUMMARY_FILE
from samora_pipeline.contracts.scores import Summary
from samora_pipeline.reporting import report_cli
from tests.fake_run import DATASET, SHIFTS, write_reported_run
from tests.reporting.chromium import BROWSER, Chromium

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on this machine")

ROWS = "[...document.querySelectorAll('#cases tbody tr')].map(row => row.cells[0].textContent)"
VALUES = "[...document.querySelectorAll('#cases tbody tr')].map(row => Number(row.cells[2].dataset.value))"
PICTURES = "[...document.querySelectorAll('#case-worst img')].map(picture => picture.src)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def test_a_reader_can_sort_slide_and_stays_offline(browser: Chromium, reported: Path) -> None:
    browser.open(reported / "report.html")
    summary = read_json(Summary, reported / "fold_0" / SUMMARY_FILE)
    assert browser.evaluate("window.reportReady") == {"cases": summary.n, "errors": []}

    # By mouse: upwards, then downwards.
    heading = "document.querySelectorAll('#cases thead th')[2]"
    browser.evaluate(f"{heading}.querySelector('button').click()")
    values = browser.evaluate(VALUES)
    assert values == sorted(values) != sorted(values, reverse=True)
    assert "(worst)" in browser.evaluate(ROWS)[0]
    browser.evaluate(f"{heading}.querySelector('button').click()")
    assert browser.evaluate(VALUES) == values[::-1]
    assert browser.evaluate(f"{heading}.getAttribute('aria-sort')") == "descending"
    # By keyboard, by name.
    browser.evaluate("document.querySelector('#cases thead button').focus()")
    browser.press("Enter", 13, "\r")
    assert browser.evaluate(ROWS) == sorted(browser.evaluate(ROWS))

    before = browser.evaluate(PICTURES)
    words = browser.evaluate("document.querySelector('#case-worst output').textContent")
    browser.evaluate("document.querySelector('#case-worst input[type=range]').focus()")
    browser.press("ArrowRight", 39)
    after = browser.evaluate(PICTURES)
    assert len(before) == len(after) == 7
    assert after[0] != before[0]
    assert browser.evaluate("document.querySelector('#case-worst output').textContent") != words
    browser.press("ArrowLeft", 37)
    assert browser.evaluate(PICTURES) == before

    shown = "getComputedStyle(document.querySelector('#case-worst .overlay')).visibility"
    assert browser.evaluate(shown) == "visible"
    browser.evaluate("document.querySelector('#case-worst input[type=checkbox]').click()")
    assert browser.evaluate(shown) == "hidden"

    assert browser.evaluate("[...document.images].every(picture => picture.complete && picture.naturalWidth > 0)")
    assert browser.called("Log.entryAdded") == []
    assert browser.called("Runtime.consoleAPICalled") == []
    assert browser.called("Runtime.exceptionThrown") == []
    asked = {request["request"]["url"].split(",")[0][:40] for request in browser.called("Network.requestWillBeSent")}
    page = (reported / "report.html").as_uri()[:40]
    assert all(address == page or address.startswith("data:image/") for address in asked)
    assert browser.evaluate("window.reportReady.errors") == []


def test_a_comparison_is_read_like_a_report(browser: Chromium, tmp_path: Path) -> None:
    for run, shifts in (("SAMedTrainer__10pct__a", {**SHIFTS, "exact": 2}), ("SAMoraTrainer__10pct__b", SHIFTS)):
        write_reported_run(tmp_path, run=run, shifts=shifts)
    words = [f"{DATASET}/{run}" for run in ("SAMedTrainer__10pct__a", "SAMoraTrainer__10pct__b")]
    page = tmp_path / "comparison.html"
    assert report_cli.main([*words, "--root", str(tmp_path), "-o", str(page)]) == 0
    before = len(browser.events)
    browser.open(page)
    assert browser.evaluate("window.reportReady") == {"cases": len(SHIFTS), "errors": []}
    browser.evaluate("document.querySelectorAll('#cases thead th')[4].querySelector('button').click()")
    values = "[...document.querySelectorAll('#cases tbody tr')].map(row => Number(row.cells[4].dataset.value))"
    assert browser.evaluate(values) == sorted(browser.evaluate(values))
    assert len(browser.evaluate(PICTURES)) == 11
    scans = PICTURES.replace("img", ".scan")
    shown = browser.evaluate(scans)
    assert len(shown) == 6
    browser.evaluate("document.querySelector('#case-worst input[type=range]').focus()")
    browser.press("ArrowRight", 39)
    assert all(one != other for one, other in zip(browser.evaluate(scans), shown, strict=True))
    told = browser.events[before:]
    assert not [event for event in told if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    asked = {event["params"]["request"]["url"] for event in told if event["method"] == "Network.requestWillBeSent"}
    assert {address for address in asked if not address.startswith("data:image/")} <= {page.as_uri()}
    # On paper nothing can be moved aside: the widest table has to fit. A4 less its margins is 718 px wide.
    browser.call("Emulation.setDeviceMetricsOverride", width=718, height=1000, deviceScaleFactor=1, mobile=False)
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    right = "Math.max(...[...document.querySelectorAll('table, img, p')].map(one => one.getBoundingClientRect().right))"
    assert browser.evaluate(right) <= 718
    browser.evaluate("dispatchEvent(new Event('afterprint'))")
    browser.call("Emulation.setEmulatedMedia", media="")
    browser.call("Emulation.clearDeviceMetricsOverride")


def test_printing_opens_what_is_folded_and_hides_what_needs_a_mouse(browser: Chromium, reported: Path) -> None:
    browser.open(reported / "report.html")
    folded = "[...document.querySelectorAll('details')].filter(part => !part.open).length"
    count = browser.evaluate(folded)
    assert count > 0
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert browser.evaluate(folded) == 0
    for part in ("nav", ".controls"):
        assert browser.evaluate(f"getComputedStyle(document.querySelector('{part}')).display") == "none"
    browser.evaluate("dispatchEvent(new Event('afterprint'))")
    assert browser.evaluate(folded) == count
