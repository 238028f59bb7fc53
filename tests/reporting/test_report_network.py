from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from samora_pipeline.contracts.model_spec import LEVELS, Level, ModelSpec
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.volume import slice_geometry, to_raw_grid
from samora_pipeline.inference.predictor import Predictor
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.backbones.backbone import Features
from samora_pipeline.models.expert_block import expert_blocks
from samora_pipeline.models.freezing import Part
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.reporting.attention import relevance
from samora_pipeline.reporting.pictures import CaseStack, read_case
from samora_pipeline.reporting.report_network import NetworkProbe, load_probe, without_expert
from samora_pipeline.reporting.report_run import ReportedRun

CPU = torch.device("cpu")


@pytest.fixture
def network() -> SegmentationNetwork:
    """Every weight random, those that begin at zero too, so that each expert and the fusion have an effect."""
    torch.manual_seed(0)
    built = build_network(ModelSpec("samora_tiny", 64, 3, lora_rank=4)).eval()
    for parameter in built.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return built


def test_an_expert_left_out_is_one_whose_lora_is_zero(network: SegmentationNetwork) -> None:
    images = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        whole = network(images)
        left_out = {}
        for level in LEVELS:
            with without_expert(network, level):
                left_out[level] = network(images)
        assert torch.equal(network(images), whole)
    for block in expert_blocks(network).values():
        block.get_parameter(f"experts.{Level.PATCH.value}.q_b").data.zero_()
        block.get_parameter(f"experts.{Level.PATCH.value}.v_b").data.zero_()
    with torch.inference_mode():
        assert torch.equal(network(images), left_out[Level.PATCH])
    assert len({float(scores.sum()) for scores in (whole, *left_out.values())}) == 4


def test_weights_come_back_after_an_error(network: SegmentationNetwork) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(RuntimeError, match="inside"), without_expert(network, Level.IMAGE):
        raise RuntimeError("inside")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_probe_predicts_what_the_predictor_predicts(loaded: ReportedRun) -> None:
    probe = load_probe(loaded, "0", CPU)
    # A report computes in single precision.
    predictor = Predictor.load(loaded.folds["0"], weights_folder=loaded.places.weights, device="cpu", precision="fp32")
    case = loaded.raw_case("far")
    stack = read_case(case, [loaded.prediction("far")], loaded.config.plans)
    volume = read_volume(case.channels[0])
    predicted = to_raw_grid(probe.predict(stack, range(len(stack.images))), slice_geometry(volume.grid, "axial"))
    assert np.mean(predicted != predictor.predict_volume((volume,))) < 1e-3
    assert probe.trained == frozenset({Part.FUSION, Part.DECODER, Part.PROMPT})


class _LinearNetwork(nn.Module):
    """Logits that are a fixed sum over the channels of an embedding, so that gradients are known on paper."""

    def __init__(self, embedding: Tensor, weights: Tensor) -> None:
        super().__init__()
        self.image_encoder = _Given(embedding)
        self.weights = weights

    def forward(self, images: Tensor) -> Tensor:
        features = self.image_encoder(images)
        return torch.einsum("kp,bpxy->bkxy", self.weights, features.embedding)


class _Given(nn.Module):
    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, images: Tensor) -> Features:
        return Features(self.embedding)


def test_relevance_is_gradient_times_activation_where_the_organ_is_predicted(
    monkeypatch: pytest.MonkeyPatch, loaded: ReportedRun
) -> None:
    torch.manual_seed(1)
    embedding, weights = torch.randn(1, 5, 8, 8), torch.randn(3, 5)
    monkeypatch.setattr("samora_pipeline.reporting.attention.freeze", lambda network, parts: None)
    probe = NetworkProbe(_LinearNetwork(embedding, weights), loaded.config, CPU, None)  # type: ignore[arg-type]
    reference = np.zeros((1, 64, 64), dtype=np.uint8)
    reference[0, 8:24, 8:24] = 1
    images = np.zeros((1, 1, 64, 64), dtype=np.float32)
    stack = CaseStack("case", images, reference, (reference,), (1.0, 1.0, 1.0))
    logits = torch.einsum("kp,pxy->kxy", weights, embedding[0])
    chosen = logits.argmax(0) == 1
    # d(sum of chosen logits)/d embedding is the row of weights on chosen pixels and 0 elsewhere.
    by_hand = (logits[1] * chosen).clamp(min=0).numpy()
    found = relevance(probe, stack, 0, 0)
    wide = np.clip(probe.on_source_grid(stack, by_hand[None])[0], 0, None)
    assert found.found
    assert np.allclose(found.map, wide / wide.max(), atol=1e-5)
    inside = reference[0] == 1
    assert found.lift == pytest.approx(wide[inside].mean() / wide.mean(), rel=1e-4)


def test_an_organ_that_is_not_predicted_is_looked_for_in_its_reference(
    monkeypatch: pytest.MonkeyPatch, loaded: ReportedRun
) -> None:
    embedding = torch.ones(1, 1, 8, 8)
    weights = torch.tensor([[3.0], [1.0], [2.0]])
    monkeypatch.setattr("samora_pipeline.reporting.attention.freeze", lambda network, parts: None)
    probe = NetworkProbe(_LinearNetwork(embedding, weights), loaded.config, CPU, None)  # type: ignore[arg-type]
    reference = np.zeros((1, 64, 64), dtype=np.uint8)
    reference[0, :16] = 2
    stack = CaseStack("c", np.zeros((1, 1, 64, 64), np.float32), reference, (reference,), (1.0, 1.0, 1.0))
    found = relevance(probe, stack, 0, 1)
    assert not found.found
    assert found.map[:8].min() == pytest.approx(1)
    assert found.map[32:].max() == 0


def test_a_page_needs_no_place_of_this_machine(loaded: ReportedRun) -> None:
    assert isinstance(loaded.places.raw, Path)
    assert loaded.fold_of("far") == "0"
    assert loaded.prediction("far").is_file()
