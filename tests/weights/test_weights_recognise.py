from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from samora_pipeline.errors import DataError
from samora_pipeline.weights.catalog import ASSETS
from samora_pipeline.weights.files import read_index, read_shapes
from samora_pipeline.weights.obtain import add, find
from samora_pipeline.weights.recognise import LAYOUTS, recognise

Shapes = dict[str, tuple[int, ...]]


def tensors(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors of full shape on one stored value each, so that the files are small."""
    return {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}


def sam_shapes(variant: str) -> Shapes:
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        network = sam_model_registry[variant]()
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def sam2_shapes(config: str, monkeypatch: pytest.MonkeyPatch) -> Shapes:
    from sam2.build_sam import build_sam2

    # The reference reads values of a table while it is built, which a network without memory has not.
    table = torch.linspace
    monkeypatch.setattr(torch, "linspace", lambda *numbers, **_: table(*numbers, device="cpu"))
    with torch.device("meta"):
        network = build_sam2(config, device="meta", apply_postprocessing=False)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def vit_blocks(prefix: str, depth: int, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for block in range(depth):
        for name, shape in (
            ("norm1", (width,)),
            ("attn.qkv", (3 * width, width)),
            ("attn.proj", (width, width)),
            ("norm2", (width,)),
            ("mlp.fc1", (4 * width, width)),
            ("mlp.fc2", (width, 4 * width)),
        ):
            yield f"{prefix}.{block}.{name}.weight", shape
            yield f"{prefix}.{block}.{name}.bias", shape[:1]


def mae_shapes(*, decoder: bool) -> Shapes:
    """The names and shapes of MAE's ViT-L, written out."""
    shapes: Shapes = {"cls_token": (1, 1, 1024), "pos_embed": (1, 197, 1024)}
    shapes |= {"patch_embed.proj.weight": (1024, 3, 16, 16), "patch_embed.proj.bias": (1024,)}
    shapes |= dict(vit_blocks("blocks", 24, 1024)) | {"norm.weight": (1024,), "norm.bias": (1024,)}
    if decoder:
        shapes |= {"mask_token": (1, 1, 512), "decoder_pos_embed": (1, 197, 512)}
        shapes |= {"decoder_embed.weight": (512, 1024), "decoder_embed.bias": (512,)}
        shapes |= dict(vit_blocks("decoder_blocks", 8, 512))
        shapes |= {"decoder_norm.weight": (512,), "decoder_norm.bias": (512,)}
        shapes |= {"decoder_pred.weight": (768, 512), "decoder_pred.bias": (768,)}
    return shapes


def simclr_shapes(width: int, depths: tuple[int, ...]) -> dict[str, Shapes]:
    """The convolutions of a converted SimCLRv2 checkpoint with selective kernels, written out."""
    stem = 32 * width
    encoder: Shapes = {"net.0.0.weight": (stem, 3, 3, 3), "net.0.2.weight": (stem, stem, 3, 3)}
    channels = 2 * stem
    for group, depth in enumerate(depths, start=1):
        filters = 64 * width * 2 ** (group - 1)
        middle = max(filters // 16, 32)
        for block in range(depth):
            at = f"net.{group}.blocks.{block}"
            encoder[f"{at}.net.0.weight"] = (filters, channels, 1, 1)
            encoder[f"{at}.net.2.main_conv.0.weight"] = (2 * filters, filters, 3, 3)
            encoder[f"{at}.net.2.mixing_conv.0.weight"] = (middle, filters, 1, 1)
            encoder[f"{at}.net.2.mixing_conv.2.weight"] = (2 * filters, middle, 1, 1)
            encoder[f"{at}.net.3.weight"] = (4 * filters, filters, 1, 1)
            channels = 4 * filters
    head: Shapes = {"layers.0.weight": (channels, channels), "layers.3.weight": (channels, channels)}
    return {"resnet": encoder, "head": head | {"layers.6.weight": (128, channels)}}


def test_every_asset_without_a_published_digest_has_a_layout_or_belongs_to_one() -> None:
    known = set(LAYOUTS)
    needed = {name for asset in ASSETS.values() for name in asset.needs}
    assert {asset.name for asset in ASSETS.values() if asset.sha256 is None} <= known | needed
    assert known <= set(ASSETS)


@pytest.mark.parametrize("variant", ["vit_b", "vit_l", "vit_h"])
def test_sam(variant: str, tmp_path: Path) -> None:
    torch.save(tensors(sam_shapes(variant)), tmp_path / "x.pth")
    assert recognise(tmp_path / "x.pth") == f"sam_{variant}"


@pytest.mark.parametrize(("version", "count"), [("2", 612), ("2.1", 615)])
def test_sam2(version: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = sam2_shapes(f"configs/sam{version}/sam{version}_hiera_b+.yaml", monkeypatch)
    assert len(shapes) == count
    torch.save({"model": tensors(shapes)}, tmp_path / "x.pt")
    assert recognise(tmp_path / "x.pt") == f"sam{version}_hiera_b+"


def test_mae(tmp_path: Path) -> None:
    for decoder, name in ((True, "mae_vit_l_full"), (False, "mae_vit_l_encoder")):
        torch.save({"model": tensors(mae_shapes(decoder=decoder))}, tmp_path / "x.pth")
        assert recognise(tmp_path / "x.pth") == name
    classifier = mae_shapes(decoder=False) | {"head.weight": (1000, 1024)}
    save_file({name: torch.zeros(shape) for name, shape in list(classifier.items())[:3]}, tmp_path / "x.safetensors")
    torch.save({"model": tensors(classifier)}, tmp_path / "x.pth")
    for file in ("x.pth", "x.safetensors"):
        with pytest.raises(DataError, match="E-WEIGHT-12"):
            recognise(tmp_path / file)


def test_simclr(tmp_path: Path) -> None:
    for width, depths, fits in (
        (2, (3, 4, 6, 3), True),
        (1, (3, 4, 6, 3), False),
        (2, (3, 4, 23, 3), False),
        (2, (3, 8, 36, 3), False),
    ):
        content = {part: tensors(shapes) for part, shapes in simclr_shapes(width, depths).items()}
        torch.save(content, tmp_path / "x.pth")
        if fits:
            assert recognise(tmp_path / "x.pth") == "simclr_r50_2x_sk1"
        else:
            with pytest.raises(DataError, match=r"E-WEIGHT-12[\s\S]*nearest to simclr_r50_2x_sk1"):
                recognise(tmp_path / "x.pth")


def test_what_is_nearest_is_named(tmp_path: Path) -> None:
    shapes = sam_shapes("vit_b")
    del shapes["mask_decoder.mask_tokens.weight"]
    torch.save(tensors(shapes), tmp_path / "sam_vit_b_01ec64.pth")
    with pytest.raises(DataError, match="E-WEIGHT-12") as caught:
        recognise(tmp_path / "sam_vit_b_01ec64.pth")
    assert "nearest to sam_vit_b, but lacks mask_decoder.mask_tokens.weight (4, 256)" in caught.value.found
    assert caught.value.exit_code == 4


def varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def message(*fields: tuple[int, int | bytes]) -> bytes:
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        else:
            parts.append(varint(number << 3 | 2) + varint(len(value)) + value)
    return b"".join(parts)


def entry(shape: tuple[int, ...], offset: int, size: int) -> bytes:
    dims = b"".join(message((2, message((1, length)))) for length in shape)
    return message((1, 1), (2, dims), (4, offset), (5, size)) + varint(6 << 3 | 5) + b"\1\2\3\4"


def block(entries: list[tuple[bytes, bytes]], every: int = 16) -> bytes:
    """A block of a LevelDB table, by its description."""
    content, restarts, last = b"", [], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % every == 0:
            restarts.append(len(content))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return content + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(entries: dict[str, bytes], in_one_block: int) -> bytes:
    content, handles = b"", []
    ordered = sorted((name.encode(), value) for name, value in entries.items())
    for start in range(0, len(ordered), in_one_block):
        piece = ordered[start : start + in_one_block]
        body = block(piece)
        handles.append((piece[-1][0], varint(len(content)) + varint(len(body))))
        content += body + b"\0" + b"crc!"
    places = []
    for body in (block([]), block(handles, every=1)):
        places += [len(content), len(body)]
        content += body + b"\0" + b"crc!"
    footer = b"".join(varint(number) for number in places).ljust(40, b"\0")
    return content + footer + struct.pack("<Q", 0xDB4775248B80FB57)


def tensorflow_entries() -> dict[str, bytes]:
    entries = {"": message((1, 1))}
    for number in range(87):
        suffix = f"_{number}" if number else ""
        shape = (1, 1, 1024, 4096) if number == 86 else (3, 3, 3, 64)
        for prefix in ("", "ema_model/"):
            entries[f"{prefix}base_model/conv2d{suffix}/kernel"] = entry(shape, number << 20, 300)
    return entries | {
        "head_contrastive/nl_2/dense/kernel": entry((4096, 128), 5, 2097152),
        "global_step": entry((), 0, 8),
    }


@pytest.mark.parametrize("in_one_block", [1, 7, 1000])
def test_a_tensorflow_checkpoint_is_read_without_tensorflow(in_one_block: int, tmp_path: Path) -> None:
    path = tmp_path / "any.index"
    path.write_bytes(table(tensorflow_entries(), in_one_block))
    assert recognise(path) == "simclr_r50_2x_sk1_tf"
    entries = read_index(path)
    assert len(entries) == 2 * 87 + 2
    last = entries["ema_model/base_model/conv2d_86/kernel"]
    assert (last.dtype, last.shape, last.shard, last.offset, last.size) == (1, (1, 1, 1024, 4096), 0, 86 << 20, 300)
    assert entries["global_step"].shape == ()


def test_a_tensorflow_checkpoint_is_added_whole_or_not_at_all(tmp_path: Path) -> None:
    index, data = tmp_path / "model.ckpt-250228.index", tmp_path / "model.ckpt-250228.data-00000-of-00001"
    index.write_bytes(table(tensorflow_entries(), 7))
    data.write_bytes(b"cut")
    with pytest.raises(DataError, match=r"E-WEIGHT-06[\s\S]*the index tells of 90,177,836 bytes"):
        add(index, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
    with data.open("wb") as stream:
        stream.truncate((86 << 20) + 300)
    asset = add(index, tmp_path / "weights", link=True)
    assert asset.name == "simclr_r50_2x_sk1_tf"
    assert find(asset.name, tmp_path / "weights").path.with_name(data.name).samefile(data)


@pytest.mark.parametrize("fault", [lambda b: b[60:], lambda b: b[:50] + b[-48:], lambda b: b[:-48][:9] + b[-48:]])
def test_a_damaged_index_is_refused(fault: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "any.index"
    path.write_bytes(fault(table(tensorflow_entries(), 7)))
    with pytest.raises(DataError, match="E-WEIGHT-07"):
        read_shapes(path)


def test_tensorflow_itself_agrees(tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    values = {"base_model/conv2d/kernel": tensorflow.zeros((3, 3, 3, 64)), "step": tensorflow.constant(7)}
    tensorflow.raw_ops.SaveV2(
        prefix=str(tmp_path / "model"),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )
    reader = tensorflow.train.load_checkpoint(str(tmp_path / "model"))
    wanted = {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()}
    assert {name: entry.shape for name, entry in read_index(tmp_path / "model.index").items()} == wanted
