"""Hostile and damaged exports are refused, and then nothing has been written."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from samora_pipeline.errors import DataError, ResourceError, SamoraError
from samora_pipeline.exported.install import install, verify
from samora_pipeline.handover.cli import main as export_main
from samora_pipeline.handover.import_cli import main as import_main
from tests.fake_run import DATASET, RUN, write_fake_run

Entries = list[tuple[zipfile.ZipInfo, bytes]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    run = write_fake_run(folder / "results")
    assert export_main([str(run), "--root", str(folder), "-o", str(folder / "model.zip")]) == 0
    return folder / "model.zip"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("ROOT", "RESULTS"):
        monkeypatch.delenv(f"SAMORA_{name}", raising=False)
    return tmp_path


def entries_of(path: Path) -> Entries:
    with zipfile.ZipFile(path) as archive:
        return [(entry, archive.read(entry)) for entry in archive.infolist()]


def pack(path: Path, entries: Entries) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in entries:
            copy = zipfile.ZipInfo(entry.filename, entry.date_time)
            copy.external_attr, copy.compress_type = entry.external_attr, entry.compress_type
            archive.writestr(copy, content)
    return path


def added(
    name: str, content: bytes = b"x", mode: int = stat.S_IFREG | 0o644, packed: int = 0
) -> Callable[..., Entries]:
    def change(entries: Entries) -> Entries:
        entry = zipfile.ZipInfo(name)
        entry.external_attr, entry.compress_type = mode << 16, packed
        return [*entries, (entry, content)]

    return change


def repacked(name: str, packed: int) -> Callable[..., Entries]:
    def change(entries: Entries) -> Entries:
        for entry, _ in entries:
            if entry.filename == name:
                entry.compress_type = packed
        return entries

    return change


def without(name: str) -> Callable[..., Entries]:
    return lambda entries: [(entry, content) for entry, content in entries if entry.filename != name]


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


_CHECKPOINT = "fold_0/checkpoint_final.safetensors"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("change", "code"),
    [
        (added("../outside.json"), "E-IMPORT-02"),
        (added("fold_0/../../outside.json"), "E-IMPORT-02"),
        (added("/etc/outside.json"), "E-IMPORT-02"),
        (added("C:\\outside.json"), "E-IMPORT-02"),
        (added("fold_0\\config.json"), "E-IMPORT-02"),
        (added("notes.txt"), "E-IMPORT-02"),
        (added("fold_0/evil.py"), "E-IMPORT-02"),
        (added("fold_0/checkpoint_final.pth"), "E-IMPORT-02"),
        (added("fold_9/", mode=stat.S_IFDIR | 0o755), "E-IMPORT-02"),
        (added("fold_0/postprocessing.json", b"/etc/passwd", mode=stat.S_IFLNK | 0o777), "E-IMPORT-02"),
        (added("fold_0/postprocessing.json", mode=stat.S_IFIFO | 0o644), "E-IMPORT-02"),
        (added("model.json"), "E-IMPORT-02"),
        (added("fold_0/config.json"), "E-IMPORT-02"),
        (added("fold_A/config.json"), "E-IMPORT-03"),
        (added("fold_0/postprocessing.json", b"\0" * (17 << 20), packed=zipfile.ZIP_DEFLATED), "E-IMPORT-02"),
        (added("base.pth", b"\0" * (1 << 20), packed=zipfile.ZIP_DEFLATED), "E-IMPORT-02"),
        (repacked(_CHECKPOINT, zipfile.ZIP_DEFLATED), "E-IMPORT-02"),
        (repacked("model.json", zipfile.ZIP_BZIP2), "E-IMPORT-02"),
        (added("fold_0/postprocessing.json", b"{}"), "E-IMPORT-03"),
        (added("fold_0/scores.json", b"{}"), "E-IMPORT-03"),
        (without("model.json"), "E-IMPORT-04"),
        (without(_CHECKPOINT), "E-IMPORT-03"),
        (without("digests.json"), "E-IMPORT-04"),
    ],
)
def test_hostile_archives_write_nothing(
    exported: Path, place: Path, change: Callable[[Entries], Entries], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(place / "bad.zip", change(entries_of(exported)))
    before, around = tree(place), {path.name for path in place.parent.iterdir()}
    assert import_main(["bad.zip", "--root", "elsewhere"]) == 4
    assert code in capsys.readouterr().err
    assert tree(place) == before
    assert {path.name for path in place.parent.iterdir()} == around


def test_twins_that_differ_in_case_are_refused(exported: Path, place: Path) -> None:
    entries = entries_of(exported)
    twin = [(e, c) for e, c in entries if e.filename.startswith("fold_0/")]
    for entry, content in twin:
        copy = zipfile.ZipInfo(entry.filename.replace("fold_0", "fold_a"))
        entries.append((copy, content))
        entries.append((zipfile.ZipInfo(entry.filename.replace("fold_0", "fold_A")), content))
    with pytest.raises(DataError, match="upper and lower case"):
        verify(pack(place / "bad.zip", entries))


def test_many_entries_are_refused(exported: Path, place: Path) -> None:
    entries = entries_of(exported)
    entries += [(zipfile.ZipInfo(f"fold_{number}/config.json"), b"{}") for number in range(1, 300)]
    with pytest.raises(DataError, match="entries") as caught:
        verify(pack(place / "bad.zip", entries))
    assert caught.value.code == "E-IMPORT-02"


def test_texts_that_swell_only_together_are_refused(exported: Path, place: Path) -> None:
    entries = entries_of(exported)
    for number in range(1, 5):
        entry = zipfile.ZipInfo(f"fold_{number}/config.json")
        entry.compress_type = zipfile.ZIP_DEFLATED
        entries.append((entry, b"\0" * (15 << 20)))
    with pytest.raises(DataError, match="in all"):
        verify(pack(place / "bad.zip", entries))


def test_entries_that_share_their_bytes_are_refused(exported: Path, place: Path) -> None:
    """Two entries of the directory that point to the same bytes: what an overlapping bomb is made of."""
    content = bytearray(pack(place / "plain.zip", entries_of(exported)).read_bytes())
    end = content.rindex(b"PK\5\6")
    count, size, start = struct.unpack("<HII", content[end + 10 : end + 20])
    record = content.index(_CHECKPOINT.encode(), start) - 46
    length = 46 + sum(struct.unpack("<HHH", content[record + 28 : record + 34]))
    twin = content[record : record + length].replace(_CHECKPOINT.encode(), b"fold_1/checkpoint_final.safetensors")
    content[end:end] = twin
    content[end + length + 8 : end + length + 20] = struct.pack("<HHII", count + 1, count + 1, size + length, start)
    (place / "bad.zip").write_bytes(content)
    with zipfile.ZipFile(place / "bad.zip") as archive:
        assert len(archive.infolist()) == count + 1
    with pytest.raises(DataError, match=r"share their bytes|File name in directory|Overlapped") as caught:
        verify(place / "bad.zip")
    assert caught.value.code in ("E-IMPORT-02", "E-IMPORT-03")


def test_a_compression_that_nobody_knows_is_refused(exported: Path, place: Path) -> None:
    content = bytearray(pack(place / "plain.zip", entries_of(exported)).read_bytes())
    record = content.index(b"PK\x01\x02")
    content[record + 10 : record + 12] = struct.pack("<H", 99)
    (place / "bad.zip").write_bytes(content)
    with pytest.raises(DataError, match="packed in an unusual way") as caught:
        verify(place / "bad.zip")
    assert caught.value.code == "E-IMPORT-02"


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "traversal"])
def test_tars_are_not_even_looked_into(place: Path, kind: str) -> None:
    with tarfile.open(place / "bad.zip", "w") as archive:
        entry = tarfile.TarInfo("../model.json" if kind == "traversal" else "model.json")
        entry.type = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE}.get(kind, tarfile.REGTYPE)
        entry.linkname = "/etc/passwd"
        archive.addfile(entry, io.BytesIO())
    assert import_main(["bad.zip", "--root", "elsewhere"]) == 5
    assert tree(place) == {"bad.zip"}


@pytest.mark.parametrize("position", [0.02, 0.3, 0.6, 0.9])
def test_a_changed_byte_is_found(exported: Path, place: Path, position: float) -> None:
    content = bytearray(exported.read_bytes())
    content[int(position * len(content))] ^= 0x10
    (place / "bad.zip").write_bytes(content)
    with pytest.raises(DataError) as caught:
        verify(place / "bad.zip")
    assert caught.value.code in ("E-IMPORT-02", "E-IMPORT-03")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_cut_short_is_refused(exported: Path, place: Path, share: float) -> None:
    content = exported.read_bytes()
    (place / "bad.zip").write_bytes(content[: int(share * len(content))])
    with pytest.raises(SamoraError, match=r"E-IMPORT-0[13]"):
        verify(place / "bad.zip")


def test_folders_with_links_are_refused(exported: Path, place: Path) -> None:
    good = place / "good"
    with zipfile.ZipFile(exported) as archive:
        archive.extractall(good)
    assert verify(good).place.as_posix() == f"{DATASET}/{RUN}"
    (good / "base.pth").symlink_to(place / "anything")
    with pytest.raises(DataError, match="E-IMPORT-02") as caught:
        verify(good)
    assert "a link" in caught.value.found
    (good / "base.pth").unlink()
    (place / "secret").write_text("x")
    os.link(place / "secret", good / "base.pth")
    with pytest.raises(DataError) as caught:
        verify(good)
    assert "hard link" in caught.value.found
    (good / "base.pth").unlink()
    (good / "fold_1").symlink_to(good / "fold_0")
    with pytest.raises(DataError, match="E-IMPORT-02"):
        verify(good)
    (good / "fold_1").unlink()
    (good / "fold_0" / "deeper").mkdir()
    with pytest.raises(DataError, match="E-IMPORT-02"):
        verify(good)


def rewritten(exported: Path, target: Path, name: str, change: Callable[[dict[str, object]], None]) -> Path:
    """An export whose JSON was changed together with its digest, as a forger would do it."""
    entries = entries_of(exported)
    texts = {entry.filename: content for entry, content in entries}
    plain = json.loads(texts[name])
    change(plain)
    texts[name] = json.dumps(plain).encode()
    digests = json.loads(texts["digests.json"])
    digests["files"][name] = {"size": len(texts[name]), "sha256": hashlib.sha256(texts[name]).hexdigest()}
    texts["digests.json"] = json.dumps(digests).encode()
    return pack(target, [(entry, texts[entry.filename]) for entry, _ in entries])


@pytest.mark.parametrize(
    ("name", "key", "value", "code"),
    [
        ("model.json", "run", "../../evil", "E-IMPORT-02"),
        ("model.json", "dataset", "/etc", "E-IMPORT-02"),
        ("model.json", "run", ".hidden", "E-IMPORT-02"),
        ("model.json", "folds", ["0", "1"], "E-IMPORT-04"),
        ("model.json", "folds", [], "E-IMPORT-04"),
        ("model.json", "bases", [], "E-IMPORT-04"),
        ("model.json", "unknown", 1, "E-JSON-03"),
        ("fold_0/config.json", "dataset", "Dataset002_Other", "E-IMPORT-04"),
    ],
)
def test_forged_descriptions_write_nothing(
    exported: Path,
    place: Path,
    name: str,
    key: str,
    value: object,
    code: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rewritten(exported, place / "bad.zip", name, lambda plain: plain.update({key: value}))
    assert import_main(["bad.zip", "--root", "elsewhere"]) == 4
    assert code in capsys.readouterr().err
    assert tree(place) == {"bad.zip"}


def test_scores_of_another_form_are_refused(exported: Path, place: Path) -> None:
    entries = entries_of(exported)
    scores = b'{"dice": "high", "cases": 1, "patients": 1}'
    texts = {entry.filename: content for entry, content in entries}
    digests = json.loads(texts["digests.json"])
    digests["files"]["fold_0/scores.json"] = {"size": len(scores), "sha256": hashlib.sha256(scores).hexdigest()}
    texts |= {"digests.json": json.dumps(digests).encode(), "fold_0/scores.json": scores}
    pack(place / "bad.zip", [(zipfile.ZipInfo(name), content) for name, content in texts.items()])
    with pytest.raises(DataError, match="E-JSON-03"):
        verify(place / "bad.zip")


def test_code_of_others_is_named_and_only_taken_on_demand(
    exported: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(plain: dict[str, object]) -> None:
        plain["trainer"] = "os:system"

    rewritten(exported, place / "bad.zip", "fold_0/config.json", change)
    assert import_main(["bad.zip", "--root", "elsewhere"]) == 4
    said = capsys.readouterr().err
    assert "E-CODE-01" in said
    assert "os:system" in said
    assert import_main(["bad.zip", "--root", "elsewhere", "--allow-code"]) == 0


def test_a_broken_checkpoint_leaves_no_folder(exported: Path, place: Path) -> None:
    entries = entries_of(exported)
    broken = b"\0" * 64
    texts = {entry.filename: content for entry, content in entries}
    digests = json.loads(texts["digests.json"])
    digests["files"][_CHECKPOINT] = {"size": 64, "sha256": hashlib.sha256(broken).hexdigest()}
    texts |= {_CHECKPOINT: broken, "digests.json": json.dumps(digests).encode()}
    pack(place / "bad.zip", [(entry, texts[entry.filename]) for entry, _ in entries])
    assert import_main(["bad.zip", "--root", "elsewhere"]) == 4
    assert tree(place) == {"bad.zip"}


def test_a_run_of_the_same_name_stays_untouched(
    exported: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = place / "elsewhere" / "results" / DATASET / RUN
    own.mkdir(parents=True)
    (own / "mine").touch()
    assert import_main([str(exported), "--root", "elsewhere"]) == 4
    assert f"-o {own.relative_to(place)}_imported" in capsys.readouterr().err
    assert tree(own) == {"mine"}
    assert import_main([str(exported), "-o", "beside"]) == 0
    assert (place / "beside" / "fold_0" / "config.json").is_file()


def test_a_full_disk_is_seen_beforehand(exported: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(ResourceError, match="E-DISK-02"):
        install(verify(exported), place / "a" / "b")
    assert tree(place) == set()


def test_a_source_that_changes_between_check_and_copy_is_found(exported: Path, place: Path) -> None:
    verified = verify(exported)
    known = {name: replace(digest, sha256="0" * 64) for name, digest in verified.digests.files.items()}
    with pytest.raises(DataError, match="E-IMPORT-03"):
        install(replace(verified, digests=replace(verified.digests, files=known)), place / "a" / "b")
    assert tree(place) == set()


def test_single_bits_of_directory_and_texts_are_refused_or_of_no_effect(exported: Path, place: Path) -> None:
    """Drawn from a seed: every outcome is the sound model, or an error with a code."""
    content, draw = exported.read_bytes(), random.Random(1)
    with zipfile.ZipFile(exported) as archive:
        spans = [
            (entry.header_offset, entry.header_offset + 30 + len(entry.filename) + entry.compress_size)
            for entry in archive.infolist()
            if not entry.filename.endswith("safetensors")
        ]
        spans.append((archive.start_dir, len(content)))
    refused = 0
    for _ in range(300):
        changed = bytearray(content)
        changed[draw.randrange(*draw.choice(spans))] ^= 1 << draw.randrange(8)
        (place / "bad.zip").write_bytes(changed)
        try:
            assert verify(place / "bad.zip").model.run == RUN
        except SamoraError as error:
            refused += error.code.startswith(("E-IMPORT-0", "E-JSON-0"))
    assert refused > 200


def test_a_config_that_its_checkpoint_was_not_trained_with_is_refused(
    exported: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(plain: dict[str, object]) -> None:
        plain["plans"]["slice_axis"]["value"] = "coronal"  # type: ignore[index]

    rewritten(exported, place / "bad.zip", "fold_0/config.json", change)
    assert import_main(["bad.zip", "--root", "elsewhere"]) == 4
    assert "E-IMPORT-04" in capsys.readouterr().err
    assert tree(place) == {"bad.zip"}
