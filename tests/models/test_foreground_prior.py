"""The probability of the foreground before the first step, read off the network's outputs."""

import pytest
import torch

from samora_pipeline.contracts.model_spec import ModelSpec, ModuleSpec, NetworkSpec
from samora_pipeline.models.assembly import build_network

SPECS: dict[str, NetworkSpec] = {
    "unet2d": ModuleSpec("unet2d", 32, 4, options={"widths": [4, 8]}),
    "unet3d": ModuleSpec("unet3d", 16, 4, options={"widths": [4, 8]}, volume=(8, 16, 16)),
    "samora_small": ModelSpec("samora_small", 32, 4, levels=(), lora_rank=4, fusion=None, decoder="skips"),
}


def _without_features(spec: NetworkSpec, *, regions: bool) -> torch.Tensor:
    """The logits (K,) where the last layer sees nothing but zeros."""
    torch.manual_seed(0)
    network = build_network(spec)
    network.start_with_foreground(0.05, regions=regions)
    bias = network.output_bias
    assert isinstance(bias, torch.nn.Parameter)
    assert bias.shape == (4,)
    names = {parameter: name for name, parameter in network.named_parameters()}
    with torch.no_grad():
        network.get_parameter(names[bias].removesuffix("bias") + "weight").zero_()
        logits = network.eval()(torch.rand(1, 1, *network.input_shape))
    torch.testing.assert_close(logits, bias.view(1, -1, *[1] * (logits.ndim - 2)).expand_as(logits))
    return logits.flatten(2)[0, :, 0]


@pytest.mark.parametrize("name", SPECS)
def test_exclusive_classes_share_it(name: str) -> None:
    probability = _without_features(SPECS[name], regions=False).softmax(0)
    assert probability[1:].sum().item() == pytest.approx(0.05, rel=1e-5)
    assert probability[1:].tolist() == pytest.approx([0.05 / 3] * 3, rel=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_each_region_has_it(name: str) -> None:
    assert _without_features(SPECS[name], regions=True).sigmoid().tolist() == pytest.approx([0.05] * 4, rel=1e-5)


def test_a_decoder_without_a_bias_stays_as_it_is() -> None:
    network = build_network(ModelSpec("samora_tiny", 64, 3, levels=(), lora_rank=4, fusion=None, decoder="samed"))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.start_with_foreground(0.05, regions=False)
    assert network.output_bias is None
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
