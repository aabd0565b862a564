from __future__ import annotations

from pathlib import Path

import pytest

from pixaff.errors import LabelsError
from pixaff.io.labels import VOC_CLASSES, ClassList, read_class_list, read_classes
from pixaff.io.labels.classes import near_name


def put(folder: Path, text: str | bytes) -> Path:
    path = folder / "classes.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_voc_classes() -> None:
    assert len(VOC_CLASSES) == len(set(VOC_CLASSES)) == 20
    assert (VOC_CLASSES[7], VOC_CLASSES[14]) == ("cat", "person")
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)


def test_byte_order_mark_windows_line_ends_and_spaces(tmp_path: Path) -> None:
    assert read_classes(put(tmp_path, "\ufeffcat\r\n dining table \r\nköter\r\n\r\n")) == (
        "cat",
        "dining table",
        "köter",
    )


def test_254_classes_are_the_most(tmp_path: Path) -> None:
    assert len(read_classes(put(tmp_path, "\n".join(f"c{number}" for number in range(254))))) == 254


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "found no class name"),
        ("\n \n", "found no class name"),
        ("# name\n", "found no class name"),
        ("background\n", "found no class name"),
        ("cat\n\ndog\n", "line 2: blank line"),
        ("cat\ndog\ncat\n", 'line 3: found "cat" again, first in line 1'),
        ("été\ne\u0301te\u0301\n", 'line 2: found "été" again, first in line 1'),
        ("cat\nbackground\n", r'line 2: found "background" \(remove it: background is mask value 0'),
        ("cat;dog\n", 'line 1: found ";" in "cat;dog"'),
        ("\n".join(f"c{number}" for number in range(255)), "found 255 classes, expected at most 254"),
        ("кот".encode("cp1251"), "line 1: not UTF-8 text"),
        ("cat\n" * 20_000, "found 20,000 lines, expected a class list"),
        ("cat\n" + "x" * 5000, r'line 2: found "x+\.\.\.x+" \(expected a name a line'),
    ],
)
def test_wrong_lists(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(LabelsError, match=rf"classes\.txt.*{words}") as caught:
        read_classes(put(tmp_path, text))
    assert len(str(caught.value)) < 400


HORSE, PERSON = (128, 0, 0), (0, 128, 0)


@pytest.mark.parametrize(
    ("text", "colours"),
    [
        ("_background_\nhorse\nperson\n", None),
        ("__ignore__\n_background_\nhorse\nperson\n", None),
        ("__background__\nhorse\nperson\n", None),
        ("background\nhorse\nperson\n", None),
        ("# two classes\nhorse\nperson\n", None),
        (
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\nhorse:128,0,0:head,tail:\nperson:0,128,0::runs\n",
            {(0, 0, 0): 0, HORSE: 1, PERSON: 2},
        ),
        ("background:::\nhorse:::\nperson:::\n", None),
        ("horse:128,0,0\nperson:0,128,0\nvoid:224,224,192\n", {HORSE: 1, PERSON: 2, (224, 224, 192): 255}),
        ("Pixel Value, Class\n0, background\n1, horse\n2, person\n", None),
        ("1 horse\n2 person\n", None),
        ("0: background\n2: person\n1: horse\n255: void\n", None),
        ("horse,1\nperson,2\n", None),
        ("name,r,g,b\nhorse,128,0,0\nperson,0,128,0\n", {HORSE: 1, PERSON: 2}),
        ("id;name;r;g;b\n1;horse;128;0;0\n2;person;0;128;0\n", {HORSE: 1, PERSON: 2}),
        ("0 0 0\tbackground\n128 0 0\thorse\n0 128 0\tperson\n", {(0, 0, 0): 0, HORSE: 1, PERSON: 2}),
        ("horse 128 0 0\nperson 0 128 0\n", {HORSE: 1, PERSON: 2}),
    ],
)
def test_case_class_list_of_labelling_tools(
    tmp_path: Path, text: str, colours: dict[tuple[int, int, int], int] | None
) -> None:
    assert read_class_list(put(tmp_path, text)) == ClassList(("horse", "person"), colours)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("__ignore__\nhorse\n", 'found "__ignore__" without _background_ after it'),
        ("horse\n_background_\n", 'line 2: found "_background_"'),
        ("horse\n__ignore__\n", 'line 2: found "__ignore__".*void is mask value 255'),
        ("horse\nvoid\n", 'line 2: found "void"'),
        ("0: person\n1: bicycle\n", 'line 1: found number 0 for "person".*number the classes from 1'),
        ("1,horse\n3,person\n", "line 2: found number 3, expected 2"),
        ("1,background\n2,horse\n", 'line 1: found "background"'),
        ("256,horse\n", "found number 256, expected 1"),
        ("horse\nperson:0,128,0::\n", 'line 2: found "person:0,128,0::" among plain names .*cat:128,0,0'),
        ("cat\ndog,2\n", 'line 2: found "dog,2" among plain names'),
        ("horse:300,0,0\n", "found the colour"),
        ("horse:1,2,3\nperson:1,2,3\n", "line 2: found the colour .* again"),
        ("classes\nhorse\nperson\n", 'line 1: found "classes" among plain names'),
        ("horse,person,dog\n", 'found "horse,person,dog"'),
        ('["horse", "person"]\n', "expected a name a line"),
        ("names:\n  0: horse\n", "expected a name a line"),
        ("item {\n  id: 1\n}\n", "expected a name a line"),
        ("- horse\n- person\n", "expected a name a line"),
    ],
)
def test_case_class_list_of_labelling_tools_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(LabelsError, match=rf"classes\.txt, .*{words}"):
        read_class_list(put(tmp_path, text))


def test_names_with_commas_and_colons_stay_names(tmp_path: Path) -> None:
    assert read_classes(put(tmp_path, "tench, Tinca tinca\ngoldfish\nbird: small\n")) == (
        "tench, Tinca tinca",
        "goldfish",
        "bird: small",
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Kat", 'did you mean "cat"?'),
        ("zebra", "expected one of: cat, dog, motorbike"),
        ("background", "leave it out: background needs no label"),
        ("_background_", "leave it out: background needs no label"),
        ("cat|dog", "join several labels by ;, as in cat;dog"),
        ("dog, cat", "join several labels by ;, as in dog;cat"),
    ],
)
def test_hints_about_unknown_names(name: str, hint: str) -> None:
    assert near_name(name, ("cat", "dog", "motorbike")) == hint


def test_long_class_lists_are_not_recited() -> None:
    assert near_name("zzz", [f"class {number}" for number in range(100)]).endswith("class 19 and 80 more")
