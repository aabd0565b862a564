from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pixaff.errors import LabelsError
from pixaff.io.labels import names_in, read_labels
from pixaff.io.labels.cls_labels import detect

CLASSES = ("cat", "dog", "motorbike")


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def put(folder: Path, content: Any) -> Path:
    np.save(folder / "cls_labels.npy", content)
    return folder / "cls_labels.npy"


def test_case_cls_labels_npy(tmp_path: Path) -> None:
    path = put(tmp_path, {"b": vector(1, 1, 0), "a.jpg": vector(0, 0, 1), "none": vector(0, 0, 0)})
    assert detect(path)
    assert read_labels(path, CLASSES) == {"b": (0, 1), "a": (2,), "none": ()}
    labels = read_labels(path, CLASSES, ["a", "c"])
    assert (labels, set(labels.others)) == ({"a": (2,)}, {"b", "none"})


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float64, bool, list])
def test_vectors_of_other_numbers(tmp_path: Path, kind: Any) -> None:
    values = [1, 0, 1] if kind is list else np.array([1, 0, 1], kind)
    assert read_labels(put(tmp_path, {"b": values}), CLASSES) == {"b": (0, 2)}


def test_images_by_number(tmp_path: Path) -> None:
    content = {2007000032: vector(1, 0, 0), 139: vector(0, 1, 0), np.int32(632): vector(0, 0, 1)}
    path = put(tmp_path, content)
    assert read_labels(path, CLASSES) == {"2007_000032": (0,), "000000000139": (1,), "000000000632": (2,)}
    images = ["2007_000032", "COCO_train2014_000000000139"]
    assert read_labels(path, CLASSES, images) == {"2007_000032": (0,), "COCO_train2014_000000000139": (1,)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": vector(1, 0)}, r"found vectors of 2 numbers, expected 3, one per class \(give the class list"),
        ({}, "found an empty dict"),
        ([1, 2], r"found an array of int64 \(2,\), expected a dict"),
        (np.zeros(3), "found an array of float64"),
        (np.array(None), "found a NoneType, expected a dict"),
        ({"a": np.zeros((2, 2), np.float32)}, "a: found an array of more dimensions"),
        ({"a": "cat"}, "a: found a str"),
        ({"a": ["cat"]}, "a: found a list"),
        ({("a", "b"): vector(1, 0, 0)}, "has a tuple as a key; nothing in it was run"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(LabelsError, match=rf"cls_labels\.npy.*{words}"):
        read_labels(put(tmp_path, content), CLASSES)


def test_a_vector_that_cannot_be_used_costs_its_own_image_alone(tmp_path: Path) -> None:
    path = put(tmp_path, {"a": vector(1, 0, 0), "b": vector(1, 0), "c": vector(0.5, 0, 0)})
    labels = read_labels(path, CLASSES)
    assert labels == {"a": (0,)}
    assert "b: found a vector of 2 numbers, expected 3" in labels.problems["b"]
    assert "c: found 0.5, expected 0 or 1" in labels.problems["c"]


def test_nothing_in_it_is_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    path = put(tmp_path, {"a": Hostile()})
    with pytest.raises(LabelsError, match=r"asks for .*mkdir; nothing in it was run"):
        read_labels(path, CLASSES)
    assert not (tmp_path / "ran").exists()


def test_every_cut_is_a_clean_error(tmp_path: Path) -> None:
    whole = put(tmp_path, {"a": vector(1, 0, 0), "b": vector(1, 1, 0)}).read_bytes()
    cut = tmp_path / "cut.npy"
    for length in range(6, len(whole), 7):
        cut.write_bytes(whole[:length])
        with pytest.raises(LabelsError, match=r"cut\.npy"):
            read_labels(cut, CLASSES)


def test_ten_thousand_images_are_not_too_many(tmp_path: Path) -> None:
    content = {f"{number}": vector(1, 0, 0) for number in range(10_000)}
    assert len(pickle.dumps(content)) > 100_000
    assert len(read_labels(put(tmp_path, content), CLASSES)) == 10_000


def test_names_are_not_told(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"numbers its 3 classes and does not name them \(give --classes FILE\)"):
        names_in(put(tmp_path, {"a": vector(1, 0, 0)}))
