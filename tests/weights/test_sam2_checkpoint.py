"""Public SAM 2 states, saved from sam2's own classes, read into networks of other sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import sam2
import torch
from omegaconf import OmegaConf
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from samora_pipeline.contracts.model_spec import Level, ModelSpec
from samora_pipeline.errors import DataError
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.backbones.backbone import PIXEL_MEAN, PIXEL_STD
from samora_pipeline.weights.catalog import ASSETS
from samora_pipeline.weights.files import read_weights
from samora_pipeline.weights.recognise import recognise
from samora_pipeline.weights.sam_checkpoint import base_state, load_base

CONFIGS = Path(sam2.__file__).parent / "configs"
SMALLER = {
    "sam2.1_hiera_tiny": "sam2.1/sam2.1_hiera_t.yaml",
    "sam2.1_hiera_small": "sam2.1/sam2.1_hiera_s.yaml",
}
PUBLISHED = {"2.0": "sam2/sam2_hiera_b+.yaml", "2.1": "sam2.1/sam2.1_hiera_b+.yaml"}


def reference(file: str, size: int = 1024, *, small: bool = False) -> SAM2Base:
    """SAM 2 as sam2's builder makes it from a configuration file; ``small``: with the sizes of samora2_tiny."""
    from hydra.utils import instantiate

    config = OmegaConf.load(CONFIGS / file)
    config.model.image_size = size
    if small:
        config = OmegaConf.merge(config, OmegaConf.create({"model": SMALL}))
    OmegaConf.resolve(config)
    model: SAM2Base = instantiate(config.model)
    return model


SMALL = {
    "image_encoder": {
        "trunk": {"embed_dim": 24, "num_heads": 1, "stages": [1, 1, 2, 1], "global_att_blocks": [3]},
        "neck": {
            "d_model": 64,
            "backbone_channel_list": [192, 96, 48, 24],
            "position_encoding": {"num_pos_feats": 64},
        },
    },
    "memory_attention": {
        "d_model": 64,
        "num_layers": 1,
        "layer": {
            "d_model": 64,
            "dim_feedforward": 64,
            "self_attention": {"embedding_dim": 64},
            "cross_attention": {"embedding_dim": 64, "kv_in_dim": 32},
        },
    },
    "memory_encoder": {"out_dim": 32, "position_encoding": {"num_pos_feats": 32}},
}


@pytest.fixture(scope="module", params=["2.0", "2.1"])
def model(request: pytest.FixtureRequest) -> SAM2Base:
    """A small SAM 2 with all its video modules and random weights, three masks and a decoder of SAMora's tiny sizes."""
    torch.manual_seed(0)
    made = reference(PUBLISHED[request.param], 64, small=True)
    made.sam_mask_decoder = MaskDecoder(
        transformer_dim=64,
        transformer=TwoWayTransformer(depth=2, embedding_dim=64, num_heads=4, mlp_dim=256),
        num_multimask_outputs=3,
        iou_head_hidden_dim=64,
        use_high_res_features=True,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.1)
    return made.eval()


def test_a_file_is_used_up_and_video_modules_are_named(model: SAM2Base, tmp_path: Path) -> None:
    torch.save({"model": model.state_dict()}, tmp_path / "sam2.pt")
    state = read_weights(tmp_path / "sam2.pt")
    network = build_network(ModelSpec("samora2_tiny", 64, num_outputs=4, decoder="sam2", lora_rank=4))
    report = load_base(network, state)
    assert sorted((*report.loaded, *report.video)) == sorted(state)
    assert (report.resized, report.dropped) == ((), ())
    assert {name.split(".")[0] for name in report.video} >= {"memory_attention", "memory_encoder", "obj_ptr_proj"}
    assert not any(name.startswith(("image_encoder", "sam_")) for name in report.video)
    assert str(report) == f"{len(report.loaded)} loaded, {len(report.video)} for videos alone"
    saved = base_state(network)
    assert saved.keys() == set(report.loaded)
    assert all(torch.equal(saved[name], state[name]) for name in saved)


def expected_maps(model: SAM2Base, images: Tensor) -> Tensor:
    """The path of sam2's image predictor, from pixels to the maps of all mask tokens."""
    count, size = len(images), images.shape[-1]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    prompts = model.sam_prompt_encoder
    prompts.image_embedding_size = (size // 16, size // 16)
    levels = model.forward_image((images - mean) / std)["backbone_fpn"]
    sparse, dense = prompts(points=None, boxes=None, masks=None)
    maps, *_ = model.sam_mask_decoder.predict_masks(
        image_embeddings=levels[2] + model.no_mem_embed.permute(1, 2, 0)[..., None],
        image_pe=prompts.get_dense_pe(),
        sparse_prompt_embeddings=sparse.expand(count, -1, -1),
        dense_prompt_embeddings=dense.expand(count, -1, -1, -1),
        repeat_image=False,
        high_res_features=levels[:2],
    )
    return maps


@pytest.mark.parametrize("size", [64, 224, 512])
def test_a_network_is_sam2_without_prompts(model: SAM2Base, size: int) -> None:
    network = build_network(ModelSpec("samora2_tiny", size, num_outputs=4, in_channels=3, decoder="sam2", lora_rank=4))
    load_base(network, model.state_dict())
    images = torch.rand(1 if size == 512 else 2, 3, size, size)
    with torch.no_grad():
        expected, got = expected_maps(model, images), network(images)
    assert got.shape == (len(images), 4, size // 4, size // 4)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", SMALLER)
def test_the_smaller_ones_at_full_size(name: str, tmp_path: Path) -> None:
    """With a file of the published layout and nearly its size, under new experts that change nothing."""
    torch.manual_seed(0)
    public = reference(SMALLER[name]).eval()
    # Tables that sam2 starts at zero would hide where they are read to.
    with torch.no_grad():
        for table in (public.image_encoder.trunk.pos_embed, public.image_encoder.trunk.pos_embed_window):
            table.normal_(0, 0.02)
    torch.save({"model": public.state_dict()}, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size == pytest.approx(ASSETS[name].size, rel=1e-3)
    assert recognise(tmp_path / "x.pt") == name
    network = build_network(ModelSpec(name, 224, num_outputs=4, in_channels=3, decoder="sam2", lora_rank=4)).eval()
    state = read_weights(tmp_path / "x.pt")
    report = load_base(network, state)
    assert sorted((*report.loaded, *report.video)) == sorted(state)
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected, got = expected_maps(public, images), network(images)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_another_number_of_outputs_drops_what_belongs_to_them(model: SAM2Base) -> None:
    state = model.state_dict()
    network = build_network(
        ModelSpec("samora2_tiny", 224, num_outputs=9, levels=(Level.IMAGE,), decoder="sam2", lora_rank=4)
    )
    report = load_base(network, state)
    assert sorted((*report.loaded, *report.dropped, *report.video)) == sorted(state)
    assert {name.split(".")[1] for name in report.dropped} == {
        "mask_tokens",
        "output_hypernetworks_mlps",
        "iou_prediction_head",
    }
    saved = base_state(network)
    assert all(torch.equal(saved[name], state[name]) for name in report.loaded)


@pytest.mark.parametrize("spoil", ["missing", "left over", "shape", "of SAM"])
def test_a_file_that_does_not_fit_is_refused_before_anything_is_written(model: SAM2Base, spoil: str) -> None:
    state = dict(model.state_dict())
    expected = "image_encoder.trunk.pos_embed_window"
    if spoil == "missing":
        del state[expected]
    elif spoil == "left over":
        expected = "image_encoder.trunk.blocks.5.norm1.weight"
        state[expected] = torch.zeros(192)
    elif spoil == "shape":
        state[expected] = torch.zeros(1, 24, 7, 7)
    else:
        with torch.device("meta"):
            state, expected = (
                base_state(build_network(ModelSpec("sam_vit_b", 1024, 4, levels=(), lora_rank=4))),
                "sam_vit_b",
            )
    network = build_network(ModelSpec("samora2_tiny", 64, num_outputs=4, decoder="sam2", lora_rank=4))
    before = base_state(network)
    with pytest.raises(DataError, match=f"E-WEIGHT-06[\\s\\S]*{expected}"):
        load_base(network, state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base_state(network).items())


def test_the_file_of_another_family_is_refused_by_name() -> None:
    with torch.device("meta"):
        state = base_state(build_network(ModelSpec("sam2_hiera_b+", 1024, 4, levels=(), decoder="sam2", lora_rank=4)))
        network = build_network(ModelSpec("sam_vit_b", 224, num_outputs=9, lora_rank=4))
    with pytest.raises(DataError, match=r"E-WEIGHT-06[\s\S]*looks like sam2_hiera_b\+"):
        load_base(network, state)


@pytest.mark.parametrize(("version", "tensors", "total"), [("2.0", 612, 80_833_666), ("2.1", 615, 80_850_178)])
def test_the_whole_public_layout_fits_hiera_b_plus(
    version: str, tensors: int, total: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = torch.linspace
    monkeypatch.setattr(torch, "linspace", lambda *values: rates(*values, device="cpu"))
    with torch.device("meta"):
        public = reference(PUBLISHED[version])
        network = build_network(ModelSpec("sam2_hiera_b+", 224, num_outputs=9, decoder="sam2", lora_rank=4))
    state = public.state_dict()
    assert len(state) == tensors
    assert sum(parameter.numel() for parameter in public.parameters()) == total
    report = load_base(network, state)
    assert sorted((*report.loaded, *report.dropped, *report.video)) == sorted(state)
    assert len(report.loaded) + len(report.dropped) == 306 + 131 + 17 + 1
