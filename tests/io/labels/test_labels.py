from __future__ import annotations

from pathlib import Path

import pytest

from pixaff.errors import LabelsError
from pixaff.io.labels import VOC_CLASSES, image_stem, names_in, read_classes, read_labels, read_list, write_labels

CLASSES = ("cat", "dog", "motorbike")


def put(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def annotation(*names: str) -> str:
    objects = "".join(f"<object><name>{name}</name><part><name>head</name></part></object>" for name in names)
    return f"<annotation><filename>x.jpg</filename><source><name>flickr</name></source>{objects}</annotation>"


def test_voc_classes() -> None:
    assert len(VOC_CLASSES) == len(set(VOC_CLASSES)) == 20
    assert (VOC_CLASSES[7], VOC_CLASSES[14]) == ("cat", "person")
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)


def test_classes_with_byte_order_mark_windows_line_ends_and_spaces(tmp_path: Path) -> None:
    path = put(tmp_path / "classes.txt", "\ufeffcat\r\n dining table \r\nköter\r\n\r\n")
    assert read_classes(path) == ("cat", "dining table", "köter")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "found no class name"),
        ("\n \n", "found no class name"),
        ("cat\n\ndog\n", "line 2: blank line"),
        ("cat\ndog\ncat\n", 'line 3: found "cat" again, first in line 1'),
        ("background\ncat\n", r'line 1: found "background" \(remove it: background is mask value 0'),
        ("cat;dog\n", 'line 1: found ";" in "cat;dog"'),
        ("\n".join(f"c{number}" for number in range(255)), "found 255 classes, expected at most 254"),
        ("köter".encode("latin-1"), "not UTF-8 text"),
    ],
)
def test_wrong_classes(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(LabelsError, match=rf"classes\.txt.*{words}"):
        read_classes(put(tmp_path / "classes.txt", text))


def test_254_classes_are_the_most(tmp_path: Path) -> None:
    assert len(read_classes(put(tmp_path / "c.txt", "\n".join(f"c{number}" for number in range(254))))) == 254


@pytest.mark.parametrize("read", [read_classes, read_list, lambda path: read_labels(path, CLASSES)])
def test_missing_files(tmp_path: Path, read: object) -> None:
    with pytest.raises(LabelsError, match=r"absent\.txt: no such file"):
        read(tmp_path / "absent.txt")  # type: ignore[operator]


@pytest.mark.parametrize(
    "text",
    [
        "image,labels\nb,dog;cat\na,motorbike\n",
        "\ufeffImage,Labels\r\nb,dog;cat\r\na,motorbike\r\n",
        "b,dog;cat\na,motorbike\n",
        '"image", "labels"\n b.jpg , " dog ; cat; " \n\n,\nphotos/a.PNG,motorbike;motorbike\n',
        "image,labels\nC:\\photos\\b.jpeg,dog;cat\na,motorbike",
    ],
    ids=["plain", "excel", "no header", "spaces, quotes, suffixes, empty rows", "backslashes, no last line end"],
)
def test_csv(tmp_path: Path, text: str) -> None:
    labels = read_labels(put(tmp_path / "labels.csv", text), CLASSES)
    assert labels == {"b": (0, 1), "a": (2,)}
    assert list(labels) == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,labels\na,cat\nb,Kat\n", r'line 3: found unknown class "Kat" \(did you mean "cat"\?\)'),
        ("a,MotorBike\n", r'line 1: found unknown class "MotorBike" \(did you mean "motorbike"\?\)'),
        ("a,zebra\n", r'unknown class "zebra" \(expected one of: cat, dog, motorbike\)'),
        ("a,background\n", "leave it out: background needs no label"),
        ("image,labels\na,cat\na.jpg,dog\n", 'line 3: found image "a" again, first in line 2'),
        ("a,\n", 'line 1: found no label for image "a"'),
        ("a, ; \n", 'line 1: found no label for image "a"'),
        (",cat\n", "line 1: found no image name"),
        ("a,cat,dog\n", r"line 1: expected 2 columns \(image,labels\), found 3 \(join several labels by ;\)"),
        ("a;cat\n", r"line 1: expected 2 columns \(image,labels\), found 1"),
        ("", "found no labels"),
        ("image,labels\n", "found no labels"),
        ("a,köter\n".encode("latin-1"), "not UTF-8 text"),
        ('a,"' + "x" * 200_000 + '"\n', "field larger than field limit"),
    ],
)
def test_wrong_csv(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(LabelsError, match=rf"labels\.csv.*{words}") as caught:
        read_labels(put(tmp_path / "labels.csv", text), CLASSES)
    assert "\n" not in str(caught.value)


def test_long_class_lists_are_not_recited(tmp_path: Path) -> None:
    classes = [f"class {number}" for number in range(100)]
    with pytest.raises(LabelsError, match="class 19 and 80 more"):
        read_labels(put(tmp_path / "labels.csv", "a,zzz\n"), classes)


def test_voc_folder(tmp_path: Path) -> None:
    put(tmp_path / "2007_2.xml", annotation("motorbike", "cat", "cat"))
    put(tmp_path / "2007_1.XML", annotation(" dog "))
    put(tmp_path / "._2007_1.xml", b"\0\1")
    put(tmp_path / "readme.txt", "not read")
    assert read_labels(tmp_path, CLASSES) == {"2007_1": (1,), "2007_2": (0, 2)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (annotation("horse"), 'unknown class "horse"'),
        (annotation(), 'found no label for image "2007_1"'),
        ("<annotation>", "damaged XML"),
        ("", "damaged XML"),
        ('<!DOCTYPE a [<!ENTITY b "cat">]>' + annotation("&b;"), "entity declarations are not allowed"),
    ],
)
def test_wrong_xml(tmp_path: Path, text: str, words: str) -> None:
    put(tmp_path / "2007_1.xml", text)
    with pytest.raises(LabelsError, match=rf"2007_1\.xml: .*{words}"):
        read_labels(tmp_path, CLASSES)


def test_the_folder_above_the_annotations_gets_a_hint(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(LabelsError, match=r"found no \.xml file \(did you mean .*Annotations\?\)"):
        read_labels(tmp_path, CLASSES)


def test_written_labels_are_read_back(tmp_path: Path) -> None:
    classes = ("cat", "dog, small", 'the "best"')
    labels = {"b": (0, 1, 2), "a.v2": (1,), "ä 1": (0,)}
    write_labels(tmp_path / "new" / "labels.csv", labels, classes)
    assert read_labels(tmp_path / "new" / "labels.csv", classes) == labels
    assert (tmp_path / "new" / "labels.csv").read_bytes().startswith(b"image,labels\nb,")


def test_an_image_without_label_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="labels of a: found none"):
        write_labels(tmp_path / "labels.csv", {"a": ()}, CLASSES)
    assert list(tmp_path.iterdir()) == []


def test_list_with_paths_suffixes_and_voc_pairs(tmp_path: Path) -> None:
    text = "\ufeffb\r\n/JPEGImages/a.jpg /SegmentationClassAug/a.png\r\n\r\nmy photo 1.jpg\nx.y.JPG\nscan.v2\n"
    assert read_list(put(tmp_path / "list.txt", text)) == ["b", "a", "my photo 1", "x.y", "scan.v2"]


@pytest.mark.parametrize(
    ("text", "words"), [("\n", "found no image name"), ("a\nb\na.jpg\n", 'line 3: found "a" again')]
)
def test_wrong_lists(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(LabelsError, match=rf"list\.txt.*{words}"):
        read_list(put(tmp_path / "list.txt", text))


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a", "a"), (" x/a.b.jpg ", "a.b"), ("a.2", "a.2"), (".jpg", ".jpg"), ("x\\a.TIFF", "a"), ("a.txt", "a.txt")],
)
def test_image_stem(name: str, stem: str) -> None:
    assert image_stem(name) == stem


def test_class_names_are_gathered_from_csv_and_xml(tmp_path: Path) -> None:
    assert names_in(put(tmp_path / "labels.csv", '\ufeffimage,labels\na.jpg,"zebra; cat"\nb,cat\n')) == ("cat", "zebra")
    assert names_in(put(tmp_path / "bare.csv", "a,dog\n")) == ("dog",)
    (tmp_path / "xml").mkdir()
    put(tmp_path / "xml" / "a.xml", annotation("cow"))
    put(tmp_path / "xml" / "b.xml", "<annotation><object>")
    assert names_in(tmp_path / "xml") == ("cow",)
