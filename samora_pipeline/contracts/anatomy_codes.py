"""SNOMED CT codes of structures by the names that datasets give them, for formats that ask for a code.

Codes are those of pydicom's concept dictionary (DICOM PS3.16). A name that is not here is coded as tissue, which
claims nothing.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """A code of SNOMED CT and its meaning."""

    value: str
    meaning: str


@dataclass(frozen=True)
class AnatomyCode:
    """What a segment shows: its category, its type, and the side where the name tells one."""

    category: Code
    kind: Code
    side: Code | None = None


TISSUE = Code("85756007", "Tissue")
_ANATOMICAL = Code("91723000", "Anatomical Structure")
_ABNORMAL = Code("49755003", "Morphologically Abnormal Structure")
_SIDES = {"right": Code("24028007", "Right"), "left": Code("7771000", "Left")}

_STRUCTURES = {
    "adrenal gland": Code("23451007", "Adrenal gland"),
    "aorta": Code("15825003", "Aorta"),
    "bladder": Code("89837001", "Bladder"),
    "brain": Code("12738006", "Brain"),
    "colon": Code("71854001", "Colon"),
    "duodenum": Code("38848004", "Duodenum"),
    "esophagus": Code("32849002", "Esophagus"),
    "gallbladder": Code("28231008", "Gallbladder"),
    "heart": Code("80891009", "Heart"),
    "hepatic vein": Code("8993003", "Hepatic vein"),
    "hippocampus": Code("5366008", "Hippocampus"),
    "inferior vena cava": Code("64131007", "Inferior vena cava"),
    "kidney": Code("64033007", "Kidney"),
    "left atrium": Code("82471001", "Left atrium"),
    "liver": Code("10200004", "Liver"),
    "lung": Code("39607008", "Lung"),
    "pancreas": Code("15776009", "Pancreas"),
    "portal vein": Code("32764006", "Portal vein"),
    "prostate": Code("41216001", "Prostate"),
    "spleen": Code("78961009", "Spleen"),
    "stomach": Code("69695003", "Stomach"),
    "uterus": Code("35039007", "Uterus"),
}
_FINDINGS = {
    "cyst": Code("367643001", "Cyst"),
    "edema": Code("79654002", "Edema"),
    "lesion": Code("52988006", "Lesion"),
    "tumor": Code("108369006", "Neoplasm"),
    "tumour": Code("108369006", "Neoplasm"),
}
_OTHER_NAMES = {
    "adrenal": "adrenal gland",
    "gall bladder": "gallbladder",
    "ivc": "inferior vena cava",
    "oesophagus": "esophagus",
    "postcava": "inferior vena cava",
    "urinary bladder": "bladder",
}


def anatomy_code(name: str) -> AnatomyCode:
    """The code of a name such as ``right_kidney``, ``Kidney (left)`` or ``liver``; a name not known is tissue."""
    words = re.sub(r"[\W_]+", " ", name.lower()).strip()
    if words in _STRUCTURES:
        return AnatomyCode(_ANATOMICAL, _STRUCTURES[words])
    sides = [side for side in _SIDES if side in words.split()]
    plain = " ".join(word for word in words.split() if word not in _SIDES)
    plain = _OTHER_NAMES.get(plain, plain)
    side = _SIDES[sides[0]] if len(sides) == 1 else None
    if plain in _STRUCTURES:
        return AnatomyCode(_ANATOMICAL, _STRUCTURES[plain], side)
    if plain in _FINDINGS:
        return AnatomyCode(_ABNORMAL, _FINDINGS[plain], side)
    return AnatomyCode(TISSUE, TISSUE)
