"""samora_doctor: each fault of a machine is named with what mends it, and no probe stops the others."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samora_pipeline.doctor import cli, machine, places, software
from samora_pipeline.doctor.findings import RESOURCES, Finding, exit_code, run_probes
from samora_pipeline.paths import Roots, resolve_roots
from samora_pipeline.weights.catalog import ASSETS

GIB = 1 << 30


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Roots:
    for name in ("ROOT", "RAW", "PREPROCESSED", "RESULTS", "WEIGHTS"):
        monkeypatch.delenv(f"SAMORA_{name}", raising=False)
    return resolve_roots(str(tmp_path / "root"))


def only(findings: Iterator[Finding], name: str) -> Finding:
    (finding,) = [finding for finding in findings if finding.name == name]
    return finding


def disk(monkeypatch: pytest.MonkeyPatch, module: Any, free: float) -> None:
    usage = shutil.disk_usage("/")._replace(total=64 * GIB, free=int(free * GIB))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)


def test_json_and_lines_tell_the_same_and_json_is_one_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, places, 100)
    disk(monkeypatch, machine, 100)
    code = cli.main(["--root", str(tmp_path), "--json"])
    plain = json.loads(capsys.readouterr().out)
    assert plain["schema_version"] == 1
    assert plain["exit_code"] == code
    names = [finding["name"] for finding in plain["findings"]]
    for name in ("python", "torch", "torchvision", "threads", "memory", "open files", "root", "writing", "disk"):
        assert name in names
    assert cli.main(["--root", str(tmp_path)]) == code
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.split()[0] in ("ok", "warn", "fail")]) == len(names)
    assert all(finding["fix"] for finding in plain["findings"] if finding["status"] == "fail")


def test_a_probe_that_fails_is_a_finding_and_the_next_one_runs() -> None:
    def breaks() -> Iterator[Finding]:
        yield Finding("first", "ok", "half of it")
        raise ZeroDivisionError("no such luck")

    findings = run_probes([("broken", breaks), ("sound", lambda: [Finding("sound", "ok", "x")])])
    assert [(finding.name, finding.status) for finding in findings] == [
        ("first", "ok"),
        ("broken", "warn"),
        ("sound", "ok"),
    ]
    assert "ZeroDivisionError: no such luck" in findings[1].value


def test_roots_that_cannot_be_resolved_do_not_end_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMORA_ROOT", "~nobody_of_that_name/x")
    cli.main(["--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert any(f["name"] == "roots" and "could not be looked at" in f["value"] for f in findings)
    assert any(f["name"] == "torch" for f in findings)


def test_the_worst_failure_decides_the_exit_code() -> None:
    fail, lack = Finding("a", "fail", "x"), Finding("b", "fail", "x", exit_code=RESOURCES)
    assert exit_code([Finding("c", "warn", "x")]) == 0
    assert exit_code([fail]) == 4
    assert exit_code([fail, lack]) == 6


@pytest.mark.parametrize(
    ("torch", "vision", "fits"),
    [
        ("2.14.1", "0.29.1", True),
        ("2.10.0+cu128", "0.25.0+cu128", True),
        ("2.13.0+cpu", "0.29.0", False),
        ("2.13.0", "0.27.1", False),
        ("3.0.0", "1.0.0", True),
    ],
)
def test_torch_and_torchvision_come_in_pairs(torch: str, vision: str, fits: bool) -> None:
    assert software.paired(torch, vision) == fits


def test_a_torchvision_that_does_not_fit_or_cannot_be_imported_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.13.0+cpu", "torchvision": "0.29.0"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    found = only(software.torch_pairing(), "torchvision")
    assert (found.status, exit_code([found])) == ("fail", 4)
    assert "torch 2.13 goes with 0.28" in found.value
    versions["torchvision"] = "0.28.0"

    def refuse(name: str) -> None:
        raise RuntimeError(f"operator {name}::nms does not exist")

    monkeypatch.setattr(software.importlib, "import_module", refuse)
    found = only(software.torch_pairing(), "torchvision")
    assert (found.status, "operator torchvision::nms does not exist" in found.value) == ("fail", True)


def test_packages_that_are_old_or_missing_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=1.26", "scipy>=99.1", "not-there>=2", "medpy>=9; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: wanted)
    found = {finding.name: finding for finding in software.packages()}
    assert {name: finding.status for name, finding in found.items()} == {
        "numpy": "ok",
        "scipy": "fail",
        "not-there": "fail",
    }
    assert found["scipy"].fix == 'pip install "scipy>=99.1"'


def test_each_root_says_where_its_value_came_from(roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMORA_RESULTS", str(roots.root / "elsewhere"))
    found = {finding.name: finding for finding in places.roots(resolve_roots(str(roots.root)))}
    assert "(--root, not there yet)" in found["root"].value
    assert "(below the root" in found["raw"].value
    assert f"{roots.root / 'elsewhere'} (SAMORA_RESULTS" in found["results"].value
    monkeypatch.setenv("SAMORA_RAW", '"C:\\data"')
    found = {finding.name: finding for finding in places.roots(resolve_roots(str(roots.root)))}
    assert found["raw"].status == "fail"
    assert found["raw"].fix.endswith("SAMORA_RAW=C:\\data")
    roots.root.mkdir()
    roots.preprocessed.touch()
    found = {finding.name: finding for finding in places.roots(resolve_roots(str(roots.root)))}
    assert found["preprocessed"].status == "fail"


def test_writing_is_tried_and_leaves_nothing(roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    roots.results.mkdir(parents=True)
    assert {finding.status for finding in places.permission(roots)} == {"ok"}
    assert list(roots.root.rglob("*")) == [roots.results]

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(places.tempfile, "NamedTemporaryFile", refuse)
    found = list(places.permission(roots))
    assert {finding.status for finding in found} == {"fail"}
    assert "Permission denied" in found[0].value


@pytest.mark.parametrize(("free", "status"), [(0.5, "fail"), (3.0, "warn"), (50.0, "ok")])
def test_space_on_disk(roots: Roots, monkeypatch: pytest.MonkeyPatch, free: float, status: str) -> None:
    disk(monkeypatch, places, free)
    found = only(places.space(roots), "disk")
    assert found.status == status
    assert exit_code([found]) == (6 if status == "fail" else 0)


def test_shared_memory_of_a_container_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, machine, 0.06)
    monkeypatch.setattr(machine, "_SHARED_MEMORY", Path("/"))
    found = only(machine.shared_memory(), "shared memory")
    assert (found.status, "--shm-size" in found.fix) == ("warn", True)


@pytest.mark.parametrize(("available", "status"), [(1, "fail"), (4, "warn"), (16, "ok")])
def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available: int, status: str) -> None:
    stated = tmp_path / "meminfo"
    stated.write_text(f"MemTotal: {32 << 20} kB\nMemFree: 1 kB\nMemAvailable: {available << 20} kB\nHugePages: 0\n")
    monkeypatch.setattr(machine, "_MEMORY", stated)
    found = only(machine.memory(), "memory")
    assert found.status == status
    assert found.value == f"{available:.1f} of 32.0 GiB available"


def test_few_open_files_and_too_many_threads_are_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource", reason="limits are read on POSIX systems")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1000))
    found = only(machine.open_files(), "open files")
    assert (found.status, found.fix) == ("warn", "ulimit -n 1000")
    import torch

    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    assert only(machine.threads(), "threads").fix == "export OMP_NUM_THREADS=2"


def test_a_driver_without_a_cuda_build_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "_DRIVER", tmp_path / "none")
    assert only(machine.devices(), "cuda").status == "ok"
    monkeypatch.setattr(machine, "_DRIVER", Path(__file__))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in only(machine.devices(), "cuda").value
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "finds no device" in only(machine.devices(), "cuda").value


def test_weights_with_another_content_are_a_failure_and_missing_ones_are_not(roots: Roots) -> None:
    found = list(places.weights(roots))
    assert {finding.status for finding in found} == {"ok"}
    assert "sam_vit_b" in found[-1].value
    target = ASSETS["sam_vit_b"].path(roots.weights)
    target.parent.mkdir(parents=True)
    target.write_bytes(b"<!DOCTYPE html>")
    (fault,) = [finding for finding in places.weights(roots) if finding.status == "fail"]
    assert fault.value.startswith("sam_vit_b")
    assert "web page" in fault.value
    assert "samora_weights get sam_vit_b" in fault.fix


def test_datasets_and_runs_are_counted(roots: Roots) -> None:
    (roots.raw / "Dataset007_Boxes").mkdir(parents=True)
    assert only(places.datasets(roots), "datasets").value == "1 raw datasets, 0 trained runs"


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom samora_pipeline.doctor import cli\n"
        "from samora_pipeline.handover import cli as e, import_cli\n"
        "cli.build_parser().format_help(), e.model_parser().format_help(), e.labels_parser().format_help()\n"
        "import_cli.build_parser().format_help()\n"
        "print([m for m in ('torch', 'numpy', 'nibabel', 'SimpleITK', 'pydicom') if m in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert shown.stdout.strip() == "[]"
