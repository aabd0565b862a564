from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from pixaff.errors import LabelsError
from pixaff.io.labels import format_of, read_entries, read_labels

CLASSES = ("cat", "cow", "dog")
COLUMNS = ["annotation_id", "annotator", "choice", "created_at", "id", "image", "label", "lead_time", "updated_at"]


def result(kind: str, *names: str) -> dict[str, Any]:
    return {"type": kind, "from_name": "x", "to_name": "image", "value": {"x": 1, kind: list(names)}}


def task(image: str, *annotations: Any, **more: Any) -> dict[str, Any]:
    made = [each if isinstance(each, dict) else {"result": each} for each in annotations]
    return {"id": 7, "data": {"image": image}, "annotations": made, "predictions": [{"result": [3]}], **more}


def put(folder: Path, value: Any, name: str = "project-1-at-2026.json") -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_choices_and_regions(tmp_path: Path) -> None:
    brush = {"type": "brushlabels", "value": {"format": "rle", "rle": [0, 1], "brushlabels": ["cow"]}}
    path = put(tmp_path, [
        task("/data/upload/1/abcd1234-a.jpg", [result("choices", "cat", "dog"), result("rectanglelabels", "cow")]),
        task("/data/upload/1/00ff1234-b b.jpg", [brush, brush]),
        task("/data/local-files/?d=photos/c%20c.jpg", [result("polygonlabels", "dog")], [result("labels", "cat")]),
        task("s3://bucket/deep/d.jpg", [{"type": "textarea", "value": {"text": ["cow"]}}]),
        task("https://host/e.jpg?x=1", {"result": [result("choices", "dog")]},
             {"result": [result("choices", "cat")], "ground_truth": True}),
        task("f.jpg", {"result": [], "was_cancelled": True}),
        task("g.jpg"),
    ])  # fmt: skip
    assert format_of(path).NAME == "Label Studio JSON"
    assert read_labels(path, CLASSES) == {"a": (0, 1, 2), "b b": (1,), "c c": (0, 2), "d": (), "e": (0,)}


def test_a_prefix_stays_where_the_photos_have_it(tmp_path: Path) -> None:
    path = put(tmp_path, [task("/data/upload/1/abcd1234-a.jpg", [result("choices", "cat")])])
    assert read_labels(path, CLASSES, ["abcd1234-a"]) == {"abcd1234-a": (0,)}
    assert read_labels(path, CLASSES, ["a"]) == {"a": (0,)}


def test_json_min(tmp_path: Path) -> None:
    path = put(tmp_path, [
        {"image": "a.jpg", "choice": "cat", "label": [{"x": 1, "rectanglelabels": ["cow"]}], "annotator": 1},
        {"image": "b.jpg", "choice": {"choices": ["cat", "dog"]}, "id": 3, "annotator": 1},
        {"image": "b.jpg", "choice": [{"choices": ["cow"]}], "id": 3, "annotator": 2},
        {"image": "c.jpg", "comment": "cat", "id": 4, "annotator": 1},
    ])  # fmt: skip
    assert read_labels(path, CLASSES) == {"a": (0, 1), "b": (0, 1, 2), "c": ()}


def rows(*cells: tuple[str, str, str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(COLUMNS)
    for number, (image, choice, label) in enumerate(cells):
        writer.writerow([number, "1", choice, "x", number, f"/data/upload/1/abcd1234-{image}.jpg", label, 1.0, "y"])
    return text.getvalue()


def test_csv(tmp_path: Path) -> None:
    boxes = json.dumps([{"x": 1, "rectanglelabels": ["cow"]}, {"x": 2, "rectanglelabels": ["cow"]}])
    text = rows(("a", '{"choices": ["cat", "dog"]}', boxes), ("b", "cat", ""), ("c", "", ""), ("d", "cat", "[{"),
                ("e", "dog", ""), ("e", "cow", ""), ("f", "", '[{"rectanglelabels": 3}]'))  # fmt: skip
    path = put(tmp_path, text + "8,1,cat\n", "export.csv")
    assert format_of(path).NAME == "Label Studio CSV"
    labels = read_labels(path, CLASSES)
    assert labels == {"a": (0, 1, 2), "b": (0,), "c": (), "e": (1, 2)}
    assert 'export.csv, line 5: found "[{", expected JSON' in labels.problems["d"]
    assert 'line 8: found "rectanglelabels" that are no list of names' in labels.problems["f"]
    assert "line 9: found no name of an image" in labels.strays[0]


def test_bad_tasks_cost_themselves(tmp_path: Path) -> None:
    path = put(tmp_path, [
        {"id": 1, "data": {"text": "no image"}, "annotations": [{"result": []}]},
        3,
        {"id": 2, "data": {"image": "a.jpg"}},
        task("b.jpg", {"result": None}),
        task("c.jpg", [{"value": {"choices": [3]}}]),
        task("data:image/png;base64,AAAA", []),
        task("d.jpg", [result("choices", "cat")]),
    ])  # fmt: skip
    entries = read_entries(path)
    assert entries.by_image["d"].labels == ("cat",)
    assert "task 2: found no list of annotations" in entries.by_image["a"].problem
    assert "task 7: found an annotation without a list of results" in entries.by_image["b"].problem
    assert 'found "choices" that are no list of names' in entries.by_image["c"].problem
    assert len(entries.strays) == 3
    assert "task 1: found no name of an image" in entries.strays[0]
    assert "[1]: found no object" in entries.strays[1]


@pytest.mark.parametrize(("text", "words"), [("[]", "found no tasks"), ("[{", "no valid JSON")])
def test_case_other_json_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(LabelsError, match=rf"x.json: {words}"):
        read_labels(put(tmp_path, text, "x.json"), CLASSES)
