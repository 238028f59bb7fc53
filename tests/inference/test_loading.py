from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from samora_pipeline.contracts.checkpoints import load_checkpoint, save_checkpoint
from samora_pipeline.contracts.json_io import read_json, to_plain, write_json
from samora_pipeline.contracts.model_spec import ModuleSpec
from samora_pipeline.contracts.plans import Planned
from samora_pipeline.contracts.run import BASE_FILE, CONFIG_FILE, FINAL_CHECKPOINT, BaseRecord, RunConfig
from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.files import digest_file
from samora_pipeline.inference.loading import find_base, load_folds
from samora_pipeline.models.assembly import build_network, trained_state
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.weights.sam_checkpoint import base_state
from tests.fake_run import make_plans, write_fake_run


def test_networks_are_those_that_were_saved(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path, folds=("0", "1"))
    folds = load_folds([run / "fold_0", run / "fold_1"], tmp_path)
    torch.manual_seed(0)
    first = build_network(folds[0].config.model)
    torch.manual_seed(1)
    second = build_network(folds[1].config.model)
    for name, tensor in first.state_dict().items():
        assert torch.equal(folds[0].network.state_dict()[name], tensor), name
    assert isinstance(first, SegmentationNetwork)
    assert isinstance(folds[1].network, SegmentationNetwork)
    # The second fold was trained on the first one's base.
    trained, base = trained_state(second), base_state(first)
    assert all(torch.equal(folds[1].network.state_dict()[name], tensor) for name, tensor in trained.items())
    encoder = {name: tensor for name, tensor in base_state(folds[1].network).items() if name.startswith("image_enc")}
    assert encoder
    assert all(torch.equal(base[name], tensor) for name, tensor in encoder.items())


class OneLayer(nn.Sequential):
    def __init__(self, in_channels: int, num_outputs: int) -> None:
        super().__init__(nn.Conv2d(in_channels, num_outputs, 1), nn.BatchNorm2d(num_outputs))


def test_a_module_is_loaded_without_a_base(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path)
    spec = ModuleSpec("tests.inference.test_loading:OneLayer", 64, 3)
    network = build_network(spec)
    network(torch.rand(2, 1, 64, 64))  # moves the statistics of the norm
    save_checkpoint(
        run / "fold_0" / FINAL_CHECKPOINT, trained_state(network), {"model": to_plain(spec), "base_digest": ""}
    )
    config = replace(read_json(RunConfig, run / "fold_0" / CONFIG_FILE), model=spec, base=None)
    write_json(config, run / "fold_0" / CONFIG_FILE)
    (run / BASE_FILE).unlink()
    (fold,) = load_folds([run / "fold_0"], tmp_path, allow_code=True)
    assert all(torch.equal(fold.network.state_dict()[name], value) for name, value in network.state_dict().items())


def test_the_base_is_found_by_its_digest(tmp_path: Path) -> None:
    run, weights = tmp_path / "run", tmp_path / "weights"
    fold = run / "fold_0"
    fold.mkdir(parents=True)
    weights.mkdir()
    wanted = weights / "renamed.bin"
    wanted.write_bytes(b"the base")
    (weights / "another.bin").write_bytes(b"another file")
    record = BaseRecord("sam_vit_b", digest_file(wanted), "public")
    assert find_base(record, fold, weights) == wanted
    for place in (run / BASE_FILE, fold / BASE_FILE):
        place.write_bytes(b"the base")
        assert find_base(record, fold, weights) == place


def test_another_base_is_refused_in_one_sentence(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path)
    with (run / BASE_FILE).open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(DataError, match="E-WEIGHT-09") as caught:
        load_folds([run / "fold_0"], tmp_path / "weights")
    assert caught.value.text().splitlines()[0].endswith("is another file than the one this run was trained on")
    (run / BASE_FILE).unlink()
    with pytest.raises(AssetError, match="E-WEIGHT-05"):
        load_folds([run / "fold_0"], tmp_path / "weights")


def test_damage_is_told(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path)
    path = run / "fold_0" / FINAL_CHECKPOINT
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="E-CKPT-02"):
        load_folds([run / "fold_0"], tmp_path)
    config = run / "fold_0" / CONFIG_FILE
    config.write_text(json.dumps({**json.loads(config.read_text()), "surprise": 1}))
    with pytest.raises(DataError, match=r"E-JSON-03.*surprise"):
        load_folds([run / "fold_0"], tmp_path)


def test_a_checkpoint_of_another_base_is_refused(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path)
    path = run / "fold_0" / FINAL_CHECKPOINT
    checkpoint = load_checkpoint(path)
    save_checkpoint(path, checkpoint.tensors, {**checkpoint.record, "base_digest": "0" * 64})
    with pytest.raises(DataError, match="E-RUN-04"):
        load_folds([run / "fold_0"], tmp_path)


def test_folds_of_different_plans_are_not_averaged(tmp_path: Path) -> None:
    one = write_fake_run(tmp_path / "a")
    other = write_fake_run(tmp_path / "b", plans=make_plans(slice_axis="coronal"))
    with pytest.raises(DataError, match="E-RUN-03"):
        load_folds([one / "fold_0", other / "fold_0"], tmp_path)


def test_an_edited_description_is_not_predicted_with(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path)
    path = run / "fold_0" / CONFIG_FILE
    config = read_json(RunConfig, path)
    other_reason = replace(config.plans, slice_axis=Planned(config.plans.slice_axis.value, "another reason"))
    write_json(replace(config, plans=other_reason), path)
    load_folds([run / "fold_0"], tmp_path)
    write_json(replace(config, plans=replace(config.plans, slice_axis=Planned("coronal", "tests"))), path)
    with pytest.raises(DataError, match="E-RUN-06"):
        load_folds([run / "fold_0"], tmp_path)


def test_a_module_of_any_size_is_compared_before_it_has_memory(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path)
    network = build_network(ModuleSpec("unet2d", 64, 3, options={"widths": [2, 4]}))
    large = ModuleSpec("unet2d", 64, 3, options={"widths": [2, 1 << 20]})
    record = {"model": to_plain(large), "base_digest": ""}
    save_checkpoint(run / "fold_0" / FINAL_CHECKPOINT, trained_state(network), record)
    config = replace(read_json(RunConfig, run / "fold_0" / CONFIG_FILE), model=large, base=None)
    write_json(config, run / "fold_0" / CONFIG_FILE)
    with pytest.raises(DataError, match="E-MODEL-03"):
        load_folds([run / "fold_0"], tmp_path)
