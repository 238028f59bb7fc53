"""samora_suggest: what lies in a hand-over folder, read with nibabel and pynrrd, and what it refuses."""

from __future__ import annotations

import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pandas as pd
import PIL.Image
import pytest

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.labelling import ROUND_FILE, Round
from samora_pipeline.contracts.run import CONFIG_FILE
from samora_pipeline.errors import SamoraError
from samora_pipeline.labelling.suggest import Request, suggest
from samora_pipeline.paths import resolve_roots
from tests.labelling.conftest import NAME

RUN = "UNetTrainer__full__first"


def made(root: Path, folder: str, **request: object) -> Round:
    return suggest(Request("101", root / folder, **request), resolve_roots(str(root)), str)  # type: ignore[arg-type]


def test_a_folder_opens_in_both_viewers_with_names_and_ignore(planned: Path) -> None:
    folder = planned / "cold"
    record = read_json(Round, folder / ROUND_FILE)
    assert (record.dataset, record.run, record.ignore, record.number) == (NAME, "", 3, 0)
    assert sorted(Counter(one.case for one in record.slices).values()) == [2, 2, 2, 3]
    assert set(record.cases) == {"free_00", "free_01", "free_02", "free_03"}
    for case, handed in record.cases.items():
        own = folder / "scans" / case
        raw = nibabel.load(planned / "raw" / NAME / "imagesUn" / f"{case}_0000.nii.gz")
        image, labels = (nibabel.load(own / f"{case}{ending}") for ending in ("_0000.nii.gz", "_labels.nii.gz"))
        assert np.array_equal(image.get_fdata(), raw.get_fdata())
        assert np.allclose(labels.affine, raw.affine)
        assert np.unique(labels.get_fdata()).tolist() == [3]
        drawn, header = nrrd.read(str(own / f"{case}_proposal.seg.nrrd"))
        assert drawn.shape == raw.shape
        assert not drawn.any()
        assert [header[f"Segment{number}_Name"] for number in (0, 1)] == ["organ", "lesion"]
        assert "Segment2_Name" not in header
        assert (handed.plane, handed.axis) == ("axial", 2)
    assert '"ignore"' in (folder / "itksnap_labels.txt").read_text()
    assert PIL.Image.open(folder / "slices.png").size[0] > 600


def test_the_table_names_each_slice_and_its_place(planned: Path) -> None:
    table = pd.read_csv(planned / "cold" / "slices.csv")
    record = read_json(Round, planned / "cold" / ROUND_FILE)
    assert list(zip(table["scan"], table["index_from_0"], strict=True)) == [(s.case, s.index) for s in record.slices]
    # The affine of raw_data: 4 mm steps from 10 mm on.
    assert np.allclose(table["position_mm"], 10 + 4 * table["index_from_0"])
    assert table["score"].isna().all()
    assert (table["number_from_1"] == table["index_from_0"] + 1).all()


def test_a_model_proposes_and_says_why(root: Path) -> None:
    record = made(root, "warm", slices=6, model=RUN, per_scan=2)
    reasons = Counter(one.reason for one in record.slices)
    assert len(record.slices) == 6
    assert reasons["unsure as a whole"] >= 2
    assert all(one.score is not None and 0 < one.score <= 1 for one in record.slices)
    assert max(Counter(one.case for one in record.slices).values()) <= 2
    assert record.run == f"{NAME}/{RUN}"
    drawn = [nrrd.read(str(path))[0] for path in sorted((root / "warm" / "scans").glob("*/*.seg.nrrd"))]
    assert any(one.any() for one in drawn)
    assert not (root / "warm" / "given" / "predictions").exists()
    assert made(root, "again", slices=6, model=RUN, per_scan=2).slices == record.slices


def test_what_the_model_is_scored_on_is_never_suggested(root: Path) -> None:
    fold = root / "results" / NAME / RUN / "fold_0"
    plain = json.loads((fold / CONFIG_FILE).read_text()) | {"scored": ["free_01"]}
    (fold / CONFIG_FILE).write_text(json.dumps(plain))
    record = made(root, "warm", slices=9, model=RUN)
    assert {one.case for one in record.slices} <= {"free_00", "free_02", "free_03"}


def test_two_folders_never_ask_for_one_slice_or_neighbours(root: Path) -> None:
    first = read_json(Round, root / "cold" / ROUND_FILE)
    second = made(root, "second", slices=8, beside=(root / "cold",))
    for one in second.slices:
        assert all(one.case != other.case or abs(one.index - other.index) > 1 for other in first.slices)


def test_labelled_slices_and_their_neighbours_are_left_out(root: Path) -> None:
    raw = root / "raw" / NAME
    description = json.loads((raw / "dataset.json").read_text())
    description["labels"]["ignore"] = 3
    (raw / "dataset.json").write_text(json.dumps(description))
    path = raw / "labelsTr" / "case_00.nii.gz"
    image = nibabel.load(path)
    sparse = np.full(image.shape, 3, np.uint8)
    sparse[:, :, 5] = 0
    # Another order of the file's axes than the scan's.
    nibabel.save(nibabel.Nifti1Image(sparse, image.affine).as_reoriented(np.array([[0, 1], [1, 1], [2, -1]])), path)
    record = made(root, "more", slices=20)
    asked = {one.index for one in record.slices if one.case == "case_00"}
    assert asked
    assert asked.isdisjoint({4, 5, 6})
    assert "case_01" not in record.cases
    given = nibabel.load(root / "more" / "scans" / "case_00" / "case_00_labels.nii.gz").get_fdata()
    assert np.array_equal(given, sparse)


@pytest.mark.parametrize(
    ("code", "request_"),
    [
        ("E-ROUND-01", {"folder": "cold", "slices": 3}),
        ("E-ROUND-01", {"folder": "raw", "slices": 3}),
        ("E-ROUND-02", {"slices": 3, "beside": (Path("nowhere"),)}),
        ("E-ROUND-03", {"slices": 0}),
        ("E-ROUND-03", {"slices": 3, "per_scan": 0}),
        ("E-ROUND-04", {"slices": 25}),
        ("E-ROUND-04", {"slices": 5, "per_scan": 1}),
        ("E-RUN-01", {"slices": 5, "model": "nothing"}),
    ],
)
def test_what_cannot_be_is_refused(root: Path, code: str, request_: dict[str, object]) -> None:
    with pytest.raises(SamoraError) as raised:
        made(root, str(request_.pop("folder", "new")), **request_)
    assert raised.value.code == code


def test_a_run_of_other_labels_is_refused(root: Path) -> None:
    fold = root / "results" / NAME / RUN / "fold_0"
    config = json.loads((fold / CONFIG_FILE).read_text())
    config["labels"]["names"] = {"organ": [1], "cyst": [2]}
    (fold / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(SamoraError) as raised:
        made(root, "new", slices=3, model=RUN)
    assert raised.value.code == "E-ROUND-05"


def test_a_killed_suggestion_goes_on_with_its_predictions(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("samora_pipeline.labelling.suggest.write_itksnap", die)
        with pytest.raises(KeyboardInterrupt):
            made(root, "warm", slices=4, model=RUN)
    assert list((root / "warm" / "given" / "predictions").glob("*_uncertainty.nii.gz"))
    with monkeypatch.context() as patch:
        patch.setattr("samora_pipeline.labelling.proposals.predict_cases", die)
        assert len(made(root, "warm", slices=4, model=RUN).slices) == 4


class _Page(HTMLParser):
    """The elements of a page, and what stands in its script of data."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.data = ""
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self._inside = dict(attrs).get("id") == "data"

    def handle_data(self, data: str) -> None:
        self.data += data if self._inside else ""


def test_the_page_holds_every_slice_and_fetches_nothing(planned: Path) -> None:
    text = (planned / "cold" / "slices.html").read_text()
    record = read_json(Round, planned / "cold" / ROUND_FILE)
    page = _Page()
    page.feed(text)
    data = json.loads(page.data)
    assert (data["identity"], data["file"]) == (record.identity, "verdicts.json")
    assert {(one["case"], one["index"]) for one in data["slices"]} == {(one.case, one.index) for one in record.slices}
    assert all(one["scan"].startswith("data:image/webp") for one in data["slices"])
    assert "default-src 'none'" in text
    assert "http://" not in text
    assert "https://" not in text


def test_names_from_files_become_no_markup_of_the_page(root: Path) -> None:
    raw = root / "raw" / NAME
    strange = "<img src=x onerror=alert(1)>"
    for path in (raw / "imagesUn").glob("free_03*"):
        path.rename(path.with_name(path.name.replace("free_03", strange)))
    made(root, "strange", slices=4)
    text = (root / "strange" / "slices.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.tags["img"] == 2
    assert strange in {one["case"] for one in json.loads(page.data)["slices"]}
    assert strange not in text
