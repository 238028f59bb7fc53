"""samora_doctor: each fault of a machine is named with what mends it, and no probe stops the others."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from samora_pipeline import resources
from samora_pipeline.doctor import cli, probes
from samora_pipeline.doctor.probes import Finding, run_probes
from samora_pipeline.errors import ERRORS
from samora_pipeline.paths import Roots, resolve_roots
from samora_pipeline.resources import Amount
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


def disk(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    usage = shutil.disk_usage("/")._replace(total=64 * GIB, free=int(free * GIB))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def test_json_and_lines_tell_the_same_and_json_is_one_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, 100)
    code = cli.main(["--root", str(tmp_path), "--json"])
    plain = json.loads(capsys.readouterr().out)
    assert plain["schema_version"] == 1
    assert plain["exit_code"] == code
    names = [finding["name"] for finding in plain["findings"]]
    for name in ("python", "torch", "torchvision", "root", "results", "disk"):
        assert name in names
    assert cli.main(["--root", str(tmp_path)]) == code
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.split()[0] in ("ok", "warn", "fail")]) == len(names)
    assert all(finding["fix"] for finding in plain["findings"] if finding["status"] == "fail")


def test_a_code_is_explained_as_the_table_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    for code, entry in ERRORS.items():
        assert cli.main([code.lower()]) == 0
        first, *others = capsys.readouterr().out.splitlines()
        assert first == f"{code} {entry.what}"
        parts = {"expected": entry.expected, "fix": entry.fix}
        assert others == [f"  {name}: {text}" for name, text in parts.items() if text]


def test_an_unknown_code_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["E-IMPRT-03"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("E-NAME-01")
    assert "did you mean E-IMPORT-03, " in error


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
    assert any(f["name"] == "folders" and "could not be examined" in f["value"] for f in findings)
    assert any(f["name"] == "torch" for f in findings)


@pytest.mark.parametrize(("codes", "expected"), [((), 0), ((4,), 4), ((4, 6), 6)])
def test_the_worst_failure_decides_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, codes: tuple[int, ...], expected: int
) -> None:
    found = [
        Finding("warned", "warn", "x", exit_code=6),
        *(Finding("a", "fail", "x", exit_code=code) for code in codes),
    ]
    monkeypatch.setattr(probes, "all_probes", lambda root: [("all", lambda: found)])
    assert cli.main([]) == expected


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
    assert probes.paired(torch, vision) == fits


def test_a_torchvision_that_does_not_fit_or_cannot_be_imported_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.13.0+cpu", "torchvision": "0.29.0"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    found = only(probes.torch_pairing(), "torchvision")
    assert (found.status, found.exit_code) == ("fail", 4)
    assert "torch 2.13 goes with 0.28" in found.value
    versions["torchvision"] = "0.28.0"

    def refuse(name: str) -> None:
        raise RuntimeError(f"operator {name}::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", refuse)
    found = only(probes.torch_pairing(), "torchvision")
    assert (found.status, "operator torchvision::nms does not exist" in found.value) == ("fail", True)


def test_packages_that_are_old_or_missing_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=1.26", "scipy>=99.1", "not-there>=2", "medpy>=9; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: wanted)
    found = {finding.name: finding for finding in probes.packages()}
    assert {name: finding.status for name, finding in found.items()} == {
        "numpy": "ok",
        "scipy": "fail",
        "not-there": "fail",
    }
    assert found["scipy"].fix == 'pip install "scipy>=99.1"'


def test_writing_is_tried_and_leaves_nothing(roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    roots.results.mkdir(parents=True)
    found = {finding.name: finding for finding in probes.folders(roots)}
    assert {finding.status for finding in found.values()} == {"ok"}
    assert found["results"].value == str(roots.results)
    assert "not there yet" in found["raw"].value
    assert list(roots.root.rglob("*")) == [roots.results]
    roots.raw.touch()
    assert {name for name in found if only(probes.folders(roots), name).status == "fail"} == {"raw"}

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    refused = list(probes.folders(roots))
    assert {finding.status for finding in refused} == {"fail"}
    assert "Permission denied" in refused[0].value


@pytest.mark.parametrize(("free", "status"), [(0.5, "fail"), (3.0, "warn"), (50.0, "ok")])
def test_space_on_disk(roots: Roots, monkeypatch: pytest.MonkeyPatch, free: float, status: str) -> None:
    disk(monkeypatch, free)
    found = only(probes.space(roots), "disk")
    assert (found.status, found.exit_code) == (status, 6)


def test_shared_memory_of_a_container_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, 0.06)
    monkeypatch.setattr(probes, "_SHARED_MEMORY", Path("/"))
    found = only(probes.shared_memory(), "shared memory")
    assert (found.status, "--shm-size" in found.fix) == ("warn", True)


def test_a_driver_without_a_cuda_build_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from samora_pipeline.inference import device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "_in_container", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device, "_DRIVERS", (tmp_path / "none",))
    assert only(probes.devices(), "cuda").status == "ok"
    monkeypatch.setattr(device, "_DRIVERS", (Path(__file__),))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in only(probes.devices(), "cuda").value
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "finds no device" in only(probes.devices(), "cuda").value


def test_cores_and_memory_are_shown_with_what_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "cores", lambda: Amount(3, "CPU quota of 3.5 cores (/a)"))
    monkeypatch.setattr(resources, "memory", lambda: Amount(5 * GIB, "SLURM_MEM_PER_NODE=5120"))
    findings = list(probes.own_resources())
    assert only(iter(findings), "cores").value == "3: CPU quota of 3.5 cores (/a)"
    assert only(iter(findings), "memory") == Finding("memory", "ok", "5.0 GiB can be had: SLURM_MEM_PER_NODE=5120")
    monkeypatch.setattr(resources, "memory", lambda: Amount(GIB // 2, "memory limit"))
    assert only(probes.own_resources(), "memory").status == "warn"


def test_weights_with_another_content_are_a_failure(roots: Roots) -> None:
    assert {finding.status for finding in probes.weights(roots)} == {"ok"}
    target = ASSETS["sam_vit_b"].path(roots.weights)
    target.parent.mkdir(parents=True)
    target.write_bytes(b"<!DOCTYPE html>")
    (fault,) = [finding for finding in probes.weights(roots) if finding.status == "fail"]
    assert fault.value.startswith("sam_vit_b")
    assert "web page" in fault.value
    assert "samora_weights get sam_vit_b" in fault.fix


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
