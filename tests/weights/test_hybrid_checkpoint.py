"""TransUNet's encoder from files in the layout of the public ImageNet-21k weights, against timm's reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage

from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.models.transunet import TransUNet
from samora_pipeline.weights.hybrid_checkpoint import load_hybrid

Arrays = dict[str, npt.NDArray[np.float32]]
DEPTHS, WIDTH, HEADS, LAYERS, HIDDEN, GRID = (1, 2, 1), 48, 3, 2, 96, 4
OPTIONS = {"depths": DEPTHS, "width": WIDTH, "heads": HEADS, "layers": LAYERS, "hidden": HIDDEN}


def public_arrays(seed: int = 0) -> Arrays:
    """Random values under the names, and in the shapes, of the public file."""
    shapes: dict[str, tuple[int, ...]] = {"conv_root/kernel": (7, 7, 3, 64)}
    norms = {"gn_root": 64}
    before = 64
    for block, units in enumerate(DEPTHS, start=1):
        out = 128 * 2**block
        for unit in range(1, units + 1):
            place, inner = f"block{block}/unit{unit}", out // 4
            shapes[f"{place}/conv1/kernel"] = (1, 1, before, inner)
            shapes[f"{place}/conv2/kernel"] = (3, 3, inner, inner)
            shapes[f"{place}/conv3/kernel"] = (1, 1, inner, out)
            norms |= {f"{place}/gn1": inner, f"{place}/gn2": inner, f"{place}/gn3": out}
            if unit == 1:
                shapes[f"{place}/conv_proj/kernel"] = (1, 1, before, out)
                norms[f"{place}/gn_proj"] = out
            before = out
    head = WIDTH // HEADS
    shapes |= {"embedding/kernel": (1, 1, before, WIDTH), "embedding/bias": (WIDTH,), "cls": (1, 1, WIDTH)}
    shapes["Transformer/posembed_input/pos_embedding"] = (1, 1 + GRID**2, WIDTH)
    for layer in range(LAYERS):
        place = f"Transformer/encoderblock_{layer}"
        norms |= {f"{place}/LayerNorm_0": WIDTH, f"{place}/LayerNorm_2": WIDTH}
        for name in ("query", "key", "value"):
            shapes[f"{place}/MultiHeadDotProductAttention_1/{name}/kernel"] = (WIDTH, HEADS, head)
            shapes[f"{place}/MultiHeadDotProductAttention_1/{name}/bias"] = (HEADS, head)
        shapes[f"{place}/MultiHeadDotProductAttention_1/out/kernel"] = (HEADS, head, WIDTH)
        shapes[f"{place}/MultiHeadDotProductAttention_1/out/bias"] = (WIDTH,)
        for name, (inputs, outputs) in {"Dense_0": (WIDTH, HIDDEN), "Dense_1": (HIDDEN, WIDTH)}.items():
            shapes[f"{place}/MlpBlock_3/{name}/kernel"] = (inputs, outputs)
            shapes[f"{place}/MlpBlock_3/{name}/bias"] = (outputs,)
    norms["Transformer/encoder_norm"] = WIDTH
    for place, width in norms.items():
        one = (1, 1, 1, width) if "gn" in place else (width,)
        shapes |= {f"{place}/scale": one, f"{place}/bias": one}
    shapes |= {"pre_logits/kernel": (WIDTH, WIDTH), "head/kernel": (WIDTH, 5), "head/bias": (5,)}
    generator = np.random.default_rng(seed)
    return {
        name: (generator.normal(0, 0.1, shape) + name.endswith("scale")).astype(np.float32)
        for name, shape in shapes.items()
    }


def write(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_the_encoder_is_that_of_timm(tmp_path: Path) -> None:
    timm_hybrid = pytest.importorskip("timm.models.vision_transformer_hybrid", reason="timm is an oracle")
    from timm.models.resnetv2 import ResNetV2
    from timm.models.vision_transformer import VisionTransformer, _load_weights

    arrays = public_arrays()
    path = write(tmp_path / "public.npz", arrays)
    table = "Transformer/posembed_input/pos_embedding"
    # Without a class token timm takes a table that lacks its row.
    without = write(tmp_path / "without.npz", arrays | {table: arrays[table][:, 1:]})
    backbone = ResNetV2(
        layers=list(DEPTHS),
        num_classes=0,
        global_pool="",
        preact=False,
        stem_type="same",
        conv_layer=timm_hybrid.partial(timm_hybrid.StdConv2dSame, eps=1e-8),
    )
    size = 16 * GRID
    theirs = VisionTransformer(
        img_size=size,
        patch_size=1,
        embed_dim=WIDTH,
        depth=LAYERS,
        num_heads=HEADS,
        mlp_ratio=HIDDEN / WIDTH,
        num_classes=0,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
        embed_layer=timm_hybrid.partial(timm_hybrid.HybridEmbed, backbone=backbone, proj=True),
    )
    _load_weights(theirs, str(without))
    ours = TransUNet(3, 2, size, as_trained=True, **OPTIONS).eval()  # type: ignore[arg-type]
    report = load_hybrid(ours, path)
    assert report.resized == ()
    with torch.no_grad():
        images = torch.rand(2, 3, size, size)
        expected = theirs.eval().forward_features(images)
        found = ours.encode(ours.resnet(images)[0]).flatten(2).mT
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_positions_are_those_of_the_file_or_zoomed(tmp_path: Path) -> None:
    arrays = public_arrays()
    path = write(tmp_path / "some.npz", arrays)
    table = arrays["Transformer/posembed_input/pos_embedding"][0, 1:]
    same, larger = (TransUNet(1, 2, 16 * side, **OPTIONS) for side in (GRID, 7))  # type: ignore[arg-type]
    load_hybrid(same, path)
    assert np.array_equal(same.positions[0].detach().numpy(), table)
    assert load_hybrid(larger, path).resized == ("positions",)
    zoomed = ndimage.zoom(table.reshape(GRID, GRID, WIDTH), (7 / GRID, 7 / GRID, 1), order=1)
    assert np.allclose(larger.positions[0].detach().numpy(), zoomed.reshape(-1, WIDTH), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("gn_root/bias", None),
        ("block2/unit3/conv1/kernel", (1, 1, 512, 128)),
        ("block1/unit1/conv2/kernel", (1, 9, 64, 64)),
        ("Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel", (WIDTH, 2)),
        ("Transformer/posembed_input/pos_embedding", (1, 12, WIDTH)),
    ],
)
def test_a_misfit_writes_nothing(tmp_path: Path, name: str, shape: tuple[int, ...] | None) -> None:
    arrays = public_arrays()
    if shape is None:
        del arrays[name]
    else:
        arrays[name] = np.zeros(shape, np.float32)
    network = TransUNet(1, 2, 64, **OPTIONS)  # type: ignore[arg-type]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(DataError, match="E-WEIGHT-06"):
        load_hybrid(network, write(tmp_path / "bad.npz", arrays))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_what_is_no_file_of_arrays_is_refused(tmp_path: Path) -> None:
    network = TransUNet(1, 2, 64, **OPTIONS)  # type: ignore[arg-type]
    with pytest.raises(AssetError, match="E-WEIGHT-05"):
        load_hybrid(network, tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(DataError, match="E-WEIGHT-07"):
        load_hybrid(network, tmp_path / "text.npz")
    np.savez(tmp_path / "pickled.npz", cls=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="E-WEIGHT-07"):
        load_hybrid(network, tmp_path / "pickled.npz")
