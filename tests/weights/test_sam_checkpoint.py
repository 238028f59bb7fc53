"""Public SAM states, saved from the reference classes, read into networks of other sizes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from samora_pipeline.contracts.model_spec import Level, ModelSpec
from samora_pipeline.errors import DataError
from samora_pipeline.models.assembly import build_network, public_names, trained_state
from samora_pipeline.models.backbones.sam import SamBackbone
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.weights.sam_checkpoint import base_state, load_base

NARROW = SamBackbone(embed_dim=48, depth=3, heads=3, global_attn_indexes=(1,), prompt_dim=32, decoder_mlp_dim=64)
GLOBAL_TABLES = {f"image_encoder.blocks.1.attn.rel_pos_{axis}" for axis in "hw"}
POSITIONS = "image_encoder.pos_embed"


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES._entries, "narrow", NARROW)
    torch.manual_seed(0)


def reference(size: int, masks: int = 3) -> nn.ModuleDict:
    """The three parts of SAM at the narrow width, as the package itself puts them together."""
    grid = (size // 16, size // 16)
    sam = nn.ModuleDict(
        {
            "image_encoder": ImageEncoderViT(
                img_size=size,
                embed_dim=48,
                depth=3,
                num_heads=3,
                out_chans=32,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                use_rel_pos=True,
                window_size=14,
                global_attn_indexes=(1,),
            ),
            "prompt_encoder": PromptEncoder(32, grid, (size, size), mask_in_chans=16),
            "mask_decoder": MaskDecoder(
                transformer_dim=32,
                transformer=TwoWayTransformer(depth=2, embedding_dim=32, num_heads=8, mlp_dim=64),
                num_multimask_outputs=masks,
            ),
        }
    )
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.normal_(0, 0.1)
    return sam


@pytest.fixture(scope="module")
def state_at_1024() -> dict[str, Tensor]:
    """What a file saved at the published input size holds."""
    state: dict[str, Tensor] = reference(1024).state_dict()
    return state


def interpolated(values: Tensor, length: int) -> Tensor:
    """Linear interpolation of rows with half-pixel centres, ends repeated: (L,c) to (length,c)."""
    rows = []
    for index in range(length):
        place = min(max((index + 0.5) * len(values) / length - 0.5, 0), len(values) - 1)
        low = int(place)
        high = min(low + 1, len(values) - 1)
        rows.append(values[low] + (place - low) * (values[high] - values[low]))
    return torch.stack(rows)


def own(network: SegmentationNetwork) -> dict[str, Tensor]:
    tensors = network.state_dict()
    return {public: tensors[name] for public, name in public_names(network).items()}


@pytest.mark.parametrize("size", [224, 512])
@pytest.mark.parametrize("num_outputs", [4, 9])
def test_a_file_of_1024_px_is_used_up_by_a_smaller_network(
    size: int, num_outputs: int, state_at_1024: dict[str, Tensor]
) -> None:
    state = state_at_1024
    network = build_network(ModelSpec("narrow", size, num_outputs, lora_rank=4))
    report = load_base(network, state)
    assert sorted(report.loaded + report.resized + report.dropped) == sorted(state)
    assert set(report.resized) == {POSITIONS} | GLOBAL_TABLES
    assert bool(report.dropped) == (num_outputs != 4)
    for name in report.dropped:
        assert name.split(".")[1] in ("mask_tokens", "output_hypernetworks_mlps", "iou_prediction_head")
    tensors = own(network)
    for name in report.loaded:
        assert torch.equal(tensors[name], state[name])


@pytest.mark.parametrize("size", [224, 512])
def test_resized_tables_equal_linear_interpolation(size: int, state_at_1024: dict[str, Tensor]) -> None:
    state = state_at_1024
    network = build_network(ModelSpec("narrow", size, num_outputs=4, lora_rank=4))
    load_base(network, state)
    grid = size // 16
    for name in GLOBAL_TABLES:
        torch.testing.assert_close(own(network)[name], interpolated(state[name], 2 * grid - 1), rtol=0, atol=1e-5)
    rows = interpolated(state[POSITIONS][0], grid)
    expected = interpolated(rows.transpose(0, 1), grid).transpose(0, 1)[None]
    torch.testing.assert_close(own(network)[POSITIONS], expected, rtol=0, atol=1e-5)


def test_at_the_size_of_the_file_the_network_is_the_reference() -> None:
    sam = reference(256)
    network = build_network(ModelSpec("narrow", 256, num_outputs=4, lora_rank=4))
    report = load_base(network, sam.state_dict())
    assert (report.resized, report.dropped) == ((), ())
    images = torch.rand(2, 3, 256, 256)
    with torch.no_grad():
        sparse, dense = sam["prompt_encoder"](None, None, None)
        parts: Any = sam
        positions = parts["prompt_encoder"].get_dense_pe()
        embedding = sam["image_encoder"](images)
        expected, _ = parts["mask_decoder"].predict_masks(embedding, positions, sparse, dense)
        network.in_channels = 3
        assert torch.equal(network(images), expected)


@pytest.mark.parametrize("outputs", [3, 6])
def test_outputs_may_start_as_copies_of_those_of_the_file(outputs: int) -> None:
    state = reference(256).state_dict()
    network = build_network(ModelSpec("narrow", 256, num_outputs=outputs, lora_rank=4))
    report = load_base(network, state, copy_outputs=True)
    assert sorted(report.loaded + report.resized + report.dropped) == sorted(state)
    decoder, tokens = network.decoder.get_submodule("mask_decoder"), state["mask_decoder.mask_tokens.weight"]
    own_tokens = decoder.get_parameter("mask_tokens.weight").detach()
    for output in range(outputs):
        distances = (tokens - own_tokens[output]).norm(dim=1)
        assert int(distances.argmin()) == output % len(tokens)
        for name, tensor in decoder.get_submodule(f"output_hypernetworks_mlps.{output}").state_dict().items():
            prefix = f"mask_decoder.output_hypernetworks_mlps.{output % len(tokens)}"
            assert torch.equal(tensor, state[f"{prefix}.{name}"])
    assert len({tuple(token.tolist()) for token in own_tokens}) == outputs


def test_experts_and_fusion_are_left_alone() -> None:
    network = build_network(ModelSpec("narrow", 256, num_outputs=4, lora_rank=4))
    before = trained_state(network)
    load_base(network, reference(256).state_dict())
    after = trained_state(network)
    experts = [name for name in before if ".experts." in name or ".fusion." in name]
    assert experts
    assert all(torch.equal(before[name], after[name]) for name in experts)


def test_base_state_is_the_inverse() -> None:
    state = reference(256).state_dict()
    network = build_network(ModelSpec("narrow", 256, num_outputs=4, levels=(Level.IMAGE,), lora_rank=4))
    load_base(network, state)
    saved = base_state(network)
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name], state[name]) for name in state)


def test_half_precision_files_are_read() -> None:
    state = {name: tensor.half() for name, tensor in reference(256).state_dict().items()}
    network = build_network(ModelSpec("narrow", 512, num_outputs=4, lora_rank=4))
    load_base(network, state)
    assert own(network)[POSITIONS].dtype == torch.float32


@pytest.mark.parametrize(
    ("file", "backbone"), [("vit_l", "sam_vit_b"), ("vit_b", "sam_vit_l"), ("vit_b", "samora_tiny")]
)
def test_the_file_of_another_variant_is_refused_by_name(file: str, backbone: str) -> None:
    with torch.device("meta"):
        state = sam_model_registry[file]().state_dict()
        network = build_network(ModelSpec(backbone, 224, num_outputs=9, lora_rank=4))
    with pytest.raises(DataError, match=f"E-WEIGHT-06[\\s\\S]*looks like sam_{file}"):
        load_base(network, state)


def test_the_whole_public_layout_fits_vit_b() -> None:
    with torch.device("meta"):
        state = sam_model_registry["vit_b"]().state_dict()
        network = build_network(ModelSpec("sam_vit_b", 224, num_outputs=9, lora_rank=4))
    report = load_base(network, state)
    assert len(state) == 314
    assert sorted(report.loaded + report.resized + report.dropped) == sorted(state)
    assert len(report.resized) == 1 + 2 * 4


@pytest.mark.parametrize("spoil", ["missing", "left over", "shape", "window table", "width", "not SAM"])
def test_a_file_that_does_not_fit_is_refused_before_anything_is_written(spoil: str) -> None:
    state = reference(256).state_dict()
    expected = "mask_decoder.iou_token.weight"
    if spoil == "missing":
        del state[expected]
    elif spoil == "left over":
        expected = "mask_decoder.obj_score_token.weight"
        state[expected] = torch.zeros(1)
    elif spoil == "shape":
        state[expected] = torch.zeros(1, 31)
    elif spoil == "window table":
        expected = "image_encoder.blocks.0.attn.rel_pos_h"
        state[expected] = torch.zeros(25, 16)
    elif spoil == "width":
        expected = POSITIONS
        state[expected] = torch.zeros(1, 8, 8, 40)
    else:
        state, expected = {"fc.weight": torch.zeros(3)}, "no SAM checkpoint"
    network = build_network(ModelSpec("narrow", 256, num_outputs=4, lora_rank=4))
    before = base_state(network)
    with pytest.raises(DataError, match=f"E-WEIGHT-06[\\s\\S]*{expected}"):
        load_base(network, state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base_state(network).items())
