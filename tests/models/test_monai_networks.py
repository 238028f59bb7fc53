"""Networks of MONAI through the door: their size, their names for ours, and a missing library."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest
import torch

from samora_pipeline.contracts.model_spec import ModuleSpec
from samora_pipeline.errors import AssetError, UsageError
from samora_pipeline.models.assembly import build_network
from samora_pipeline.registry import Registry

SMALL: dict[str, dict[str, Any]] = {
    "unetr_2d": {"feature_size": 4, "hidden_size": 24, "mlp_dim": 48, "num_heads": 2},
    "swin_unetr_2d": {"feature_size": 12},
}


@pytest.mark.parametrize(("network", "millions"), [("unetr_2d", 87.29), ("swin_unetr_2d", 6.3)])
def test_parameters_at_224_pixels(network: str, millions: float) -> None:
    pytest.importorskip("monai", reason="the extra networks is not installed")
    with torch.device("meta"):
        made = build_network(ModuleSpec(network, 224, 2))
    assert sum(parameter.numel() for parameter in made.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("network", sorted(SMALL))
def test_they_segment_slices(network: str) -> None:
    pytest.importorskip("monai", reason="the extra networks is not installed")
    made = build_network(ModuleSpec(network, 64, 3, options=SMALL[network]))
    assert made(torch.rand(2, 1, 64, 64)).shape == (2, 3, 64, 64)
    with pytest.raises(UsageError, match="E-MODEL-01"):
        build_network(ModuleSpec(network, 72, 3, options=SMALL[network]))
    with pytest.raises(UsageError, match="E-SET-01"):
        build_network(ModuleSpec(network, 64, 3, options={"depth": 3}))


def test_monais_names_are_ours_for_the_same() -> None:
    pytest.importorskip("monai", reason="the extra networks is not installed")
    plain = {"spatial_dims": 2, "channels": [4, 8], "strides": [2]}
    made = build_network(ModuleSpec("monai.networks.nets:UNet", 32, 3, 2, plain))
    assert made(torch.rand(1, 2, 32, 32)).shape == (1, 3, 32, 32)
    options = SMALL["unetr_2d"] | {"spatial_dims": 2}
    direct = build_network(ModuleSpec("monai.networks.nets:UNETR", 32, 3, options=options))
    assert direct(torch.rand(1, 1, 32, 32)).shape == (1, 3, 32, 32)


def test_a_missing_library_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_monai(name: str, *rest: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "monai":
            raise ModuleNotFoundError("No module named 'monai'", name="monai")
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without_monai)
    monkeypatch.delitem(sys.modules, "samora_pipeline.models.monai_networks", raising=False)
    registry: Registry[Any] = Registry("network")
    registry.register_place("unetr_2d", "samora_pipeline.models.monai_networks:unetr_2d")
    with pytest.raises(AssetError, match="E-NAME-03"):
        registry.get("unetr_2d")
