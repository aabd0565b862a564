from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pixaff.errors import LabelsError
from pixaff.io.labels import format_of, read_labels
from pixaff.io.labels.coco import NAME

CLASSES = ("cat", "dog")


def content(**changes: Any) -> dict[str, Any]:
    return {
        "info": {"description": "x"},
        "images": [{"id": 7, "file_name": "val/a.jpg"}, {"id": 8, "file_name": "b.jpg"},
                   {"id": 9, "file_name": "c.jpg"}],
        "annotations": [{"image_id": 7, "category_id": 3}, {"image_id": 7, "category_id": 1},
                        {"image_id": 8, "category_id": 1}, {"image_id": 8, "category_id": 1}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 3, "name": "cat"}],
        **changes,
    }  # fmt: skip


def put(folder: Path, value: Any) -> Path:
    path = folder / "instances.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_categories_of_annotations(tmp_path: Path) -> None:
    path = put(tmp_path, content())
    assert format_of(path).NAME == NAME
    assert read_labels(path, CLASSES) == {"a": (0, 1), "b": (1,), "c": ()}
    segments = [{"image_id": 7, "segments_info": [{"category_id": 1}, {"category_id": 3}]}]
    assert read_labels(put(tmp_path, content(annotations=segments)), CLASSES)["a"] == (0, 1)


def test_an_unknown_category_costs_its_own_image(tmp_path: Path) -> None:
    annotations = [{"image_id": 7, "category_id": 99}, {"image_id": 8, "category_id": 1}]
    labels = read_labels(put(tmp_path, content(annotations=annotations)), CLASSES)
    assert labels == {"b": (1,), "c": ()}
    assert "instances.json, annotations[0]: found category 99, which is not in categories" in labels.problems["a"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('{"images": [', "no valid JSON"),
        ("{}", 'found no list "images"'),
        (content(categories=[{"id": 1}]), r"categories\[0\]: found no name"),
        (content(annotations=[3]), r"annotations\[0\]: found no object"),
        (content(annotations=[{"image_id": 7, "category_id": [1]}]), r'annotations\[0\]: found no "category_id"'),
        (content(annotations=[{"category_id": 1}]), r'annotations\[0\]: found no "image_id"'),
        ('{"images":' + "[" * 100_000, "no valid JSON .*without end"),
        ('{"images":' + "[" * 99 + "]" * 99 + "}", "no valid JSON .*deep"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, value: Any, words: str) -> None:
    with pytest.raises(LabelsError, match=rf"instances\.json.*{words}"):
        read_labels(put(tmp_path, value), CLASSES)
