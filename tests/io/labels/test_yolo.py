from __future__ import annotations

from pathlib import Path

import pytest

from pixaff.errors import LabelsError
from pixaff.io.labels import format_of, names_in, read_labels
from pixaff.io.labels.yolo import NAME

CLASSES = ("cat", "dog")
LIST = "path: ../elsewhere\ntrain: images/train\nnc: 2\nnames: [dog, cat]\n"
DICT = "names:\n  0: dog\n  1: cat\n"


def put(folder: Path, names: str = LIST, name: str = "data.yaml", **texts: str) -> Path:
    labels = folder / "labels" / "train"
    labels.mkdir(parents=True, exist_ok=True)
    if names:
        (folder / name).write_text(names)
    for stem, text in texts.items():
        (labels / f"{stem}.txt").write_text(text)
    return folder


@pytest.mark.parametrize("names", [LIST, DICT])
def test_boxes_and_polygons(tmp_path: Path, names: str) -> None:
    put(tmp_path, names, a="1 0.5 0.5 0.1 0.1\n0 0.1 0.1 0.2 0.2 0.3 0.1\n", b="", c="0 0.5 0.5 0.1 0.1 0.9\n\n")
    (tmp_path / "images").mkdir()
    assert format_of(tmp_path).NAME == NAME
    for place in (tmp_path, tmp_path / "data.yaml"):
        assert read_labels(place, CLASSES) == {"a": (0, 1), "b": (), "c": (1,)}
    assert names_in(tmp_path) == CLASSES


def test_other_trees_and_classes_txt(tmp_path: Path) -> None:
    for split, stem in (("train", "a"), ("valid", "b")):
        (tmp_path / split / "labels").mkdir(parents=True)
        (tmp_path / split / "images").mkdir()
        (tmp_path / split / "images" / f"{stem}.jpg").touch()
        (tmp_path / split / "labels" / f"{stem}.txt").write_text("1 0.5 0.5 0.1 0.1\n")
    (tmp_path / "data.yaml").write_text(LIST)
    assert read_labels(tmp_path, CLASSES) == {"a": (0,), "b": (0,)}
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert format_of(tmp_path).NAME == NAME
    assert read_labels(tmp_path, CLASSES) == {"a": (0,), "b": (0,)}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("7 0.5 0.5 0.1 0.1", r"found class 7, which has no name \(expected one of 0 dog, 1 cat\)"),
        ("0 0.5", 'found "0 0.5"'),
        ("cat 0.5 0.5 0.1 0.1", 'found "cat 0.5'),
        ("0 0.5 nan 0.1 0.1", 'found "0 0.5 nan'),
        ("0.5 0.5 0.5 0.1 0.1", 'found "0.5 0.5'),
    ],
)
def test_case_a_bad_line_costs_its_own_image(tmp_path: Path, line: str, words: str) -> None:
    labels = read_labels(put(tmp_path, a="1 0 0 1 1\n", b=f"1 0 0 1 1\n{line}\n"), CLASSES)
    assert labels == {"a": (0,)}
    with pytest.raises(LabelsError, match=rf"b.txt, line 2: {words}"):
        labels["b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("names: [", "no valid YAML"),
        ("nc: 2\n", "found no names"),
        ("names: []\n", "found no names"),
        ("names: [[1]]\n", r'found "\[1\]" as the name of class 0'),
        ("names: [no, cat]\n", "found yes or no as the name of class 0"),
        ("names: {a: cat}\n", 'found "cat" as the name of class a'),
        ("a: &x [1]\nnames: *x\n", r"no valid YAML \(found the alias"),
        ("names: " + "[" * 99_999, "no valid YAML .*(deep|level)"),
        ("names: !!python/object/apply:os.system ['true']\n", "no valid YAML"),
    ],
)
def test_case_bad_names_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(LabelsError, match=rf"data.yaml: {words}"):
        read_labels(put(tmp_path, text, a="0 0 0 1 1\n") / "data.yaml", CLASSES)


def test_without_labels_nothing_is_read(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(LIST)
    with pytest.raises(LabelsError, match=r"found no folder labels \(expected labels/NAME.txt beside data.yaml\)"):
        read_labels(tmp_path / "data.yaml", CLASSES)
