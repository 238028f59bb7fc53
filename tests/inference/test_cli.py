"""samora_predict from the command line to the files, with a tiny network of random weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import blosc2
import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from samora_pipeline.contracts.failures import Failures
from samora_pipeline.contracts.json_io import read_json, write_json
from samora_pipeline.contracts.plans import IntensityRule
from samora_pipeline.contracts.postprocessing import PostProcessing, Step
from samora_pipeline.errors import ResourceError
from samora_pipeline.evaluation.cli import main as evaluate_main
from samora_pipeline.evaluation.scoring import Rules, score_files
from samora_pipeline.evaluation.summary import label_names, summarize
from samora_pipeline.files import digest_file
from samora_pipeline.handover.cli import main as export_main
from samora_pipeline.imaging.files import read_grid, read_volume, write_volume
from samora_pipeline.imaging.volume import make_grid
from samora_pipeline.inference import job, precision
from samora_pipeline.inference.cli import main
from samora_pipeline.inference.predictor import Predictor
from samora_pipeline.inference.record import ModelRecord, OutputFolder, PredictionRecord
from tests.fake_run import LABELS, REGIONS, make_plans, write_fake_run, write_image

OBLIQUE = np.array([[-1.2, 0.3, 0.0, 7.0], [0.4, 0.9, 0.0, -20.0], [0.0, 0.0, -3.0, 55.5], [0.0, 0.0, 0.0, 1.0]])


class Workplace:
    """A root with one run, a folder of scans and an output folder."""

    def __init__(self, folder: Path, **run: Any) -> None:
        self.root = folder / "root"
        self.scans = folder / "scans"
        self.out = folder / "out"
        self.run = write_fake_run(self.root / "results", **run)

    def predict(self, *more: str, images: Path | None = None) -> int:
        return main(["--root", str(self.root), "-i", str(images or self.scans), "-o", str(self.out), *more])

    def record(self, name: str = "run.json") -> PredictionRecord:
        return read_json(PredictionRecord, self.out / name)

    def written(self) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in self.out.glob("*.nii.gz")}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    for name in ("RAW", "PREPROCESSED", "RESULTS", "WEIGHTS"):
        monkeypatch.delenv(f"SAMORA_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    return Workplace(tmp_path)


def labels_of(path: Path) -> npt.NDArray[np.uint8]:
    image = nibabel.load(path)
    assert image.get_data_dtype() == np.uint8
    return np.asarray(image.dataobj)


def test_label_maps_have_the_grid_and_header_of_their_images(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    affines = {"flipped": np.diag([-1.5, -1.5, 3.0, 1.0]), "plain": np.diag([1.0, 2.0, 3.0, 1.0]), "oblique": OBLIQUE}
    for number, (name, affine) in enumerate(affines.items()):
        write_image(place.scans / f"{name}_0000.nii.gz", affine=affine, seed=number)
    assert place.predict() == 0
    predictor = Predictor.load(place.run, weights_folder=place.root / "weights")
    for name in affines:
        source, result = nibabel.load(place.scans / f"{name}_0000.nii.gz"), nibabel.load(place.out / f"{name}.nii.gz")
        assert result.shape == source.shape
        assert np.array_equal(result.affine, source.affine)
        for key in ("sform_code", "qform_code", "pixdim", "xyzt_units"):
            assert np.array_equal(result.header[key], source.header[key]), key
        expected = predictor.predict_volume((read_volume(place.scans / f"{name}_0000.nii.gz"),))
        assert np.array_equal(labels_of(place.out / f"{name}.nii.gz"), expected)
    said = capsys.readouterr().out
    assert f"model: {place.run} (1 fold: 0)" in said
    assert "warning: PHANTOM" in said
    assert f"{place.out}: 3 predicted" in said
    viewer = place.out.with_name("out_viewer")
    assert f"next: samora_export labels {place.out} -o {viewer} --format seg.nrrd" in said


def test_the_record_says_what_was_done(place: Workplace) -> None:
    image = write_image(place.scans / "a.nii.gz")
    assert place.predict("--save-probabilities", images=image) == 0
    record = place.record()
    assert record.model.folds == ("0",)
    assert record.model.checkpoints == {"0": digest_file(place.run / "fold_0" / "checkpoint_final.safetensors")}
    assert record.model.base == digest_file(place.run / "base.safetensors")
    assert record.warnings == ("PHANTOM",)
    assert record.versions["torch"] != "not installed"
    case = record.cases["a"]
    assert case.inputs == {"a.nii.gz": digest_file(image)}
    names = ("a.nii.gz", "a_probabilities.b2nd")
    assert case.outputs == {name: digest_file(place.out / name) for name in names}
    assert set(case.seconds) == {"read", "predict", "write"}
    assert sorted(path.name for path in place.out.iterdir()) == [*names, "run.json"]
    stored = blosc2.open(str(place.out / names[1]))
    assert stored.shape == (3, 20, 24, 6)
    # Ties of float16 apart, the label is the most probable output.
    chosen = np.take_along_axis(stored[:], labels_of(place.out / "a.nii.gz")[None].astype(np.intp), axis=0)[0]
    assert (chosen >= stored[:].max(0) - 1e-3).all()


def test_continue_skips_only_what_is_complete_and_made_the_same_way(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c", "d"):
        write_image(place.scans / f"{name}.nii.gz", seed=ord(name))
    assert place.predict() == 0
    before = place.written()
    truth = (place.out / "b.nii.gz").read_bytes()
    (place.out / "b.nii.gz").write_bytes(truth[:-9])
    (place.out / "c.nii.gz").unlink()
    write_image(place.scans / "d.nii.gz", seed=99)
    capsys.readouterr()
    assert place.predict("--continue") == 0
    assert "3 predicted, 1 were complete already" in capsys.readouterr().out
    assert place.written()["a.nii.gz"] == before["a.nii.gz"]
    assert (place.out / "b.nii.gz").read_bytes() == truth
    assert sorted(place.record().cases) == ["a", "b", "c", "d"]
    assert place.predict("--continue") == 0
    assert "0 predicted, 4 were complete already" in capsys.readouterr().out
    assert place.predict("--continue", "--tta") == 0
    assert "4 predicted" in capsys.readouterr().out
    assert place.record().model.tta


def test_an_interrupted_run_can_be_continued(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        write_image(place.scans / f"{name}.nii.gz", seed=ord(name))
    whole = Predictor.predict_volume
    calls = iter([False, True])

    def interrupted(self: Predictor, *arguments: Any, **options: Any) -> Any:
        if next(calls):
            raise KeyboardInterrupt
        return whole(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict_volume", interrupted)
        assert place.predict() == 130
    assert list(place.written()) == ["a.nii.gz"]
    before = place.written()["a.nii.gz"]
    (place.out / ".partial-00-b.nii.gz").touch()
    assert place.predict("--continue") == 0
    assert sorted(place.written()) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert place.written()["a.nii.gz"] == before
    assert not list(place.out.glob(".partial*"))


def test_a_bad_case_does_not_stop_the_others(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_image(place.scans / "a.nii.gz")
    write_image(place.scans / "z.nii.gz", seed=3)
    (place.scans / "cut.nii.gz").write_bytes(good.read_bytes()[:-40])
    holes = np.zeros((8, 8, 3), dtype=np.float32)
    holes[0, 0, 0] = np.nan
    write_image(place.scans / "holes.nii.gz", holes)
    assert place.predict() == 3
    assert sorted(place.written()) == ["a.nii.gz", "z.nii.gz"]
    failures = read_json(Failures, place.out / "failures.json").cases
    assert {name: failure.code for name, failure in failures.items()} == {"cut": "E-IMG-02", "holes": "E-IMG-05"}
    said = capsys.readouterr().out
    assert "2 predicted, 2 failed" in said
    assert "failed: cut: E-IMG-02" in said
    write_image(place.scans / "cut.nii.gz")
    (place.scans / "holes.nii.gz").unlink()
    assert place.predict("--continue") == 0
    assert not (place.out / "failures.json").exists()


def test_channels_on_different_grids_fail_alone(tmp_path: Path) -> None:
    plans = make_plans(channel_names=("T2", "ADC"), intensity=(IntensityRule("percentiles"), IntensityRule("range")))
    place = Workplace(tmp_path, plans=plans, labels=REGIONS)
    for name, channel in (("a", 0), ("a", 1), ("b", 0)):
        write_image(place.scans / f"{name}_000{channel}.nii.gz", seed=channel)
    write_image(place.scans / "b_0001.nii.gz", affine=OBLIQUE)
    assert place.predict() == 3
    assert read_json(Failures, place.out / "failures.json").cases["b"].code == "E-GEO-02"
    assert set(np.unique(labels_of(place.out / "a.nii.gz"))) <= {0, 1, 2}


def test_input_of_which_nothing_fits_the_model_stops_everything_before_it_begins(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b_0000", "b_0001", "c_0003"):
        write_image(place.scans / f"{name}.nii.gz")
    assert place.predict() == 4
    said = capsys.readouterr().err
    assert "b has _0000 and _0001; c has _0003" in said
    assert not place.out.exists()
    write_image(place.scans / "a_0000.nii.gz")
    assert place.predict() == 3
    assert list(place.written()) == ["a.nii.gz"]


def test_a_scan_without_spacing_is_predicted_with_a_word_and_only_where_mm_do_not_matter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    voxels = np.random.default_rng(0).normal(0, 50, (14, 12, 3)).astype(np.float32)
    for name, in_plane in (("resize", "resize"), ("mm", "resample_and_pad")):
        plans = make_plans(in_plane=in_plane, in_plane_spacing=1.0)
        place = Workplace(tmp_path / name, plans=plans)
        write_volume(place.scans / "a.nii.gz", voxels, make_grid(voxels.shape, np.eye(4), spacing_known=False))
        write_image(place.scans / "b.nii.gz")
        assert place.predict() == (0 if in_plane == "resize" else 3)
        assert "a states no voxel spacing" in caplog.text or in_plane != "resize"
    assert read_grid(tmp_path / "resize" / "out" / "a.nii.gz").spacing is None
    assert read_json(Failures, place.out / "failures.json").cases["a"].code == "E-GEO-03"


def test_what_cannot_be_done_has_its_exit_code(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    place.scans.mkdir()
    assert place.predict() == 4
    assert "E-INPUT-01" in capsys.readouterr().err
    write_image(place.scans / "a.nii.gz")
    assert place.predict("-m", "nothing") == 5
    assert place.predict("-f", "7") == 2
    assert place.predict("--shard", "3/2") == 2
    assert place.predict("--device", "abacus") == 2
    assert place.predict("--device", "cuda:63") == 6
    with pytest.raises(SystemExit) as caught:
        place.predict("--batch", "0")
    assert caught.value.code == 2
    assert not place.out.exists()


def test_files_of_others_are_not_written_over(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(place.scans / "a.nii.gz")
    precious = write_image(place.out / "a.nii.gz").read_bytes()
    assert place.predict() == 4
    assert place.predict("--continue") == 4
    assert "E-OUT-01" in capsys.readouterr().err
    assert (place.out / "a.nii.gz").read_bytes() == precious


def test_a_full_disk_ends_the_command(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(place.scans / "a.nii.gz")

    def full(*arguments: Any) -> None:
        raise ResourceError("E-DISK-01", path=place.out, found="no space left")

    monkeypatch.setattr(job, "write_labels", full)
    assert place.predict() == 6


def test_shares_keep_records_of_their_own(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        write_image(place.scans / f"{name}.nii.gz", seed=ord(name))
    assert place.predict("--shard", "1/2") == 0
    assert place.predict("--shard", "2/2") == 0
    assert sorted(place.record("run.1_of_2.json").cases) == ["a", "c"]
    assert sorted(place.record("run.2_of_2.json").cases) == ["b"]
    capsys.readouterr()
    assert place.predict("--continue") == 0
    assert "0 predicted, 3 were complete already" in capsys.readouterr().out


def test_a_packed_model_predicts_without_being_installed(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, packed = write_image(place.scans / "a.nii.gz"), tmp_path / "model.zip"
    assert place.predict(images=image) == 0
    expected = labels_of(place.out / "a.nii.gz")
    assert export_main([str(place.run), "--root", str(place.root), "-o", str(packed)]) == 0
    shutil.rmtree(place.root)
    place.out = tmp_path / "packed"
    assert place.predict("-m", str(packed), images=image) == 0
    assert np.array_equal(labels_of(place.out / "a.nii.gz"), expected)
    assert place.record().model.run == str(packed / place.run.name)
    assert f"model: {packed} (1 fold: 0)" in capsys.readouterr().out
    assert not (place.root / "results").exists()
    assert place.predict("-m", str(packed), "--continue", images=image) == 0
    assert "1 were complete already" in capsys.readouterr().out
    damaged = bytearray(packed.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    packed.write_bytes(damaged)
    assert place.predict("-m", str(packed), images=image) == 4
    assert "E-IMPORT-03" in capsys.readouterr().err
    assert place.predict("-m", "nowhere.zip", images=image) == 5
    assert "E-IMPORT-01" in capsys.readouterr().err


def test_pictures_become_pictures(place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place.scans.mkdir()
    grey = np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8)
    Image.fromarray(grey).save(place.scans / "a.png")
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(place.scans / "b.png")
    assert place.predict() == 0
    first, second = (np.asarray(Image.open(place.out / f"{name}.png")) for name in "ab")
    assert (first.shape, str(first.dtype)) == ((20, 30), "uint8")
    assert np.array_equal(first, second)
    assert set(np.unique(first)) <= {0, 1, 2}
    assert f"next: samora_evaluate -g LABELS -p {place.out}" in capsys.readouterr().out
    assert evaluate_main(["-g", str(place.out), "-p", str(place.out), "--labels", "liver=1", "spleen=2"]) == 0


def test_pictures_in_colour_are_three_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = (IntensityRule("range"),) * 3
    place = Workplace(tmp_path, plans=make_plans(channel_names=("R", "G", "B"), intensity=rules))
    place.scans.mkdir()
    colours = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(colours).save(place.scans / "a_0000.png")
    assert place.predict() == 0
    expected = np.asarray(Image.open(place.out / "a.png"))
    (place.scans / "a_0000.png").unlink()
    for channel in range(3):
        Image.fromarray(colours[..., channel]).save(place.scans / f"a_000{channel}.png")
    assert place.predict() == 0
    assert np.array_equal(np.asarray(Image.open(place.out / "a.png")), expected)
    for path in place.scans.glob("*.png"):
        path.unlink()
    Image.fromarray(colours[..., 0]).save(place.scans / "grey.png")
    assert place.predict() == 3
    assert "E-CHAN-08" in capsys.readouterr().out


def test_test_images_of_the_trained_dataset_are_found(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(place.root / "raw" / "Dataset090_Phantom" / "imagesTs" / "t_0000.nii.gz")
    assert place.predict(images=Path("imagesTs")) == 0
    assert f"images: {place.root / 'raw' / 'Dataset090_Phantom' / 'imagesTs'}" in capsys.readouterr().out
    assert list(place.written()) == ["t.nii.gz"]
    (place.root / "raw" / "Dataset090_Phantom" / "labelsTs").mkdir()
    assert place.predict(images=Path("imagesTs")) == 0
    references = place.root / "raw" / "Dataset090_Phantom" / "labelsTs"
    assert f"next: samora_evaluate -g {references} -p {place.out}" in capsys.readouterr().out


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys\n"
        "from samora_pipeline.inference.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numpy', 'nibabel', 'SimpleITK', 'matplotlib', 'scipy'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--save-probabilities" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def write_summary_of(fold: Path, predicted: list[int]) -> None:
    """Score four voxels whose reference is 1 1 2 2, as the validation of a fold does."""
    for name, values in (("g", [1, 1, 2, 2]), ("p", predicted)):
        array = np.array(values, dtype=np.uint8).reshape(2, 2, 1)
        write_image(fold / name / "case.nii.gz", array)
    scores = score_files([(fold / "g" / "case.nii.gz", fold / "p" / "case.nii.gz")], Rules(LABELS))
    summary = summarize(scores, label_names(LABELS), tolerance=2.0, distance_unit="mm")
    write_json(summary, fold / "summary.json")


def test_the_list_names_what_can_predict(place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored = write_fake_run(
        tmp_path / "root" / "results", run="SAMedTrainer__full__default", folds=("0", "1"), warnings=()
    )
    for fold, labels in (("0", [1, 1, 2, 2]), ("1", [1, 1, 0, 0])):
        write_summary_of(scored / f"fold_{fold}", labels)
    broken = write_fake_run(tmp_path / "root" / "results", run="HSAMTrainer__full__default")
    (broken / "fold_0" / "config.json").write_text("{")
    assert main(["--root", str(place.root), "--list"]) == 0
    header, hsam, samed, samora = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "backbone", "folds", "finished", "Dice", "warnings"]
    assert hsam.startswith("Dataset090_Phantom/HSAMTrainer__full__default")
    assert "cannot be read" in hsam
    assert "0, 1" in samed
    assert "0.750" in samed
    assert "samora_tiny 64 px" in samora
    assert "not scored" in samora
    assert samora.endswith("PHANTOM")
    assert main(["--root", str(tmp_path / "nowhere"), "--list"]) == 0
    assert "no trained run" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["-i", "scans"], ["-o", "out"]])
def test_without_a_list_both_folders_are_needed(
    place: Workplace, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["--root", str(place.root), *words]) == 2
    assert "E-ARG-13" in capsys.readouterr().err


def test_uncertainty_is_written_and_recorded(place: Workplace) -> None:
    image = write_image(place.scans / "a.nii.gz")
    assert place.predict("--save-uncertainty", images=image) == 0
    assert sorted(place.record().cases["a"].outputs) == ["a.nii.gz", "a_uncertainty.nii.gz"]
    assert place.record().model.save_uncertainty
    assert labels_of(place.out / "a_uncertainty.nii.gz").max() <= 100


def test_the_chosen_components_are_kept_unless_it_is_switched_off(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Step("liver", (1,), True, {"liver": 0.5}, {"liver": 0.6})
    write_json(PostProcessing(("case_c",), (step,)), place.run / "fold_0" / "postprocessing.json")
    islands = np.zeros((3, 4, 5), dtype=np.int64)
    islands[0, :, :2], islands[2, 0, 4] = 1, 1

    def painted(self: Predictor, probabilities: Any) -> Any:
        whole = np.zeros(tuple(probabilities.shape[i] for i in (0, 2, 3)), dtype=np.uint8)
        whole[:3, :4, :5] = islands
        return whole

    monkeypatch.setattr(Predictor, "decode", painted)
    write_image(place.scans / "a.nii.gz")
    assert place.predict() == 0
    assert "largest component only: liver" in capsys.readouterr().out
    assert place.record().model.largest_component == ("liver",)
    assert np.count_nonzero(labels_of(place.out / "a.nii.gz")) == 8
    assert place.predict("--continue", "--no-postprocessing") == 0
    assert place.record().model.largest_component == ()
    assert np.count_nonzero(labels_of(place.out / "a.nii.gz")) == 9


def test_the_precision_is_said_and_recorded(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precision, "cpu_bf16_instructions", lambda: "avx512_bf16")
    monkeypatch.setattr(precision, "_timed", lambda piece, training: {"fp32": 2.0, "bf16": 1.0})
    write_image(place.scans / "a.nii.gz")
    assert place.predict("--device", "cpu") == 0
    said = "network 1000.0 ms in bf16 and 2000.0 in fp32"
    assert f"cpu, bf16 (timed on this CPU with avx512_bf16: {said})" in capsys.readouterr().out
    assert place.record().precision == "bf16"
    assert place.record().precision_seconds == {"network_fp32": 2.0, "network_bf16": 1.0}
    assert said in place.record().precision_why
    assert place.predict("--device", "cpu", "--precision", "bf16") == 0
    assert (place.record().precision, place.record().precision_seconds) == ("bf16", {})
    assert place.predict("--device", "cpu", "--fp32", "--batch", "3") == 0
    assert (place.record().precision, place.record().slices_per_step) == ("fp32", 3)


def test_a_line_that_a_kill_cut_off_costs_that_case_alone(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        write_image(place.scans / f"{name}.nii.gz", seed=ord(name))
    monkeypatch.setattr(OutputFolder, "conclude", lambda self: None)
    assert place.predict() == 0
    monkeypatch.undo()
    lines = place.out / "run.jsonl"
    assert place.record().cases == {}
    lines.write_bytes(lines.read_bytes()[:-20])
    capsys.readouterr()
    assert place.predict("--continue") == 0
    assert "1 predicted, 2 were complete already" in capsys.readouterr().out
    assert sorted(place.record().cases) == ["a", "b", "c"]
    assert not lines.exists()


def test_the_record_grows_by_a_line_a_case(place: Workplace, tmp_path: Path) -> None:
    output = OutputFolder(place.out, ModelRecord("run", ("0",), {}, {}, ""), (1, 1), resume=False)
    place.out.mkdir()
    output.start(PredictionRecord(output.model, "D", "cpu", (), {}), (), ())
    scan, before = write_image(place.scans / "a.nii.gz"), 0
    sizes = []
    for number in range(50):
        output.add(f"case_{number:03d}", [scan], [scan], {"read": 1.0})
        after = (place.out / "run.jsonl").stat().st_size
        sizes.append(after - before)
        before = after
    assert len(set(sizes)) == 1
    assert place.record().cases == {}
    output.conclude()
    assert len(place.record().cases) == 50
