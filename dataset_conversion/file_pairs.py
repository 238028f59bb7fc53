"""Which image a label map belongs to: by its name, with or without a suffix such as ``_mask``."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from samora_pipeline.contracts.dataset import CHANNEL_NAME
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.inputs import Channels, group_channels

_WORDS = ("segmentation", "labels", "label", "masks", "mask", "seg", "gt")
_IMAGE_WORDS = ("image", "img", "scan", "volume")
_JOINTS = ("_", "-", ".")

Named = Mapping[Path, str]
"""files with their names without ending"""


class Pairs(NamedTuple):
    """Files of each case, its label map where it has one, and the suffixes that label maps had."""

    images: dict[str, Channels]
    labels: dict[str, Path]
    suffixes: tuple[str, ...]


def pair_folders(images: Named, labels: Named, numbered: bool | None = None) -> Pairs:
    """Pair the files of a folder of images with those of a folder of label maps.

    ``numbered``: whether four digits at the end of an image's name are its channel (None: see ``group_channels``);
    they never are where a label map is called the same.

    Raises:
        DataError: ``E-SRC-03`` label maps without an image, ``E-SRC-13`` two label maps for one image.
    """
    plain = {name for name in images.values() if CHANNEL_NAME.match(name)}
    if any(name in plain or _split(name, _WORDS)[0] in plain for name in labels.values()):
        numbered = False
    groups = group_channels(images, numbered=numbered)
    case_of = {name: name for name in groups}
    for name in groups:
        base, _ = _split(name, _IMAGE_WORDS)
        case_of.setdefault(base, name)
    found: dict[str, Path] = {}
    suffixes: dict[str, None] = {}
    alone = []
    for path, name in sorted(labels.items()):
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


def split_one_folder(files: Named) -> tuple[Named, Named]:
    """Tell label maps from images in a folder that holds both: a suffix, and an image of the name without it."""
    labels = {path: name for path, name in files.items() if _split(name, _WORDS)[1]}
    images = {path: name for path, name in files.items() if path not in labels}
    bases = _bases({*group_channels(images), *images.values()})
    paired = {path: name for path, name in labels.items() if _split(name, _WORDS)[0] in bases}
    return {path: name for path, name in files.items() if path not in paired}, paired


def _bases(cases: Collection[str]) -> set[str]:
    return {*cases, *(_split(name, _IMAGE_WORDS)[0] for name in cases)}


def _split(name: str, words: Collection[str]) -> tuple[str, str]:
    """A name and its suffix; the suffix is empty where the name has none of the words at its end."""
    lowered = name.lower()
    for word in words:
        for joint in _JOINTS:
            if lowered.endswith(joint + word) and len(name) > len(joint + word):
                return name[: -len(joint + word)], name[-len(joint + word) :]
    return name, ""
