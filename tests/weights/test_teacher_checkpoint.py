"""Public files of teachers, written in each layout from a network with random weights, are read with nothing over."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.models.catalog import TEACHERS
from samora_pipeline.models.teachers.mae import MAE_TINY, MaeTeacher
from samora_pipeline.models.teachers.simclr import ResNetGeometry, SimclrDesign, SimclrTeacher
from samora_pipeline.models.teachers.teacher import Teacher
from samora_pipeline.weights.teacher_checkpoint import load_simclr, load_teacher
from tests.models.teachers.simclr_reference import Array, randomised, tensorflow_variables
from tests.weights.test_weights_recognise import entry, message, table

SMALL = SimclrDesign(ResNetGeometry(filters=8, depths=(1, 2, 1, 1)), native_size=64)


def simclr(seed: int) -> SimclrTeacher:
    torch.manual_seed(seed)
    teacher = SMALL.build()
    randomised(teacher)
    return teacher


def mae(seed: int, size: int | None = None) -> MaeTeacher:
    torch.manual_seed(seed)
    return MAE_TINY.build(size)


def converted(teacher: SimclrTeacher) -> dict[str, dict[str, Tensor]]:
    """The converted layout, written out by walking through the network as its converter does."""
    resnet: dict[str, Tensor] = {}

    def norm(name: str, module: nn.Module) -> None:
        resnet.update({f"{name}.{leaf}": tensor for leaf, tensor in module.state_dict().items()})

    stem = teacher.encoder.stem
    for number, position in enumerate((0, 3, 6)):
        resnet[f"net.0.{2 * number}.weight"] = stem.get_parameter(f"{position}.weight")
        norm(f"net.0.{2 * number + 1}.0", stem[position + 1])
    blocks: Any
    for group, blocks in enumerate(teacher.encoder.groups, start=1):
        for number, block in enumerate(blocks):
            at = f"net.{group}.blocks.{number}"
            if number == 0:
                resnet[f"{at}.projection.shortcut.2.weight"] = block.shortcut.convolution.weight
                norm(f"{at}.projection.bn.0", block.shortcut.norm)
            resnet[f"{at}.net.0.weight"] = block.reduce.weight
            norm(f"{at}.net.1.0", block.reduce_norm)
            resnet[f"{at}.net.2.main_conv.0.weight"] = block.kernel.spread.weight
            norm(f"{at}.net.2.main_conv.1.0", block.kernel.spread_norm)
            resnet[f"{at}.net.2.mixing_conv.0.weight"] = block.kernel.squeeze.weight
            norm(f"{at}.net.2.mixing_conv.1.0", block.kernel.squeeze_norm)
            resnet[f"{at}.net.2.mixing_conv.2.weight"] = block.kernel.excite.weight
            resnet[f"{at}.net.3.weight"] = block.expand.weight
            norm(f"{at}.net.4.0", block.expand_norm)
    width = teacher.shapes["pooled"].width
    resnet |= {"fc.weight": torch.randn(10, width), "fc.bias": torch.randn(10)}
    return {"resnet": resnet, "head": teacher.head.state_dict()}


def tensorflow_state(teacher: SimclrTeacher) -> dict[str, Array]:
    """The variables of a TensorFlow checkpoint, the accessories of its training included."""
    state = tensorflow_variables(teacher.encoder)
    for number in range(3):
        at = f"head_contrastive/nl_{number}"
        state[f"{at}/dense/kernel"] = teacher.head.get_parameter(f"layers.{3 * number}.weight").detach().numpy().T
        norm: Any = teacher.head.layers[3 * number + 1]
        leaves = {"gamma": norm.weight, "moving_mean": norm.running_mean, "moving_variance": norm.running_var}
        if number < 2:
            leaves["beta"] = norm.bias
        state |= {f"{at}/batch_normalization/{leaf}": tensor.detach().numpy() for leaf, tensor in leaves.items()}
    state |= {f"{name}/Momentum": np.zeros_like(value) for name, value in list(state.items())}
    state |= {f"ema_model/{name}": value * 2 for name, value in list(state.items()) if name.startswith("base_model")}
    return state | {"head_supervised/linear_layer/dense/kernel": np.zeros((4, 2), dtype=np.float32)}


def write_tensorflow(state: dict[str, Array], index: Path) -> Path:
    content, entries = b"", {"": message((1, 1))}
    for name, value in state.items():
        raw = np.ascontiguousarray(value, dtype="<f4").tobytes()
        entries[name] = entry(value.shape, len(content), len(raw))
        content += raw
    index.write_bytes(table(entries, 16))
    index.with_name(f"{index.stem}.data-00000-of-00001").write_bytes(content)
    return index


def assert_equal(found: nn.Module, expected: nn.Module) -> None:
    for (name, one), (other, two) in zip(found.state_dict().items(), expected.state_dict().items(), strict=True):
        assert name == other
        assert name.endswith("num_batches_tracked") or torch.equal(one, two), name


def test_a_converted_file_is_read(tmp_path: Path) -> None:
    source, teacher = simclr(1), simclr(2)
    torch.save(converted(source), tmp_path / "r50.pth")
    report = load_teacher(teacher, tmp_path / "r50.pth")
    assert_equal(teacher, source)
    assert report.kept == ()
    assert set(report.dropped) == {"resnet.fc.weight", "resnet.fc.bias"}


def test_the_converted_names_and_shapes_at_full_size() -> None:
    with torch.device("meta"):
        teacher = TEACHERS.get("simclr_r50_2x_sk1").build()
        assert isinstance(teacher, SimclrTeacher)
        content = converted(teacher)
    resnet = {name: tuple(tensor.shape) for name, tensor in content["resnet"].items()}
    assert len(resnet) == 444
    known = {
        "net.0.0.weight": (64, 3, 3, 3),
        "net.0.4.weight": (128, 64, 3, 3),
        "net.0.5.0.running_var": (128,),
        "net.1.blocks.0.projection.shortcut.2.weight": (512, 128, 1, 1),
        "net.3.blocks.5.net.2.mixing_conv.0.weight": (32, 512, 1, 1),
        "net.4.blocks.2.net.2.main_conv.0.weight": (2048, 1024, 3, 3),
        "net.4.blocks.2.net.2.mixing_conv.2.weight": (2048, 64, 1, 1),
        "net.4.blocks.2.net.4.0.weight": (4096,),
    }
    assert known.items() <= resnet.items()
    assert [tuple(content["head"][f"layers.{n}.weight"].shape) for n in (0, 3, 6)] == [
        (4096, 4096),
        (4096, 4096),
        (128, 4096),
    ]
    flat = {f"{part}.{name}": tensor for part, tensors in content.items() for name, tensor in tensors.items()}
    assert len(load_simclr(teacher, flat).loaded) == 442 + 18


def test_the_head_may_be_missing_but_not_half_of_it(tmp_path: Path) -> None:
    content = converted(simclr(1))
    torch.save({"resnet": content["resnet"]}, tmp_path / "encoder.pth")
    teacher = simclr(2)
    report = load_teacher(teacher, tmp_path / "encoder.pth")
    assert_equal(teacher.encoder, simclr(1).encoder)
    assert_equal(teacher.head, simclr(2).head)
    assert {name.split(".")[0] for name in report.kept} == {"head"}
    del content["head"]["layers.3.weight"]
    torch.save(content, tmp_path / "half.pth")
    with pytest.raises(DataError, match=r"E-WEIGHT-06[\s\S]*head.layers.3.weight"):
        load_teacher(simclr(2), tmp_path / "half.pth")


def test_a_tensorflow_checkpoint_is_read_without_tensorflow(tmp_path: Path) -> None:
    source, teacher = simclr(1), simclr(2)
    index = write_tensorflow(tensorflow_state(source), tmp_path / "model.ckpt-250228.index")
    report = load_teacher(teacher, index)
    assert_equal(teacher, source)
    assert report.kept == ("head.layers.7.bias",)


SAVE = """
import sys
import tensorflow
import numpy

content = numpy.load(sys.argv[1], allow_pickle=False)
tensorflow.raw_ops.SaveV2(
    prefix=sys.argv[2],
    tensor_names=content.files,
    shape_and_slices=[""] * len(content.files),
    tensors=[tensorflow.constant(content[name]) for name in content.files],
)
"""


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed")
def test_tensorflows_own_checkpoint_is_read(tmp_path: Path) -> None:
    source, teacher = simclr(1), simclr(2)
    arrays: dict[str, Any] = tensorflow_state(source)
    np.savez(tmp_path / "state.npz", **arrays)
    # In a process of its own: imported into one where torch has computed already, TensorFlow crashes.
    command = [sys.executable, "-c", SAVE, str(tmp_path / "state.npz"), str(tmp_path / "model.ckpt-1")]
    subprocess.run(command, check=True, capture_output=True)
    load_teacher(teacher, tmp_path / "model.ckpt-1.index")
    assert_equal(teacher, source)


def test_faults_of_a_tensorflow_checkpoint(tmp_path: Path) -> None:
    index = write_tensorflow(tensorflow_state(simclr(1)), tmp_path / "model.index")
    data = tmp_path / "model.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 8])
    with pytest.raises(DataError, match="E-WEIGHT-07"):
        load_teacher(simclr(2), index)
    data.unlink()
    with pytest.raises(AssetError, match="E-WEIGHT-05"):
        load_teacher(simclr(2), index)
    data.write_bytes(np.full(len(whole) // 4, np.nan, dtype="<f4").tobytes())
    with pytest.raises(DataError, match="E-WEIGHT-08"):
        load_teacher(simclr(2), index)
    index.write_bytes(b"\0" * 100 + index.read_bytes()[-48:])
    with pytest.raises(DataError, match="E-WEIGHT-07"):
        load_teacher(simclr(2), index)


def test_names_of_a_tensorflow_checkpoint_at_full_size() -> None:
    """Layer numbers by hand: 3 of the stem, then per block the shortcut first; 87 convolutions, 71 norms."""
    with torch.device("meta"):
        teacher = TEACHERS.get("simclr_r50_2x_sk1").build()
        assert isinstance(teacher, SimclrTeacher)
        state = {
            "base_model/conv2d/kernel": torch.empty(3, 3, 3, 64),
            "base_model/conv2d_3/kernel": torch.empty(1, 1, 128, 512),  # shortcut of the first block
            "base_model/conv2d_5/kernel": torch.empty(3, 3, 128, 256),  # its selective kernel
            "base_model/conv2d_7/kernel": torch.empty(1, 1, 32, 256),  # mixing weights
            "base_model/conv2d_86/kernel": torch.empty(1, 1, 1024, 4096),
            "base_model/batch_normalization_3/gamma": torch.empty(512),
            "base_model/batch_normalization_70/gamma": torch.empty(4096),
        }
    with pytest.raises(DataError, match="E-WEIGHT-06") as caught:
        load_simclr(teacher, state)
    # All of them belong to the network; what is missing is the rest of 87 + 4 x 71 encoder tensors.
    assert caught.value.found.startswith(f"{87 + 4 * 71 - len(state)} tensors are missing")


@pytest.mark.parametrize("make", [simclr, mae])
def test_what_this_package_writes_is_read(make: Callable[[int], Teacher], tmp_path: Path) -> None:
    teacher, other = make(1), make(2)
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    report = load_teacher(other, tmp_path / "teacher.safetensors")
    assert_equal(other, teacher)
    assert (report.kept, report.dropped) == ((), ())


def test_a_full_mae_file_is_read(tmp_path: Path) -> None:
    source, teacher = mae(1), mae(2)
    torch.save({"model": source.state_dict()}, tmp_path / "full.pth")
    report = load_teacher(teacher, tmp_path / "full.pth")
    assert_equal(teacher, source)
    assert set(report.loaded) == source.state_dict().keys()
    assert str(report) == f"{len(report.loaded)} loaded"


def test_an_encoder_of_mae_leaves_the_decoder_random(tmp_path: Path) -> None:
    source, teacher = mae(1), mae(2)
    encoder = {n: t for n, t in source.state_dict().items() if not n.startswith("decoder") and n != "mask_token"}
    torch.save({"model": encoder}, tmp_path / "encoder.pth")
    report = load_teacher(teacher, tmp_path / "encoder.pth")
    assert set(report.loaded) == encoder.keys()
    assert set(report.kept) == source.state_dict().keys() - encoder.keys()
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, encoder[name] if name in encoder else mae(2).state_dict()[name])
    assert "left at their random start" in str(report)


def test_a_mae_file_fits_another_input_size(tmp_path: Path) -> None:
    source, teacher = mae(1), mae(2, 192)
    torch.save(source.state_dict(), tmp_path / "full.pth")
    report = load_teacher(teacher, tmp_path / "full.pth")
    assert set(report.dropped) == {"pos_embed", "decoder_pos_embed"}
    assert torch.equal(teacher.pos_embed, mae(3, 192).pos_embed)
    assert torch.equal(teacher.decoder_pred.weight, source.decoder_pred.weight)


@pytest.mark.parametrize(
    ("change", "message_part"),
    [
        (lambda state: state.pop("norm.weight"), "1 tensors are missing, first norm.weight"),
        (lambda state: state.update({"head.weight": torch.zeros(2, 2)}), "1 tensors too many, first head.weight"),
        (lambda state: state.update({"norm.bias": torch.zeros(3)}), r"norm.bias \(3,\)"),
        (lambda state: state.pop("mask_token"), "1 tensors are missing, first mask_token"),
    ],
)
def test_a_misfit_is_named_and_nothing_is_written(
    change: Callable[[dict[str, Tensor]], object], message_part: str, tmp_path: Path
) -> None:
    state, teacher = mae(1).state_dict(), mae(2)
    change(state)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(DataError, match=f"E-WEIGHT-06[\\s\\S]*{message_part}"):
        load_teacher(teacher, tmp_path / "bad.pth")
    assert_equal(teacher, mae(2))


def test_a_file_of_the_other_family_is_refused(tmp_path: Path) -> None:
    torch.save(mae(1).state_dict(), tmp_path / "mae.pth")
    with pytest.raises(DataError, match="E-WEIGHT-06"):
        load_teacher(simclr(1), tmp_path / "mae.pth")
    with pytest.raises(AssetError, match="E-WEIGHT-05"):
        load_teacher(simclr(1), tmp_path / "none.pth")
