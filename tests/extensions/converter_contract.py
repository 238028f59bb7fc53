"""What every converter keeps to, as checks of one converter with a sample of its source."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.converter import Converter
from dataset_conversion.survey import ConversionReport
from samora_pipeline.contracts.dataset import RawCase, read_dataset
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.volume import label_array


def check_introduction(converter: Converter) -> None:
    assert converter.summary.endswith(".")
    assert converter.terms
    assert converter.tree
    assert converter.numbering or converter.home is not None
    assert converter.page or not converter.needs_source or converter.terms == "your own"


def check_labels_and_lists(converter: Converter) -> None:
    assert len({tuple(label_map.labels.items()) for label_map in converter.label_maps.values()}) <= 1
    published = converter.published()
    if published.split is None:
        return
    train, test = published.split.train, published.split.test
    assert not set(train) & set(test)
    assert len({*train, *test}) == len(train) + len(test)
    for budget in published.budgets.values():
        assert set(budget.slices) <= set(budget.cases) <= set(train)
        assert all(list(indices) == sorted(set(indices)) for indices in budget.slices.values())


def check_cases_can_be_sent_to_other_processes(converter: Converter, source: Path, options: argparse.Namespace) -> None:
    cases = converter.survey(source, options).cases
    again = pickle.loads(pickle.dumps(cases))
    assert [(case.name, case.part) for case in again] == [(case.name, case.part) for case in cases]
    assert np.array_equal(again[0].load().channels[0].array, cases[0].load().channels[0].array)


def check_raw_dataset(converter: Converter, source: Path, options: argparse.Namespace, target: Path) -> None:
    report = converter.convert(source, target, options)
    assert not report.skipped
    assert read_json(ConversionReport, target / "conversion.json") == report
    raw = read_dataset(target)
    assert raw.ours.origin
    assert raw.ours.terms
    parts = (raw.training(), raw.test(), raw.unlabelled())
    assert [len(part) for part in parts] == [report.training, report.test, report.unlabelled]
    assert raw.description.numTraining == report.training
    # One converter is there for scans without labels; all others bring labelled ones.
    assert (report.training > 0) == (converter.name != "Unlabeled")
    if converter.label_maps:
        assert raw.description.labels == next(iter(converter.label_maps.values())).labels
    if converter.channels:
        assert tuple(raw.description.channel_names.values()) == converter.channels
    values = sorted(raw.scheme.values - {raw.scheme.ignore})
    assert values == list(range(len(values)))
    assert len({name for part in parts for name in part}) == sum(map(len, parts))
    for case in parts[0].values():
        assert case.label is not None
    for case in (case for part in parts for case in part.values()):
        _check_case(case, raw.scheme.values)
    if raw.ours.published_split:
        assert set(raw.ours.published_split.train) <= set(raw.training())
        assert set(raw.ours.published_split.test) <= set(raw.test())
    assert not list(target.parent.glob(".partial-*"))


def _check_case(case: RawCase, declared: frozenset[int]) -> None:
    volumes = [read_volume(path) for path in case.channels]
    assert all(volume.array.ndim == 3 and volume.count_nonfinite() == 0 for volume in volumes)
    assert all(volume.grid.matches(volumes[0].grid) for volume in volumes)
    if case.label is not None:
        label = read_volume(case.label)
        assert label.grid.matches(volumes[0].grid)
        assert set(np.unique(label_array(label)).tolist()) <= declared


def check_equal_surveys(converter: Converter, source: Path, options: argparse.Namespace) -> None:
    first, second = converter.survey(source, options), converter.survey(source, options)
    assert (first.description, first.ours, first.notes) == (second.description, second.ours, second.notes)
    assert [(case.name, case.part) for case in first.cases] == [(case.name, case.part) for case in second.cases]


def check_empty_folder_is_refused(converter: Converter, empty: Path, options: argparse.Namespace, target: Path) -> None:
    with pytest.raises(DataError) as caught:
        converter.convert(empty, target, options)
    assert caught.value.code == "E-SRC-01"
    assert not target.parent.exists()
