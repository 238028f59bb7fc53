"""Time preprocessing beside nnU-Net v2, in one run, on the same generated scans and with as many processes.

    python benchmarks/preprocess.py --nnunet /tmp/nnunet_venv            8 scans of 512 x 512 x 115, some minutes
    python benchmarks/preprocess.py --scans 4 --slices 40 --rounds 1     this package alone, quick

What is timed: ``nnUNetv2_preprocess -c 2d`` (its fingerprint and plan are made before and not counted) against the
whole ``samora_plan_and_preprocess`` (checks, digests, plan and store) plus reading every slice as training does, window
and resize included. Both commands also run on two tiny scans; that time (Python, imports, starting workers) is
subtracted from each, so that few scans suffice; with very few, or on a busy machine, what is left may be noise. The
rounds alternate. nnU-Net lives in an environment of its own, which is made under the folder given by ``--nnunet`` when
it is not there: it sees the packages of this one and adds the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from samora_pipeline import resources
from samora_pipeline.contracts.dataset import read_dataset
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.plans import PLANS_FILE, Plans
from samora_pipeline.contracts.stored_case import SLICES_FOLDER
from samora_pipeline.imaging.intensity import normalize
from samora_pipeline.slices.datasets import SliceId, SliceSource
from samora_pipeline.slices.store import StoredSlices

NAME, TINY = "Dataset901_Speed", "Dataset902_Tiny"
ORGANS = 8
INPUT_SIZE = 224
# What nnU-Net needs beside the packages that this one has (torch above all).
NNUNET = (
    "nnunetv2",
    "dynamic-network-architectures",
    "batchgeneratorsv2",
    "fft-conv-pytorch",
    "yacs",
    "seaborn",
    "imagecodecs",
    "tifffile",
    "graphviz",
    "einops",
    "timm",
    "huggingface_hub",
)


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock and on the processor, and the most memory (MB) that a command and its children held."""

    wall: float
    cpu: float
    memory: float

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.wall - other.wall, self.cpu - other.cpu, self.memory)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu, max(self.memory, other.memory))


def make_scans(folder: Path, scans: int, size: int, slices: int) -> None:
    """Write a raw dataset of CT-like scans (noise, soft tissue, eight organs) of differing spacing."""
    for index in range(scans):
        generator = np.random.default_rng(index)
        coarse = generator.normal(0, 60, (18, 18, 8))
        image = ndimage.zoom(coarse, (size / 18, size / 18, slices / 8), order=1)[:size, :size, :slices]
        image += generator.normal(0, 15, image.shape)
        axes = np.meshgrid(*(np.linspace(-1, 1, length) for length in image.shape), indexing="ij", sparse=True)
        image[(axes[0] ** 2 + (1.3 * axes[1]) ** 2 > 0.8)[..., 0]] = -1000
        label = np.zeros(image.shape, np.uint8)
        for organ in range(1, ORGANS + 1):
            centre, radius = generator.uniform(-0.5, 0.5, 3), generator.uniform(0.1, 0.3, 3)
            inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radius, strict=True)) < 1
            label[inside], image[inside] = organ, image[inside] + 20 * organ
        spacing = np.array([*[0.6 + 0.35 * index / max(scans - 1, 1)] * 2, (1.5, 3.0, 5.0)[index % 3]])
        affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
        for path, array in (
            (f"imagesTr/scan_{index:02d}_0000", image.astype(np.int16)),
            (f"labelsTr/scan_{index:02d}", label),
        ):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / f"{path}.nii.gz")
    labels = {"background": 0, **{f"organ {value}": value for value in range(1, ORGANS + 1)}}
    description = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": scans, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))


def run(command: list[str], environment: dict[str, str]) -> Cost:
    """Run a command to its end; its children's memory is the sum of their proportional set sizes, sampled."""
    before, start = os.times(), time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    watcher.start()
    _, errors = process.communicate()
    wall, after = time.perf_counter() - start, os.times()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors[-3000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(wall, cpu, peak[0])


def _watch(process: subprocess.Popen[str], peak: list[float]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(_proportional_set(child) for child in _family(process.pid)) / 1e6)
        time.sleep(0.2)


def _family(root: int) -> set[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    family = {root}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    return family


def _proportional_set(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def load_case(folder: Path, case: str) -> float:
    """Read every slice and target of a case as training does; return the seconds on the processor."""
    start = time.process_time()
    source = _source(folder, case)
    for index in range(len(source)):
        source.images([index])
        source.targets([index])
    return time.process_time() - start


def load(folder: Path, processes: int) -> Cost:
    """Read all slices of a preprocessed dataset with so many processes; their start is not counted."""
    cases = _cases(folder)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(_ready, range(processes)))
        start = time.perf_counter()
        cpu = sum(pool.map(partial(load_case, folder), cases))
        return Cost(time.perf_counter() - start, cpu, 0.0)


def _ready(_: int) -> None:
    time.sleep(1.0)  # long enough for each process to take one


def _cases(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / SLICES_FOLDER).glob("*.json"))


def _source(folder: Path, case: str) -> SliceSource:
    plans, scheme = read_json(Plans, folder / PLANS_FILE), read_dataset(folder).scheme
    count = len(StoredSlices.open(folder / SLICES_FOLDER, case))
    ids = [SliceId(case, index) for index in range(count)]
    return SliceSource(folder / SLICES_FOLDER, ids, plans, INPUT_SIZE, scheme, memory=0)


def deviation(folder: Path) -> float:
    """The largest difference of loaded slices (every tenth) from scipy's order-3 zoom in double precision."""
    plans = read_json(Plans, folder / PLANS_FILE)
    worst = 0.0
    for case in _cases(folder):
        stored, source = StoredSlices.open(folder / SLICES_FOLDER, case), _source(folder, case)
        for index in range(0, len(stored), 10):
            image = normalize(stored.image(index), plans.intensity.value, stored.record.intensities)
            found = source.images([index])[0, 0].numpy()
            worst = max(worst, float(np.abs(found - _zoomed(image[0], INPUT_SIZE)).max()))
    return worst


def _zoomed(image: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float64]:
    factors = (size / image.shape[0], size / image.shape[1])
    zoomed = ndimage.zoom(image.astype(np.float64), factors, order=3, mode="nearest", grid_mode=True)
    clipped: npt.NDArray[np.float64] = np.clip(zoomed, 0.0, 1.0)
    return clipped


def make_environment(folder: Path) -> None:
    """Make nnU-Net's environment: it sees the packages of this one and adds what they lack."""
    if (folder / "bin" / "nnUNetv2_preprocess").is_file():
        return
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    site = next((folder / "lib").glob("python3*/site-packages"))
    (site / "host.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", "--no-deps", *NNUNET], check=True)


class Ours:
    """This package's command and what it left."""

    name = "samora_pipeline"

    def __init__(self, work: Path, processes: int) -> None:
        self.work, self.processes = work, processes

    def run(self, dataset: str) -> Cost:
        """Check, plan and store from nothing."""
        shutil.rmtree(self.work / "preprocessed" / dataset, ignore_errors=True)
        program = "import sys; from planners.cli import main; sys.exit(main(sys.argv[1:]))"
        arguments = ["--root", str(self.work), "-d", dataset, "-np", str(self.processes)]
        return run([sys.executable, "-c", program, *arguments], {})


class NnUNet:
    """nnU-Net's command."""

    name = "nnU-Net v2"

    def __init__(self, work: Path, processes: int, environment: Path) -> None:
        self.work, self.processes, self.environment = work, processes, environment
        self.variables = {
            "nnUNet_raw": str(work / "raw"),
            "nnUNet_preprocessed": str(work / "nnunet"),
            "nnUNet_results": str(work / "nnunet_results"),
        }

    def plan(self, dataset: str) -> None:
        """Fingerprint and plan, which are not timed."""
        number = dataset[7:10]
        run([self._command("extract_fingerprint"), "-d", number, "-np", str(self.processes)], self.variables)
        run([self._command("plan_experiment"), "-d", number], self.variables)

    def run(self, dataset: str) -> Cost:
        """Preprocess for the configuration 2d (it removes what was there)."""
        arguments = ["-d", dataset[7:10], "-c", "2d", "-np", str(self.processes)]
        return run([self._command("preprocess"), *arguments], self.variables)

    def _command(self, name: str) -> str:
        return str(self.environment / "bin" / f"nnUNetv2_{name}")


def show(name: str, cost: Cost, scans: int, memory: float) -> None:
    """One line of the table."""
    print(
        f"{name:34} {scans / cost.wall:9.3f} {cost.wall / scans:9.2f} {cost.cpu / scans:9.2f} {memory:9.0f}", flush=True
    )


def main() -> None:
    """Generate, run both alternately, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet", type=Path, metavar="FOLDER", help="environment of nnU-Net, made when absent")
    parser.add_argument("--scans", type=int, default=8)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--slices", type=int, default=115)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-np", dest="processes", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder for scans and results (default: a temporary one)")
    arguments = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        compare(arguments, arguments.work or Path(temporary))


def compare(arguments: argparse.Namespace, work: Path) -> None:
    """Run the rounds and print the table."""
    shutil.rmtree(work / "raw", ignore_errors=True)
    make_scans(work / "raw" / NAME, arguments.scans, arguments.size, arguments.slices)
    make_scans(work / "raw" / TINY, 2, 32, 4)
    ours, rival = Ours(work, arguments.processes), None
    if arguments.nnunet:
        make_environment(arguments.nnunet)
        rival = NnUNet(work, arguments.processes, arguments.nnunet)
        rival.plan(TINY)
        rival.plan(NAME)
    print(f"{arguments.scans} scans of {arguments.size} x {arguments.size} x {arguments.slices}, {ORGANS} organs")
    print(f"{arguments.processes} processes; load before: {os.getloadavg()[0]:.1f} on {resources.cores().value} cores")
    print(f"{'':34} {'scans/s':>9} {'s/scan':>9} {'CPU s/scan':>9} {'peak MB':>9}")
    for number in range(arguments.rounds):
        theirs, their_start = (rival.run(NAME), rival.run(TINY)) if rival else (None, None)
        stored, start = ours.run(NAME), ours.run(TINY)
        both = stored - start + (loaded := load(work / "preprocessed" / NAME, arguments.processes))
        print(f"round {number + 1}, load {os.getloadavg()[0]:.1f}; subtracted from ours {start.wall:.1f} s", end="")
        print(f", from nnU-Net {their_start.wall:.1f} s" if their_start else "")
        show("  check, plan, store", stored - start, arguments.scans, stored.memory)
        show("  read and resize every slice", loaded, arguments.scans, float("nan"))
        show("samora_pipeline, both", both, arguments.scans, stored.memory)
        if theirs and their_start:
            net = theirs - their_start
            show("nnUNetv2_preprocess -c 2d", net, arguments.scans, theirs.memory)
            print(f"ratio {net.wall / both.wall:.1f} x by the clock, {net.cpu / both.cpu:.1f} x on the processor")
    print(f"largest deviation of a loaded slice from scipy: {deviation(work / 'preprocessed' / NAME):.1e}")


if __name__ == "__main__":
    main()
