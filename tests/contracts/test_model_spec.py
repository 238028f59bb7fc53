from __future__ import annotations

from typing import Any

import pytest

from samora_pipeline.contracts.json_io import parse, to_plain
from samora_pipeline.contracts.model_spec import FusionSpec, Level, ModelSpec, ModuleSpec, NetworkSpec
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.models.catalog import FUSIONS, fusion_options

SPECS = [
    ModelSpec("sam_vit_b", 224, 9, lora_rank=4, fusion=FusionSpec("hcat", "attention", {"order": "1-2-1"})),
    ModelSpec("samora_tiny", 64, 2, in_channels=3, levels=(Level.PIXEL,), lora_rank=8, fusion=None),
    ModuleSpec("my_networks.unet:UNet", 256, 4, in_channels=2, options={"width": 16, "depths": [1, 2]}),
]


NETWORK: Any = NetworkSpec


@pytest.mark.parametrize("spec", SPECS)
def test_json_and_back(spec: NetworkSpec) -> None:
    plain = to_plain(spec)
    assert next(iter(plain)) == "kind"
    assert parse(NETWORK, plain, "model") == spec
    assert hash(spec) == hash(parse(NETWORK, plain, "model"))


def test_a_run_that_says_nothing_of_stages_predicts_with_the_last() -> None:
    plain = {name: value for name, value in to_plain(SPECS[0]).items() if name != "decoder_stages"}
    assert parse(NETWORK, plain, "model") == SPECS[0]
    assert to_plain(SPECS[0])["decoder_stages"] == "last"


@pytest.mark.parametrize("without", ["lora_rank", "backbone"])
def test_a_rank_and_a_backbone_are_always_written(without: str) -> None:
    plain = {name: value for name, value in to_plain(SPECS[0]).items() if name != without}
    with pytest.raises(DataError, match="E-JSON-03"):
        parse(NETWORK, plain, "model")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hl_attn", {"order": "2-1-1", "residual": "delta"}),
        ("hl_attn_self", {"order": "2-1-1", "residual": "delta"}),
        ("hcat", {"order": "2-1-1", "residual": "delta"}),
        ("mole", {"residual": "delta"}),
        ("lac", {}),
        ("lorahub", {}),
    ],
)
def test_the_options_of_each_fusion_and_their_defaults(name: str, options: dict[str, Any]) -> None:
    assert to_plain(fusion_options(name, {})) == options
    assert fusion_options(name, options) == FUSIONS.get(name).Options(**options)


@pytest.mark.parametrize(
    ("name", "options", "code", "expected"),
    [
        ("hl_attn", {"ordr": "1-2-1"}, "E-SET-01", "order"),
        ("mole", {"order": "1-2-1"}, "E-SET-01", "residual"),
        ("lac", {"order": "1-2-1"}, "E-SET-01", "none"),
        ("hl_attn", {"order": "1-1-1"}, "E-SET-03", "'1-2-1'"),
        ("hl_attn", {"residual": 1}, "E-SET-03", "'paper'"),
        ("hl_atn", {}, "E-NAME-01", "hl_attn"),
    ],
)
def test_other_options_are_refused(name: str, options: dict[str, Any], code: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        fusion_options(name, options)
    assert caught.value.code == code
    assert expected in caught.value.expected
