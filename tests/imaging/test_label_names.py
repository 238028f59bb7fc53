from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from samora_pipeline.contracts.label_table import LabelEntry
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import as_xml, from_xml, read_label_names, read_volume, write_labels
from tests.fake_run import write_image

TABLE = (LabelEntry(1, "liver", (213, 94, 0)), LabelEntry(4, "Milz <links> & mehr", (86, 180, 233)))


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    like = read_volume(write_image(tmp_path / "scan.nii.gz"))
    labels = np.zeros(like.grid.shape, np.uint8)
    labels[3:9, 4:9, 1:3] = 4
    write_labels(tmp_path / "labels.nii.gz", labels, like, TABLE)
    return tmp_path / "labels.nii.gz"


def test_names_and_colours_come_back_and_the_voxels_are_untouched(labelled: Path) -> None:
    assert read_label_names(labelled) == TABLE
    itk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(labelled))).transpose()
    assert np.array_equal(itk, np.asarray(nibabel.load(labelled).dataobj))
    assert np.array_equal(itk, read_volume(labelled).array)
    assert np.count_nonzero(itk == 4) == 60
    code = nibabel.load(labelled).header.extensions[0].get_code()
    assert code == nibabel.nifti1.extension_codes["caret"]


def test_a_file_without_names_has_none(tmp_path: Path) -> None:
    assert read_label_names(write_image(tmp_path / "scan.nii.gz")) == ()


@pytest.mark.parametrize(
    "content",
    [
        b'<!DOCTYPE x [<!ENTITY a "b">]><CaretExtension><LabelTable/></CaretExtension>',
        b"<LabelTable><Label Key='1'>no colour</Label></LabelTable>",
        b"<LabelTable><Label Key='one' Red='0' Green='0' Blue='0'>x</Label></LabelTable>",
        b"<LabelTable>",
        b"<LabelTable>" + b" " * (1 << 20) + b"</LabelTable>",
    ],
)
def test_what_is_no_table_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="E-LABEL-13"):
        from_xml(content, Path("x.nii.gz"))


def test_tables_of_other_writers_are_read() -> None:
    theirs = as_xml(TABLE).replace(b">liver<", b"><![CDATA[liver]]><") + b"\0" * 7
    assert from_xml(theirs, Path("x.nii")) == TABLE
