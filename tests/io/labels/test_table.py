from __future__ import annotations

from pathlib import Path

import pytest

from pixaff.errors import LabelsError
from pixaff.io.labels import Wanted, read_labels, write_labels
from pixaff.io.labels.table import read

CLASSES = ("cat", "dog", "motorbike")


def put(folder: Path, text: str | bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


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
def test_rows(tmp_path: Path, text: str) -> None:
    labels = read_labels(put(tmp_path, text), CLASSES)
    assert labels == {"b": (0, 1), "a": (2,)}
    assert list(labels) == ["b", "a"]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffimage;labels\r\nb.jpg;cat\r\na.jpg;motorbike\r\n",
        "b.jpg;cat\na.jpg;motorbike\n",
        "image\tlabels\nb.jpg\tcat\na.jpg\tmotorbike\n",
        "image\tlabels\r\nb.jpg\tcat\r\na.jpg\tmotorbike\r\n".encode("utf-16"),
        "sep=;\r\nimage;labels\r\nb.jpg;cat\r\na.jpg;motorbike\r\n",
        "image,labels,,\r\nb.jpg,cat,,\r\na.jpg,motorbike,,\r\n",
        "b.jpg,cat,\na.jpg,motorbike,\n",
        "filename,label\nb.jpg,cat\na.jpg,motorbike\n",
        "File_Name;Category\nb.jpg;cat\na.jpg;motorbike\n",
        "id,filename,width,class,split\n1,b.jpg,500,cat,train\n2,a.jpg,333,motorbike,val\n",
        "labels,image\ncat,b.jpg\nmotorbike,a.jpg\n",
    ],
    ids=["semicolons", "without header", "tabs", "utf-16", "sep", "empty columns", "without header, too",
         "other header", "and other", "more columns", "swapped"],
)  # fmt: skip
def test_case_excel_labels(tmp_path: Path, text: str | bytes) -> None:
    assert read_labels(put(tmp_path, text), CLASSES) == {"b": (0,), "a": (2,)}


def test_case_excel_labels_one_without(tmp_path: Path) -> None:
    labels = read_labels(put(tmp_path, "image,labels\nb.jpg,cat\na.jpg,\nc.jpg, ; \n"), CLASSES)
    assert labels == {"b": (0,), "a": (), "c": ()}


@pytest.mark.parametrize("words", ["Bild,Kategorie", "Datei;Etikett"])
def test_case_excel_labels_a_header_in_words_of_its_own(tmp_path: Path, words: str) -> None:
    between = words[-len(words.split(",")[-1]) - 1] if "," in words else ";"
    path = put(tmp_path, f"{words}\nb.jpg{between}cat\na.jpg{between}dog\nz.jpg{between}dog\n")
    entries = read(path, Wanted({"a", "b"}))
    assert list(entries.by_image) == ["b", "a"]
    assert list(entries.others) == ["z"], "the header is no image that lacks its photo"
    assert read_labels(path, CLASSES, ["a", "b"]) == {"b": (0,), "a": (1,)}


def test_a_first_photo_that_is_not_there_is_no_header(tmp_path: Path) -> None:
    for text in ("x.jpg,motorbike\nb.jpg,cat\n", "x,cat\nb.jpg,cat\n"):
        assert list(read(put(tmp_path, text), Wanted({"b"})).others) == ["x"]


def test_quoted_cells_with_separators(tmp_path: Path) -> None:
    path = put(tmp_path, '"Smith, John.jpg";"cat;dog"\nb.jpg;dog\n')
    assert read_labels(path, CLASSES) == {"Smith, John": (0, 1), "b": (1,)}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a,Kat", r'line 3: found unknown class "Kat" \(did you mean "cat"\?\)'),
        ("a,cat|dog", r'line 3: found unknown class "cat|dog" \(join several labels by ;, as in cat;dog\)'),
        ("a,zebra", r'unknown class "zebra" \(expected one of: cat, dog, motorbike\)'),
        ("a,background", "leave it out: background needs no label"),
        ("a", r"line 3: expected 2 columns \(image,labels\), found 1"),
        ('a,"cat\ndog"', "line 4: found a line break between labels"),
        ("a,cat\na.jpg,dog", r'line 4: found "a" again with other labels than in .*labels\.csv, line 3'),
        ("a,cat\nx/a.jpg,dog\na,cat", r'line 4: found "a" again with other labels'),
    ],
)
def test_a_row_that_cannot_be_used_costs_its_own_image_alone(tmp_path: Path, row: str, words: str) -> None:
    labels = read_labels(put(tmp_path, f"image,labels\nb,dog\n{row}\nc,cat\n"), CLASSES)
    assert labels == {"b": (1,), "c": (0,)}
    assert list(labels.problems) == ["a"]
    with pytest.raises(LabelsError, match=rf"labels\.csv, {words}" if words.startswith("line") else words):
        labels.of("a")


def test_rows_of_three_columns_without_a_header_cost_themselves(tmp_path: Path) -> None:
    labels = read_labels(put(tmp_path, "b,dog\na,cat,dog\n"), CLASSES)
    assert labels == {"b": (1,)}
    assert "expected 2 columns (image,labels), found 3 (join several labels by ;" in labels.problems["a"]


def test_an_image_twice_with_the_same_labels_is_harmless(tmp_path: Path) -> None:
    assert read_labels(put(tmp_path, "a.jpg,cat;dog\na.jpg,dog;cat\n"), CLASSES) == {"a": (0, 1)}


def test_rows_without_an_image_are_told(tmp_path: Path) -> None:
    labels = read_labels(put(tmp_path, "a,cat\n,dog\n"), CLASSES)
    assert labels == {"a": (0,)}
    assert labels.strays == (f"{tmp_path}/labels.csv, line 2: found no image name",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,zebra\n", 'line 1: found unknown class "zebra"'),
        ("a,zebra\nb,zebra\n", "none of 2 entries can be used, the first: .*line 1: found unknown class"),
        (",cat\n", "found no labels .*line 1: found no image name"),
        ("a cat\nb dog\n", r"line 1: expected 2 columns \(image,labels\), found 1: a cat \(expected rows like"),
        ("a|cat\n", r"found 1: a\|cat"),
        ("", "found no labels"),
        ("image,labels\n", "found no labels below the header"),
        ("a,кот\n".encode("cp1251"), r"line 1: not UTF-8 text \(byte 2\) \(save it as UTF-8"),
        ("a,cat\n".encode("utf-16-le"), "line 1: found a NUL byte"),
        ('a,cat\nb,"dog\nc,cat\nd,cat\n', "line 2: a quotation mark is opened and never closed"),
        ('a,"' + "x" * 200_000 + '"\n', "field larger than field limit"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(LabelsError, match=rf"labels\.csv.*{words}|{words}.*labels\.csv") as caught:
        read_labels(put(tmp_path, text), CLASSES)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["Füße,cat\nöl,dog\n", "café «Zoë»,cat\ncœur,dog\n"])
def test_cp1252_is_read_and_told(tmp_path: Path, text: str) -> None:
    labels = read_labels(put(tmp_path, text.encode("cp1252")), CLASSES)
    assert list(labels) == [line.split(",")[0] for line in text.splitlines()]
    assert "labels.csv: not UTF-8 text, read as cp1252" in labels.strays[0]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("羊,cat", "gbk"),
        ("猫,cat", "shift_jis"),
        ("ψάρι,cat", "cp1253"),
        ("овца,cat", "koi8-r"),
        ("고양이,cat", "cp949"),
    ],
)
def test_no_other_encoding_is_taken_for_cp1252(tmp_path: Path, text: str, encoding: str) -> None:
    with pytest.raises(LabelsError, match=r"labels\.csv, line 1: not UTF-8 text"):
        read_labels(put(tmp_path, text.encode(encoding)), CLASSES)


def test_written_labels_are_read_back(tmp_path: Path) -> None:
    classes = ("cat", "dog, small", 'the "best"')
    labels = {"b": (0, 1, 2), "a.v2": (1,), "ä 1": (0,), "none": ()}
    write_labels(tmp_path / "new" / "labels.csv", labels, classes)
    assert read_labels(tmp_path / "new" / "labels.csv", classes) == labels
    assert (tmp_path / "new" / "labels.csv").read_bytes().startswith(b"image,labels\nb,")
