from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pixaff.errors import LabelsError
from pixaff.io.labels import format_of, names_in, read_entries, read_labels
from pixaff.io.labels.metadata import NAME

CLASSES = ("cat", "dog")
CARD = """---
license: mit
dataset_info:
  features:
  - name: image
    dtype: image
  - name: labels
    list:
      class_label:
        names:
          '0': cat
          '1': dog
---
# A set
"""


def put(folder: Path, *rows: Any, name: str = "metadata.jsonl") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def test_lines_of_json(tmp_path: Path) -> None:
    path = put(
        tmp_path,
        {"file_name": "a.jpg", "labels": ["dog", "cat"], "text": "two"},
        {"file_name": "b.jpg", "labels": []},
        {"file_name": "c.jpg", "labels": None},
        {"file_name": "sub/d.png", "labels": "dog"},
    )
    assert format_of(path).NAME == format_of(tmp_path).NAME == NAME
    for place in (path, tmp_path):
        assert read_labels(place, CLASSES) == {"a": (0, 1), "b": (), "c": (), "d": (1,)}


def test_objects_of_a_detection_set(tmp_path: Path) -> None:
    path = put(tmp_path, {"file_name": "a.jpg", "objects": {"bbox": [[0, 0, 1, 1]], "categories": ["cat"]}})
    assert read_labels(path, CLASSES) == {"a": (0,)}


def test_numbers_get_the_names_of_the_card(tmp_path: Path) -> None:
    path = put(tmp_path, {"file_name": "a.jpg", "labels": [1, 0]}, {"file_name": "b.jpg", "labels": [1]},
               {"file_name": "c.jpg", "labels": -1}, {"file_name": "d.jpg", "labels": [7]})  # fmt: skip
    (tmp_path / "README.md").write_text(CARD)
    assert names_in(path) == CLASSES
    labels = read_labels(path, ("dog", "cat"))
    assert labels == {"a": (0, 1), "b": (0,)}
    assert "metadata.jsonl, line 4: found the class number 7, expected 0..1" in labels.problems["d"]
    (tmp_path / "README.md").unlink()
    info = {"default": {"features": {"labels": {"feature": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}}
    (tmp_path / "dataset_infos.json").write_text(json.dumps(info))
    assert read_labels(path, ("dog", "cat"))["b"] == (0,)


def test_numbers_without_names_follow_the_class_list(tmp_path: Path) -> None:
    path = put(tmp_path, {"file_name": "a.jpg", "label": 1}, {"file_name": "b.jpg", "label": 2})
    labels = read_labels(path, CLASSES)
    assert labels == {"a": (1,)}
    assert labels.problems["b"].endswith("metadata.jsonl, line 2: found class number 2, expected 0..1")
    with pytest.raises(LabelsError, match="numbers its classes and does not name them"):
        names_in(path)


def test_cells_of_a_csv(tmp_path: Path) -> None:
    lines = ['a.jpg,"[""cat"", ""dog""]",x', "b.jpg,\"['dog']\",x", "c.jpg,cat;dog,x", "d.jpg,,x", "e.jpg,[],x",
             "f.jpg,[cat,x"]  # fmt: skip
    path = put(tmp_path, "file_name,label,text", *lines, name="metadata.csv")
    assert format_of(path).NAME == NAME
    labels = read_labels(tmp_path, CLASSES)
    assert labels == {"a": (0, 1), "b": (1,), "c": (0, 1), "d": (), "e": ()}
    assert 'metadata.csv, line 7: found "[cat", expected a list' in labels.problems["f"]


def test_numbers_in_a_csv(tmp_path: Path) -> None:
    path = put(tmp_path, "file_name,labels", "a.jpg,1", 'b.jpg,"[0, 1]"', name="metadata.csv")
    assert read_labels(path, ("x", "y")) == {"a": (1,), "b": (0, 1)}
    (tmp_path / "README.md").write_text(CARD)
    assert read_labels(path, ("dog", "cat")) == {"a": (0,), "b": (0, 1)}


def test_a_file_in_each_split_and_columns_of_0_and_1(tmp_path: Path) -> None:
    put(tmp_path / "train", {"file_name": "a.jpg", "label": "cat"})
    put(tmp_path / "data" / "test", "file_name,cat,dog", "b.jpg,1,1", name="metadata.csv")
    (tmp_path / "train" / "a.jpg").touch()  # without its file, this would be a folder per class
    assert format_of(tmp_path).NAME == NAME
    assert read_labels(tmp_path, CLASSES) == {"a": (0,), "b": (0, 1)}


def test_damaged_lines_cost_themselves(tmp_path: Path) -> None:
    path = put(tmp_path, "{", {"file_name": "a.jpg", "label": "cat"}, [1], {"label": "cat"},
               {"file_name": "b.jpg", "label": 0.5}, {"file_name": "c.jpg"})  # fmt: skip
    entries = read_entries(path)
    assert entries.by_image["a"].labels == ("cat",)
    assert [stray.split(", ", 1)[1].split(" (")[0] for stray in entries.strays] == [
        "line 1: no valid JSON", "line 3: found no object", "line 4: found no file_name",
    ]  # fmt: skip
    assert 'line 5: found "0.5", expected a name or number' in entries.by_image["b"].problem
    assert "line 6: found no label" in entries.by_image["c"].problem


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"file_name": "a.jpg", "text": "x"}], "found no column label or labels, only file_name, text"),
        ([{"label": "x"}], "found no column file_name, only label"),
        (["[1"], "found no column file_name"),
    ],
)
def test_case_files_without_the_columns_are_refused(tmp_path: Path, rows: list[Any], words: str) -> None:
    with pytest.raises(LabelsError, match=rf"metadata.jsonl: {words}"):
        read_entries(put(tmp_path, *rows))


@pytest.mark.parametrize("text", ["a: [", "a: &x [1]\nb: *x", "[" * 100_000, "a: !!python/x 1"])
def test_case_a_damaged_or_hostile_card_is_named(tmp_path: Path, text: str) -> None:
    path = put(tmp_path, {"file_name": "a.jpg", "label": 1})
    (tmp_path / "README.md").write_text(f"---\n{text}\n---\n")
    with pytest.raises(LabelsError, match=r"README.md: cannot be read: "):
        read_entries(path)
