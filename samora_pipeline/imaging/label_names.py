"""Names and colours of labels inside a NIfTI file: the XML extension of Connectome Workbench (NIfTI code 30, "caret").

Readers that do not know it pass over it, as the format demands. TotalSegmentator's files carry the same XML.
"""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel
from nibabel.filebasedimages import ImageFileError

from samora_pipeline.contracts.label_table import LabelEntry, LabelTable
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.byte_checks import reading

_CARET = 30
# Beyond this it is no table of at most 255 names.
_LARGEST = 1 << 20


def name_labels(image: Any, table: LabelTable) -> None:
    """Add the table to the header of a nibabel NIfTI image."""
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(_CARET, as_xml(table)))


def read_label_names(path: Path) -> LabelTable:
    """The table in a NIfTI file's header; empty where the file names no labels.

    Raises:
        DataError: ``E-LABEL-13`` for a table that cannot be understood; ``E-IMG-02`` for a file without a header.
    """
    with reading(path, ImageFileError, OSError, EOFError, ValueError):
        extensions = nibabel.load(path).header.extensions
    for extension in extensions:
        # nibabel before 5.3 knows get_content alone, later ones refuse it for codes that they do not interpret.
        content = extension.content if hasattr(extension, "content") else extension.get_content()
        if isinstance(content, bytes) and b"<LabelTable" in content[:_LARGEST]:
            return from_xml(content, path)
    return ()


def as_xml(table: LabelTable) -> bytes:
    """The table as the text of the extension."""
    root = ElementTree.Element("CaretExtension")
    volume = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    labels = ElementTree.SubElement(volume, "LabelTable")
    for entry in table:
        red, green, blue = (f"{value / 255:.6g}" for value in entry.colour)
        attributes = {"Key": str(entry.value), "Red": red, "Green": green, "Blue": blue, "Alpha": "1"}
        ElementTree.SubElement(labels, "Label", attributes).text = entry.name
    ElementTree.SubElement(volume, "VolumeType").text = "Label"
    content: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return content


def from_xml(content: bytes, path: Path) -> LabelTable:
    """The table in the text of an extension; ``path`` is named in errors."""
    text = content.rstrip(b"\0 \n")
    if len(text) > _LARGEST or b"<!" in text.replace(b"<![CDATA[", b""):
        # No table needs a document type, and entities can grow without end.
        raise DataError("E-LABEL-13", path=path, found=f"it is too large or declares entities in {path}")
    try:
        labels = ElementTree.fromstring(text).iter("Label")
        table = tuple(_entry(label) for label in labels)
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise DataError("E-LABEL-13", path=path, found=f"{error} in {path}") from error
    return tuple(sorted((entry for entry in table if entry.value > 0), key=lambda entry: entry.value))


def _entry(label: ElementTree.Element) -> LabelEntry:
    red, green, blue = (min(255, max(0, round(255 * float(label.attrib[key])))) for key in ("Red", "Green", "Blue"))
    return LabelEntry(int(label.attrib["Key"]), (label.text or "").strip(), (red, green, blue))
