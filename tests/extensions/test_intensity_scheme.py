"""An intensity scheme from outside the repository: one class, from planning to the slice that a network sees."""

from pathlib import Path

import numpy as np
import pytest

from planners.cli import main
from samora_pipeline.contracts.fingerprint import IntensityStats
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.plans import IntensityRule, Plans
from samora_pipeline.errors import UsageError
from samora_pipeline.imaging.intensity import (
    INTENSITY_SCHEMES,
    ChannelEvidence,
    plain_name,
    read_rule,
    scheme_of,
    scheme_of_channel,
)
from samora_pipeline.slices.datasets import SliceId, SliceSource
from samora_pipeline.slices.noise import rician_channels
from samora_pipeline.slices.store import StoredSlices
from tests.raw_data import make_raw_dataset

NAME = "Dataset007_Boxes"
SCHEME = """
from samora_pipeline.contracts.plans import IntensityRule, Planned
from samora_pipeline.imaging.intensity import IntensityScheme


class ZScore(IntensityScheme):
    magnitude = False
    form = "DEVIATIONS on either side of the mean"

    def limits(self, rule, volume):
        return volume.mean - rule.high * volume.std, volume.mean + rule.high * volume.std

    def plan(self, scheme, channel):
        return Planned(IntensityRule(scheme, -3.0, 3.0), f"{channel.name}: three deviations around the mean")

    def read(self, scheme, parameters):
        return IntensityRule(scheme, -float(parameters), float(parameters)) if parameters else None
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "outside_intensities.py").write_text(SCHEME)
    monkeypatch.syspath_prepend(tmp_path)
    make_raw_dataset(tmp_path / "raw" / NAME, cases=3, channels=("CT", "PET"))
    return tmp_path


def test_a_scheme_from_outside_shapes_what_the_network_sees(root: Path) -> None:
    given = "intensity.1=outside_intensities:ZScore:2.5"
    assert main(["--root", str(root), "--set", given]) == 0
    target = root / "preprocessed" / NAME
    plans = read_json(Plans, target / "plans.json")
    assert plans.intensity.value[1] == IntensityRule("outside_intensities:ZScore", -2.5, 2.5)
    assert rician_channels(plans) == (False, False)
    stored = StoredSlices.open(target / "slices", "case_01")
    rows, columns = stored.record.shape[1:]
    assert rows != columns
    source = SliceSource(target / "slices", [SliceId("case_01", 2)], plans, rows)
    found = source.images([0])[0].numpy()
    raw = np.stack([stored.image(index)[1] for index in range(len(stored))]).astype(np.float64)
    scaled = np.clip((raw[2] - raw.mean()) / raw.std() / 5 + 0.5, 0, 1)
    # The rows keep their number and only the columns are resized, so means over columns stay close.
    np.testing.assert_allclose(found[1].mean(axis=1), scaled.mean(axis=1), atol=0.02)


def test_its_parameters_and_its_name_are_checked(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, code in (("outside_intensities:ZScore", "E-SET-02"), ("outside_intensities:Z", "E-NAME-01")):
        assert main(["--root", str(root), "--set", f"intensity.1={text}"]) == 2
        assert code in capsys.readouterr().err


@pytest.mark.parametrize("name", INTENSITY_SCHEMES.names())
def test_intensity_scheme(name: str) -> None:
    own = INTENSITY_SCHEMES.get(name)()
    assert (type(own).__doc__ or "").strip()
    volume = IntensityStats(100.0, 20.0, 10.0, 210.0, 20.0, 95.0, 190.0)
    for channel in own.channels:
        assert channel == plain_name(channel)
        assert scheme_of_channel(channel) == name
        planned = own.plan(name, ChannelEvidence(channel, None, None, [volume]))
        assert planned.value.scheme == name
        assert planned.why
        assert isinstance(scheme_of(planned.value), type(own))
        low, high = own.limits(planned.value, volume)
        assert low < high
    assert read_rule(name) in (None, IntensityRule(name))


def test_unknown_schemes_are_refused_where_they_are_used() -> None:
    with pytest.raises(UsageError) as caught:
        scheme_of(IntensityRule("windw"))
    assert caught.value.code == "E-NAME-01"
