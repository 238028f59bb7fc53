"""Which image a label map belongs to: by its name, with or without a suffix such as ``_mask``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dataset_conversion.survey import group_channels, stem
from samora_pipeline.errors import DataError

_WORDS = ("segmentation", "labels", "label", "masks", "mask", "seg", "gt")
_IMAGE_WORDS = ("image", "img", "scan", "volume")
_JOINTS = ("_", "-", ".")


class Pairs(NamedTuple):
    """Files of each case, its label map where it has one, and the suffixes that label maps had."""

    images: dict[str, tuple[Path, ...]]
    labels: dict[str, Path]
    suffixes: tuple[str, ...]


def pair_folders(images: Sequence[Path], labels: Sequence[Path], endings: tuple[str, ...]) -> Pairs:
    """Pair the files of a folder of images with those of a folder of label maps.

    Raises:
        DataError: ``E-SRC-03`` label maps without an image, ``E-SRC-13`` two label maps for one image.
    """
    groups = group_channels(images, endings)
    case_of = {name: name for name in groups}
    for name in groups:
        base, _ = _split(name, _IMAGE_WORDS)
        case_of.setdefault(base, name)
    found: dict[str, Path] = {}
    suffixes: dict[str, None] = {}
    alone = []
    for path in labels:
        name = stem(path, endings)
        base, suffix = (name, "") if name in case_of else _split(name, _WORDS)
        if base not in case_of:
            alone.append(path.name)
            continue
        case = case_of[base]
        if case in found:
            raise DataError("E-SRC-13", name=case, found=f"{found[case].name} and {path.name}")
        found[case] = path
        suffixes |= {suffix: None} if suffix else {}
    if alone:
        shown = ", ".join([*groups][:5])
        raise DataError("E-SRC-03", number=len(alone), images=shown, found=", ".join(sorted(alone)))
    return Pairs(groups, found, tuple(suffixes))


def split_one_folder(files: Sequence[Path], endings: tuple[str, ...]) -> tuple[list[Path], list[Path]]:
    """Tell label maps from images in a folder that holds both: a suffix, and an image of the name without it."""
    names = {stem(path, endings): path for path in files}
    labels = {name: path for name, path in names.items() if _split(name, _WORDS)[1]}
    cases = group_channels([path for name, path in names.items() if name not in labels], endings)
    bases = _bases(cases)
    paired = [path for name, path in labels.items() if _split(name, _WORDS)[0] in bases]
    return [path for path in files if path not in paired], paired


def _bases(cases: Mapping[str, object]) -> set[str]:
    return {*cases, *(_split(name, _IMAGE_WORDS)[0] for name in cases)}


def _split(name: str, words: Sequence[str]) -> tuple[str, str]:
    """A name and its suffix; the suffix is empty where the name has none of the words at its end."""
    lowered = name.lower()
    for word in words:
        for joint in _JOINTS:
            if lowered.endswith(joint + word) and len(name) > len(joint + word):
                return name[: -len(joint + word)], name[-len(joint + word) :]
    return name, ""
