from __future__ import annotations

from pathlib import Path

import pytest

from pixaff.errors import LabelsError
from pixaff.io.labels import format_of, read_entries, read_labels
from pixaff.io.labels.cvat import NAME

CLASSES = ("cat", "dog")
HEAD = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><labels><label><name>cat</name><attributes></attributes></label></labels></task></meta>
"""
IMAGES = """
  <image id="0" name="first/a.jpg" width="9" height="9">
    <box label="cat" source="manual" occluded="0" xtl="1" ytl="1" xbr="2" ybr="2" z_order="0">
      <attribute name="label">cow</attribute>
    </box>
    <mask label="dog" source="semi-auto" occluded="0" rle="1, 2" left="0" top="0" width="2" height="2" z_order="0"/>
  </image>
  <image id="1" name="b.jpg" width="9" height="9"><polygon label="dog" points="1,1;2,2;1,2"/></image>
  <image id="2" name="c.jpg" width="9" height="9"/>
  <image id="3" name="d.jpg" width="9" height="9"><tag label="cat" source="manual"></tag></image>
  <image id="4" name="e.jpg" width="9" height="9">
    <skeleton label="dog"><points label="nose" points="1,1"/></skeleton>
  </image>
"""


def put(folder: Path, text: str) -> Path:
    path = folder / "annotations.xml"
    path.write_text(text)
    return path


def test_shapes_masks_and_tags(tmp_path: Path) -> None:
    path = put(tmp_path, f"{HEAD}{IMAGES}</annotations>")
    (tmp_path / "images").mkdir()
    expected = {"a": (0, 1), "b": (1,), "c": (), "d": (0,), "e": (1,)}
    for place in (path, tmp_path):
        assert format_of(place).NAME == NAME
        assert read_labels(place, CLASSES) == expected


def test_a_bad_image_costs_itself(tmp_path: Path) -> None:
    odd = '<image id="5" name="f.jpg"><box xtl="1"/></image><image id="6"><tag label="cat"/></image>'
    entries = read_entries(put(tmp_path, f"{HEAD}{IMAGES}{odd}</annotations>"))
    assert sum(not entry.problem for entry in entries.by_image.values()) == 5
    assert entries.by_image["f"].problem.endswith('annotations.xml, "f.jpg": found a <box> without a label')
    assert [stray.rsplit("/", 1)[1] for stray in entries.strays] == ["annotations.xml, image 7: found no name"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{HEAD}<image", "damaged XML: .*line"),
        (f"{HEAD}<track id='0' label='cat'><box frame='0'/></track></annotations>", "found <track>: CVAT for video"),
        ('<?xml version="1.0"?><x/>', "found <x>"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotations/>', "entity declarations are not allowed"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///x">]><annotations/>', "entity declarations are not allowed"),
    ],
)
def test_case_other_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = put(tmp_path, text if text.startswith("<?xml") else f'<?xml version="1.0"?>{text}')
    with pytest.raises(LabelsError, match=rf"annotations.xml: {words}"):
        read_labels(path, CLASSES)
