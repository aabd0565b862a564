from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from pixaff.errors import LabelsError, PixaffError
from pixaff.io.labels import format_of, names_in, read_labels
from pixaff.io.labels.parquet import NAME

pyarrow = pytest.importorskip("pyarrow")
CLASSES = ("cat", "dog")
IMAGES = [{"bytes": b"jpeg", "path": f"{name}.jpg"} for name in "abc"]
FEATURE = {"feature": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "_type": "List"}


def put(path: Path, columns: dict[str, list[Any]], features: dict[str, Any] | None = None) -> Path:
    from pyarrow import parquet

    table = pyarrow.Table.from_pydict(columns)
    if features is not None:
        info = {"info": {"features": features}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(table, path)
    return path


def test_images_with_paths(tmp_path: Path) -> None:
    path = put(tmp_path / "x.parquet", {"image": IMAGES, "labels": [[0, 1], [], [1]]}, {"labels": FEATURE})
    assert format_of(path).NAME == NAME
    assert names_in(path) == CLASSES
    assert read_labels(path, ("dog", "cat")) == {"a": (0, 1), "b": (), "c": (0,)}


def test_paths_as_text_and_names_as_labels(tmp_path: Path) -> None:
    put(tmp_path / "data" / "train-0.parquet", {"file_name": ["s/a.jpg", "b.jpg"], "label": ["cat", None]})
    put(tmp_path / "data" / "train-1.parquet", {"file_name": ["c.jpg"], "label": ["dog"]})
    assert format_of(tmp_path).NAME == NAME
    assert read_labels(tmp_path, CLASSES) == {"a": (0,), "b": (), "c": (1,)}


def test_objects_and_numbers_without_names(tmp_path: Path) -> None:
    objects = [{"bbox": [[0.0]], "category": [1]}, {"bbox": [], "category": []}, {"bbox": [], "category": [5]}]
    labels = read_labels(put(tmp_path / "x.parquet", {"image": IMAGES, "objects": objects}), CLASSES)
    assert labels == {"a": (1,), "b": ()}
    assert "x.parquet, row 3: found class number 5, expected 0..1" in labels.problems["c"]


def test_a_bad_row_costs_itself(tmp_path: Path) -> None:
    images = [*IMAGES[:2], {"bytes": b"", "path": None}]
    path = put(tmp_path / "x.parquet", {"image": images, "label": [0, 9, 1]}, {"label": FEATURE["feature"]})
    labels = read_labels(path, CLASSES)
    assert labels == {"a": (0,)}
    assert "row 2: found the class number 9, expected 0..1" in labels.problems["b"]
    assert labels.strays == (f"{path}, row 3: found no path of an image",)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": [{"bytes": b"x", "path": None}], "label": [0]}, "found images without paths"),
        ({"image": [{"bytes": b"x"}], "label": [0]}, "found no paths of images in"),
        ({"image": [b"x"], "label": [0]}, "found no paths of images in"),
        ({"image": [{"bytes": b"x", "path": "a.jpg"}], "text": ["x"]}, "found no column label or labels"),
    ],
)
def test_case_sets_that_lead_to_no_photo_are_refused(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    with pytest.raises(LabelsError, match=rf"x.parquet: {words}"):
        read_labels(put(tmp_path / "x.parquet", columns), CLASSES)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = put(tmp_path / "x.parquet", {"image": IMAGES, "label": [0, 1, 0]})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LabelsError, match=r"x.parquet: damaged Parquet: "):
        read_labels(path, CLASSES)


def test_the_extra_is_named_where_pyarrow_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "x.parquet", {"image": IMAGES, "label": [0, 1, 0]})
    whole = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return whole(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PixaffError, match=r"pyarrow, which is not installed \(pip install 'pixaff\[parquet\]'\)"):
        read_labels(path, CLASSES)
