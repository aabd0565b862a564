from __future__ import annotations

from pathlib import Path

import pytest

from pixaff.errors import LabelsError
from pixaff.io.labels import format_of, read_labels
from pixaff.io.labels.one_hot import NAME

CLASSES = ("cat", "dog")


def put(folder: Path, text: str) -> Path:
    path = folder / "train.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "filename, cat, dog\na.jpg, 1, 0\nb.jpg, 1, 1\nc.jpg, 0, 0\n",
        "image_id;cat;dog\na;1;0\nb;1;1\nc;0;0\n",
        "dog,Foto,width,cat\n0.0,a.jpg,500,1.0\n1.0,b.jpg,333,1.0\n0.0,c.jpg,20,0.0\n".replace("Foto", "image"),
        "Foto,cat,dog\na.jpg,True,False\nb.jpg,TRUE,TRUE\nc.jpg,,\n",
    ],
    ids=["roboflow", "kaggle", "other columns", "words"],
)
def test_columns(tmp_path: Path, text: str) -> None:
    path = put(tmp_path, text)
    assert format_of(path).NAME == NAME
    assert read_labels(path, CLASSES) == {"a": (0,), "b": (0, 1), "c": ()}


def test_an_odd_cell_costs_its_own_image(tmp_path: Path) -> None:
    rows = "".join(f"p{i}.jpg,1,0\n" for i in range(20))
    labels = read_labels(put(tmp_path, f"image,cat,dog\n{rows}a.jpg,1,2\nb.jpg,1\n"), CLASSES)
    assert len(labels) == 20
    assert 'train.csv, line 22: found "2" for "dog", expected 0 or 1' in labels.problems["a"]
    assert "line 23: expected 3 columns, as in the header, found 2" in labels.problems["b"]


def test_a_column_twice(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r'train\.csv, line 1: found the column "cat" twice'):
        read_labels(put(tmp_path, "image,cat,cat\na,1,0\n"), CLASSES)


def test_other_tables_are_none(tmp_path: Path) -> None:
    for text in ("image,labels\na,1\nb,0\n", "a.jpg,1\nb.jpg,0\n", "a.jpg,cat\nb.jpg,dog\n", "image,cat\n"):
        assert format_of(put(tmp_path, text)).NAME != NAME
