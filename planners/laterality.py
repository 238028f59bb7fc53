"""Whether label names come in opposite pairs, so that a mirrored image would carry wrong labels."""

import re
from collections.abc import Iterable

_OPPOSITE = {"left": "right", "l": "r", "lt": "rt", "lft": "rgt", "sin": "dex", "sinistra": "dextra"}
_OPPOSITE |= {"anterior": "posterior", "superior": "inferior", "upper": "lower", "ventral": "dorsal"}
_OPPOSITE["cranial"] = "caudal"
_OPPOSITE |= {right: left for left, right in _OPPOSITE.items()}
# Up to this length a word that starts with L or R is read as an abbreviation: LV and RV, LUL and RUL.
_ABBREVIATION = 3


def opposite_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ in a direction alone: ``left kidney``/``right kidney``, ``rightparotid``, ``l_lung``,
    ``anterior``/``posterior``.

    A direction counts only where its counterpart is a label too: "cleft" or "r" alone make no pair.
    """
    by_plain = {_plain(name): name for name in names}
    pairs: list[tuple[str, str]] = []
    seen: set[str] = set()
    for plain, name in by_plain.items():
        for mirrored in _mirrored(plain):
            other = by_plain.get(mirrored)
            if other is not None and name not in seen:
                pairs.append((name, other))
                seen |= {name, other}
    return pairs


def _plain(name: str) -> str:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.split(r"[^a-z0-9]+", spaced.lower())).strip()


def _mirrored(plain: str) -> list[str]:
    words = plain.split()
    candidates = []
    for index, word in enumerate(words):
        swaps = [_OPPOSITE[word]] if word in _OPPOSITE else []
        swaps += [word.replace(side, _OPPOSITE[side], 1) for side in ("left", "right") if side in word]
        if 1 < len(word) <= _ABBREVIATION and word[0] in "lr":
            swaps.append(_OPPOSITE[word[0]] + word[1:])
        candidates += [" ".join([*words[:index], swap, *words[index + 1 :]]) for swap in swaps]
    return candidates
