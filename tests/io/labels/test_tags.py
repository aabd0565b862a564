from __future__ import annotations

from pathlib import Path

import pytest

from pixaff.io.labels import format_of, read_labels
from pixaff.io.labels.tags import NAME

CLASSES = ("cat", "dog")


def put(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "image,label\na.jpg,cat\na.jpg,dog\nb.jpg,dog\na.jpg,cat\nc.jpg,\n",
        "filename,width,class,xmin\na.jpg,9,cat,1\na.jpg,9,dog,4\nb.jpg,9,dog,4\nc.jpg,9,,\n",
        "ImageID,Source,LabelName,Confidence\na,v,cat,1\na,v,dog,1\nb,v,dog,1\nb,v,cat,0\nc,v,cat,0\n",
    ],
    ids=["tags", "boxes", "open images"],
)
def test_all_rows_of_an_image_count(tmp_path: Path, text: str) -> None:
    path = put(tmp_path, text)
    assert format_of(path).NAME == NAME
    assert read_labels(path, CLASSES) == {"a": (0, 1), "b": (1,), "c": ()}


def test_a_short_row_costs_its_own_image(tmp_path: Path) -> None:
    labels = read_labels(put(tmp_path, "image,label\na,cat\na\nb,dog\n,dog\n"), CLASSES)
    assert labels == {"b": (1,)}
    assert "labels.csv, line 3: expected 2 columns, as in the header, found 1" in labels.problems["a"]
    assert labels.strays == (f"{tmp_path}/labels.csv, line 5: found no image name",)


def test_labels_joined_in_a_cell_are_a_row_an_image(tmp_path: Path) -> None:
    path = put(tmp_path, "image,label\na,cat;dog\na,cat\n")
    assert format_of(path).NAME != NAME
    assert (
        "again with other labels"
        in read_labels(put(tmp_path, "image,label\na,cat;dog\na,cat\nb,dog\n"), CLASSES).problems["a"]
    )
