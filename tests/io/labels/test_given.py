from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from pixaff.errors import LabelsError
from pixaff.io.labels import FORMATS, Labels, class_indices, names_in, read_classes, read_labels, read_list, table

CLASSES = ("cat", "dog", "motorbike")


def put(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("read", [read_classes, read_list, lambda path: read_labels(path, CLASSES), names_in])
def test_missing_files(tmp_path: Path, read: object) -> None:
    with pytest.raises(LabelsError, match=r"absent\.txt: no such file"):
        read(tmp_path / "absent.txt")  # type: ignore[operator]


def test_one_format_takes_each_path(tmp_path: Path) -> None:
    for path in (tmp_path, put(tmp_path / "labels.csv", "a,cat\n"), tmp_path / "absent"):
        assert any(kind.detect(path) for kind in FORMATS)
    assert FORMATS[-1] is table


def test_labels_are_a_mapping(tmp_path: Path) -> None:
    labels = read_labels(put(tmp_path / "labels.csv", "a,cat\nb,zebra\nc,\n"), CLASSES)
    assert dict(labels) == {"a": (0,), "c": ()}
    assert len(labels) == 2
    assert ("a" in labels, "b" in labels, "x" in labels, 3 in labels) == (True, False, False, False)
    assert labels.get("x") is None
    assert labels.of("c") == ()
    with pytest.raises(KeyError):
        labels["x"]
    with pytest.raises(LabelsError, match='unknown class "zebra"'):
        labels.get("b")  # never mistaken for an image that the file does not name
    with pytest.raises(LabelsError, match=r'labels\.csv: no entry for "x" \(add "x" there, without labels if it'):
        labels.of("x")
    assert repr(labels) == f"<Labels of 2 images from {tmp_path}/labels.csv, 1 problems>"
    assert labels.named == {0: f"{tmp_path}/labels.csv, line 1"}


def test_entries_of_images_that_were_not_asked_for_cost_nothing(tmp_path: Path) -> None:
    path = put(tmp_path / "labels.csv", "a,cat\nb,zebra\nc,cat,dog\nd,cat\nd,dog\n")
    labels = read_labels(path, CLASSES, ["a"])
    assert (dict(labels), labels.problems, labels.others) == ({"a": (0,)}, {}, ("b", "c", "d"))
    assert names_in(path, ["a"]) == ("cat",)
    assert len(read_labels(path, CLASSES, [])) == 0, "a run without images is no mistake of the labels"


def test_labels_of_none_of_the_images(tmp_path: Path) -> None:
    path = put(tmp_path / "labels.csv", f"{'x' * 500}.jpg,cat\nb.jpg,cat\n")
    with pytest.raises(LabelsError, match=r'found 2 images, none of them among 2 photos \(its first is "xxx') as it:
        read_labels(path, CLASSES, ["p1", "p2"])
    assert str(it.value).endswith('the first photo "p1")')
    assert len(str(it.value)) < 400


def test_labels_of_which_none_can_be_used(tmp_path: Path) -> None:
    path = put(tmp_path / "labels.csv", "a,zebra\nb,zebra\nc,cat\n")
    with pytest.raises(
        LabelsError, match=r'labels\.csv: none of 2 entries can be used, the first: .*unknown class "zebra"'
    ):
        read_labels(path, CLASSES, ["a", "b"])


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_case_decomposed_names(tmp_path: Path, form: str) -> None:
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    text = unicodedata.normalize(form, "image,labels\nforêt-été.jpg,chèvre\n")
    path = put(tmp_path / "labels.csv", text)
    photo, name = (unicodedata.normalize(other, word) for word in ("forêt-été", "chèvre"))
    labels = read_labels(path, [name], [photo])
    assert labels.of(photo) == labels.of(unicodedata.normalize(form, photo)) == (0,)
    assert photo in labels
    assert names_in(path, [photo]) == ("chèvre",)
    assert class_indices([unicodedata.normalize(form, name)], [name]) == (0,)


def test_names_are_gathered_from_csv_and_xml(tmp_path: Path) -> None:
    assert names_in(put(tmp_path / "labels.csv", '\ufeffimage,labels\na.jpg,"zebra; cat"\nb,cat\n')) == ("cat", "zebra")
    assert names_in(put(tmp_path / "bare.csv", "a,dog\nb,cow,\n")) == ("cow", "dog")
    (tmp_path / "xml").mkdir()
    put(tmp_path / "xml" / "a.xml", "<annotation><object><name>cow</name></object></annotation>")
    put(tmp_path / "xml" / "b.xml", "<annotation><object>")
    assert names_in(tmp_path / "xml") == ("cow",)


def test_class_indices() -> None:
    assert class_indices(["dog", 0, "dog"], CLASSES) == (0, 1)
    with pytest.raises(LabelsError, match=r'labels: found unknown class "Dog" \(did you mean "dog"\?\)'):
        class_indices(["Dog"], CLASSES)
    with pytest.raises(LabelsError, match=r"found the index 3, expected 0\.\.2"):
        class_indices([3], CLASSES)


def test_labels_made_by_hand() -> None:
    assert Labels("memory", {"a": (1,)}).of("a") == (1,)
