"""The variants that are timed are what they are called, and the program runs from end to end at tiny size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import encoder as encoder_program
from benchmarks import encoder_variants as variants
from samora_pipeline.models.catalog import BACKBONES

TINY = ["--backbone", "samora_tiny", "--sizes", "64", "--dtypes", "fp32", "--device", "cpu", "--batch", "2"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_no_two_variants_are_equal_but_the_naive_and_the_block() -> None:
    encoder = variants.build_encoder("samora_tiny", 64, seed=0)
    images = torch.rand(2, 3, 64, 64)
    found = {name: variants.run(encoder, name, images) for name in variants.VARIANTS}
    scale = float(found["base"].abs().max())
    torch.testing.assert_close(found["naive"], found["block"], rtol=0, atol=1e-5 * scale)
    for one, other in (("base", "block"), ("base", "attention"), ("block", "attention")):
        assert (found[one] - found[other]).abs().max() > 1e-3 * scale
    assert max(variants.check(encoder, images).values()) < 1e-5


def test_the_base_is_the_bare_backbone_and_is_put_back() -> None:
    encoder = variants.build_encoder("samora_tiny", 64, seed=0)
    blocks = list(encoder.blocks)
    bare = BACKBONES.get("samora_tiny").build_encoder(64)
    state = {name.replace(".block.", ".", 1): value for name, value in encoder.state_dict().items()}
    bare.load_state_dict({name: state[name] for name in bare.state_dict()})
    images = torch.rand(1, 3, 64, 64)
    before = variants.run(encoder, "block", images)
    with torch.no_grad():
        assert torch.equal(variants.run(encoder, "base", images), bare(images).embedding)
    for name in (*variants.VARIANTS, "apart"):
        variants.run(encoder, name, images)
    assert list(encoder.blocks) == blocks
    assert torch.equal(variants.run(encoder, "block", images), before)


def test_four_passes_cost_what_they_should() -> None:
    """On ViT-B at 224 px: SAM alone 35 GFLOP, and 1.21 times as much apart as in one block."""
    base, naive, block, attention = (variants.count_gflop("sam_vit_b", 224, name) for name in variants.VARIANTS)
    assert base == pytest.approx(35.4, abs=0.1)
    assert naive / block == pytest.approx(1.21, abs=0.01)
    assert attention / base == pytest.approx(1.48, abs=0.01)


@pytest.mark.slow
def test_the_program_measures_checks_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(encoder_program.PEAK_SIDE, "cpu", 64)
    encoder_program.main([*TINY, "--repeats", "2", "--json", str(tmp_path / "found.json")])
    said = capsys.readouterr().out
    assert "cpu fp32 64 px, batch 2, 1 threads, 2 rounds" in said
    assert all(f"\n  {name} " in said for name in ("base", "naive", "block", "attention"))
    (result,) = json.loads((tmp_path / "found.json").read_text())
    assert set(result["variants"]) == {"base", "naive", "block", "attention"}
    assert all(one["seconds_per_slice"] > 0 for one in result["variants"].values())
    low, high = result["naive_over_block"][1:]
    assert low <= result["naive_over_block"][0] <= high


def test_nothing_is_timed_when_outputs_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_program, "check", lambda encoder, images: {"block": 0.5, "attention": 0.0})
    with pytest.raises(SystemExit, match="nothing was timed"):
        encoder_program.main(TINY)
