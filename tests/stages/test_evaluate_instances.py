"""Average precision of instances: against COCO JSON and Pascal VOC's two folders, and what an export takes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toy_bundle import BLUE, RED, draw, use_toy
from typer.testing import CliRunner

from pixaff.cli.app import app
from pixaff.errors import FormatError, UsageError
from pixaff.io.instances import read_instances, write_instances, write_whole
from pixaff.io.masks import write_mask
from pixaff.stages.batch.instance_evaluation import evaluate_instances
from pixaff.stages.export import export
from pixaff.stages.propagate import propagate

pytest.importorskip("pycocotools")
NAMES = ("red", "blue")


def squares(*corners: tuple[int, int], side: int = 10) -> np.ndarray:
    """Numbers 1, 2, ... of squares on 40 x 60 pixels."""
    numbers = np.zeros((40, 60), np.uint8)
    for number, (y, x) in enumerate(corners, 1):
        numbers[y : y + side, x : x + side] = number
    return numbers


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Two photos: a red and a blue square, and two red ones, as in Pascal VOC; and classes.txt."""
    for stem, numbers, values in (("a", squares((2, 2), (20, 30)), (1, 2)), ("b", squares((5, 5), (5, 40)), (1, 1))):
        write_mask(tmp_path / "objects" / f"{stem}.png", numbers)
        write_mask(tmp_path / "classes" / f"{stem}.png", np.array([0, *values], np.uint8)[numbers])
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    return tmp_path


def score(truth: Path, **options: object) -> tuple[float, float, float]:
    found = evaluate_instances(
        truth / "out", truth / "classes", objects=truth / "objects", classes=truth / "classes.txt", **options
    )
    return tuple(round(value, 4) for value in found.mean)


def test_irn_instances_like_the_objects_score_one(truth: Path) -> None:
    folder = truth / "out" / "instances"
    write_instances(folder, "a.jpg", squares((2, 2), (20, 30)), [1, 2], [0.9, 0.8])
    write_instances(folder, "b.jpg", squares((5, 40), (5, 5)), [1, 1], [0.3, 0.7])
    assert score(truth) == (1, 1, 1)


def test_irn_precision_follows_overlap_score_and_class(truth: Path) -> None:
    folder = truth / "out" / "instances"
    # Blue, 10 x 10, moved by 2: IoU 80 / 120, good for 0.5, 0.55, 0.6 and 0.65. Of three red ones two are found.
    write_instances(folder, "a.jpg", squares((2, 2), (22, 30)), [1, 2], [0.9, 0.8])
    write_instances(folder, "b.jpg", squares((5, 5), (25, 40)), [1, 2], [0.7, 0.2])
    found = evaluate_instances(
        truth / "out", truth / "classes", objects=truth / "objects", classes=truth / "classes.txt"
    )
    assert found.classes["blue"].ap50 == pytest.approx(1)
    assert found.classes["blue"].ap70 == 0
    assert found.classes["blue"].ap == pytest.approx(0.4)
    assert found.classes["red"].ap50 == pytest.approx(67 / 101)  # recalls 0, 0.01, ..., 0.66
    assert found.mean.ap50 == pytest.approx((1 + 67 / 101) / 2)
    assert found.images == 2
    # A wrong detection that is surer than all others.
    write_instances(folder, "b.jpg", squares((5, 5), (25, 40)), [1, 1], [0.7, 0.99])
    assert score(truth)[1] < found.mean.ap50


def test_irn_ground_truth_may_be_coco(truth: Path) -> None:
    folder = truth / "gt" / "instances"
    write_instances(folder, "a.jpg", squares((2, 2), (20, 30)), [1, 2], [1, 1])
    write_whole(truth / "gt", ["a"], NAMES)
    whole = json.loads((truth / "gt" / "instances.json").read_text())
    for category in whole["categories"]:  # the numbers of classes are its own
        category["id"] += 40
    for each in whole["annotations"]:
        each["category_id"] += 40
    (truth / "gt.json").write_text(json.dumps(whole))
    write_instances(truth / "out" / "instances", "a.jpg", squares((2, 2), (20, 30)), [1, 2], [0.5, 0.1])
    found = evaluate_instances(truth / "out", truth / "gt.json", classes=truth / "classes.txt")
    assert found.mean.ap == pytest.approx(1)
    options = ["--instances", "--classes", str(truth / "classes.txt")]
    shown = CliRunner().invoke(app, ["evaluate", str(truth / "out"), str(truth / "gt.json"), *options, "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["ap50"] == 1
    shown = CliRunner().invoke(app, ["evaluate", str(truth / "out"), str(truth / "gt.json"), *options])
    assert "AP50" in shown.stdout
    assert "100.00" in shown.stdout


def test_photos_without_irn_instances_are_named_and_left_out(truth: Path) -> None:
    folder = truth / "out" / "instances"
    write_instances(folder, "a.jpg", squares((2, 2), (20, 30)), [1, 2], [0.9, 0.8])
    found = evaluate_instances(
        truth / "out", truth / "classes", objects=truth / "objects", classes=truth / "classes.txt"
    )
    assert (found.images, [stem for stem, _ in found.failed]) == (1, ["b"])
    assert found.mean.ap == pytest.approx(1)
    write_instances(folder, "a.jpg", np.zeros((40, 60), np.uint8), [], [])
    assert score(truth) == (0, 0, 0)
    (truth / "list.txt").write_text("c\n")
    with pytest.raises(UsageError, match="has instances in"):
        score(truth, listing=truth / "list.txt")
    with pytest.raises(UsageError, match="found a folder of ground truth for instances"):
        evaluate_instances(truth / "out", truth / "classes")
    (truth / "gt.json").write_text('{"images": []}')
    with pytest.raises(FormatError, match="annotations"):
        evaluate_instances(truth / "out", truth / "gt.json")


def test_irn_instances_in_subfolders_are_compared_by_path(truth: Path) -> None:
    """Two photos of one name, in different folders, as `propagate --recursive` leaves them."""
    for folder, stem, numbers in (("one", "a", squares((2, 2), (20, 30))), ("two", "b", squares((5, 5), (5, 40)))):
        for kind in ("objects", "classes"):
            (truth / "nested" / kind / folder).mkdir(parents=True)
            (truth / kind / f"{stem}.png").rename(truth / "nested" / kind / folder / "p.png")
        values = [1, 2] if stem == "a" else [1, 1]
        write_instances(truth / "out" / "instances" / folder, "p.jpg", numbers, values, [0.9, 0.8])
    nested, names = truth / "nested", truth / "classes.txt"
    options = {"objects": nested / "objects", "classes": names, "recursive": True}
    found = evaluate_instances(truth / "out", nested / "classes", **options)
    assert (found.images, found.failed, found.mean.ap) == (2, (), pytest.approx(1))
    (truth / "list.txt").write_text("two/p\n")
    assert evaluate_instances(truth / "out", nested / "classes", listing=truth / "list.txt", **options).images == 1
    write_whole(truth / "out", ["one/p", "two/p"], NAMES)
    arguments = ["evaluate", str(truth / "out"), str(truth / "out" / "instances.json"), "--instances", "--recursive"]
    shown = CliRunner().invoke(app, [*arguments, "--classes", str(names), "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["ap"] == 1


def test_irn_instances_are_exported_to_coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy(monkeypatch)
    draw(tmp_path / "photos" / "p.png", (RED, 4, 4), (BLUE, 32, 36), (RED, 8, 68))
    propagate(tmp_path / "photos", tmp_path / "masks", instances=True, walk="irn", background=0.25)
    found = read_instances(tmp_path / "masks" / "instances", "p")
    export(tmp_path / "masks", tmp_path / "coco", to="coco")
    annotations = json.loads((tmp_path / "coco" / "annotations.json").read_text())["annotations"]
    assert [each["category_id"] for each in annotations] == found.values.tolist()
    assert [each["score"] for each in annotations] == pytest.approx(found.scores.tolist())
    assert [each["area"] for each in annotations] == np.bincount(found.map.ravel())[1:].tolist()
