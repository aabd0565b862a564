"""The predictor as a step of a Ray Data pipeline; only the last test needs Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_bundle import BLUE, RED, draw, use_toy

import pixaff
from pixaff.errors import UsageError
from pixaff.ray import Predict
from pixaff.stages.propagate import propagate

EXAMPLE = Path(__file__).parents[1] / "examples" / "ray_parquet.py"


def column(*values: object) -> np.ndarray:
    made = np.empty(len(values), object)
    made[:] = values
    return made


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy(monkeypatch)


def test_rows_get_the_masks_that_the_command_writes(tmp_path: Path) -> None:
    photos = [tmp_path / "photos" / f"{name}.png" for name in ("a", "b")]
    draw(photos[0], (RED, 8, 8))
    draw(photos[1], (BLUE, 32, 60), (RED, 8, 8))
    propagate(tmp_path / "photos", tmp_path / "masks")
    data = [path.read_bytes() for path in photos]
    array = np.asarray(Image.open(photos[1]))
    rows = {"image": column(data[0], {"bytes": data[1], "path": None}, str(photos[0]), array), "id": np.arange(4)}
    made = Predict(batch=3)(rows)
    assert list(made) == ["image", "id", "mask", "classes", "error"]
    expected = [(tmp_path / "masks" / f"{name}.png").read_bytes() for name in ("a", "b", "a", "b")]
    assert made["mask"].tolist() == expected
    assert made["classes"].tolist() == [["red"], ["red", "blue"], ["red"], ["red", "blue"]]
    assert made["error"].tolist() == [None] * 4


def test_labels_come_from_a_column_and_a_damaged_image_costs_itself_alone(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", (BLUE, 32, 60), (RED, 8, 8))
    data = (tmp_path / "a.png").read_bytes()
    rows = {
        "photo": column(data, data, b"no photo", None, data, data),
        "tags": column(np.array(["blue"], object), [], ["red"], None, ["green"], np.array([0])),
    }
    made = Predict(image="photo", labels="tags", alpha=2)(rows)
    assert made["classes"].tolist() == [["blue"], [], [], [], [], ["red"]]
    assert made["tags"].tolist() == [["blue"], [], ["red"], None, ["green"], [0]]
    errors = made["error"].tolist()
    assert [error is None for error in errors] == [True, True, False, False, False, True]
    assert [mask is None for mask in made["mask"]] == [False, False, True, True, True, False]
    assert "no known image format" in errors[2]
    assert "expected bytes, a path or an array" in errors[3]
    assert "green" in errors[4]
    assert pixaff.ray.Predict is Predict
    with pytest.raises(UsageError, match=r"no column 'image' \(columns: photo, tags\)"):
        Predict()(rows)
    assert Predict()({"image": column()})["mask"].tolist() == []


@pytest.mark.slow
def test_the_example_reads_and_writes_parquet(tmp_path: Path) -> None:
    pytest.importorskip("ray.data", reason="needs pixaff[ray] and ray[data]")
    done = subprocess.run([sys.executable, EXAMPLE], cwd=tmp_path, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.partition(":")[0] in ("chelsea", "astronaut")]
    assert sorted(lines) == ["astronaut: person", "chelsea: cat"]
    assert list((tmp_path / "masks-parquet").glob("*.parquet"))
