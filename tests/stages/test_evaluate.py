from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pixaff.errors import UsageError
from pixaff.io.cams import write_cams
from pixaff.io.labels import VOC_CLASSES
from pixaff.io.masks import write_mask
from pixaff.ops.metrics import ConfusionMatrix
from pixaff.stages.evaluate import evaluate

CLASSES = ("cat", "dog")


@pytest.fixture
def folders(tmp_path):
    """Three random predictions and ground truths of two classes, with void."""
    rng = np.random.default_rng(0)
    truth, masks = tmp_path / "gt", tmp_path / "masks"
    for stem in "abc":
        write_mask(truth / f"{stem}.png", rng.choice([0, 1, 2, 255], (7, 9)).astype(np.uint8))
        write_mask(masks / f"{stem}.png", rng.integers(0, 3, (7, 9), dtype=np.uint8))
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    return tmp_path


def read(path):
    return np.array(Image.open(path))


def slow_iou(pairs, count):
    """Per class, by sets of pixels."""
    scores = []
    for value in range(count):
        both = sum(((mask == value) & (truth == value)).sum() for mask, truth in pairs)
        either = sum((((mask == value) | (truth == value)) & (truth != 255)).sum() for mask, truth in pairs)
        scores.append(both / either)
    return scores


def test_masks_are_scored_over_all_images_without_void(folders):
    found = evaluate(folders / "masks", folders / "gt", classes=folders / "classes.txt", workers=2)
    pairs = [(read(folders / "masks" / f"{s}.png"), read(folders / "gt" / f"{s}.png")) for s in "abc"]
    expected = slow_iou(pairs, 3)
    assert found.images == 3
    assert found.listing == f"all of {folders / 'gt'}"
    assert list(found.best.iou) == ["background", *CLASSES]
    assert list(found.best.iou.values()) == pytest.approx(expected)
    assert found.best.miou == pytest.approx(np.mean(expected))


def test_a_list_restricts_and_names_the_score(folders):
    (folders / "val.txt").write_text("b\n")
    found = evaluate(folders / "masks", folders / "gt", listing=folders / "val.txt", classes=folders / "classes.txt")
    pair = (read(folders / "masks" / "b.png"), read(folders / "gt" / "b.png"))
    assert (found.images, found.listing) == (1, "val.txt")
    assert list(found.best.iou.values()) == pytest.approx(slow_iou([pair], 3))


def test_what_cannot_be_compared_is_named_and_the_rest_is_scored(folders):
    (folders / "masks" / "a.png").unlink()
    write_mask(folders / "masks" / "b.png", np.zeros((7, 8), np.uint8))
    events = []
    found = evaluate(folders / "masks", folders / "gt", classes=folders / "classes.txt", report=events.append)
    reasons = dict(found.failed)
    assert found.images == 1
    assert "no prediction" in reasons["a"]
    assert "1 of 3 images have no prediction" in next(event.text for event in events if event.kind == "warning")
    assert "8 x 7 pixels, expected the ground truth's 9 x 7" in reasons["b"]


def test_bad_ground_truth_is_refused_with_a_hint(folders):
    Image.new("RGB", (9, 7)).save(folders / "gt" / "a.png")
    write_mask(folders / "gt" / "b.png", np.full((7, 9), 3, np.uint8))
    found = evaluate(folders / "masks", folders / "gt", classes=folders / "classes.txt")
    reasons = dict(found.failed)
    assert "colour" in reasons["a"]
    assert "expected 0..2" in reasons["b"]
    assert "(" in reasons["a"]
    assert found.images == 1


def test_predictions_out_of_range_or_void_are_refused(folders):
    write_mask(folders / "masks" / "a.png", np.full((7, 9), 3, np.uint8))
    write_mask(folders / "masks" / "b.png", np.full((7, 9), 255, np.uint8))
    found = evaluate(folders / "masks", folders / "gt", classes=folders / "classes.txt")
    assert sorted(name for name, _ in found.failed) == ["a", "b"]


def test_classes_come_from_the_record_beside_the_masks_or_are_voc(folders):
    assert list(evaluate(folders / "masks", folders / "gt").best.iou)[1:] == list(VOC_CLASSES)
    (folders / "masks" / "run.json").write_text(json.dumps({"classes": ["fox", "hen", "owl"]}))
    iou = evaluate(folders / "masks", folders / "gt").best.iou
    assert list(iou) == ["background", "fox", "hen", "owl"]
    assert math.isnan(iou["owl"])


@pytest.fixture
def maps(folders):
    """Activation maps of half the size for each ground truth; the file of b lacks class 1."""
    rng = np.random.default_rng(1)
    for stem, classes in (("a", [1, 2]), ("b", [2]), ("c", [2, 1])):
        write_cams(folders / "cams" / f"{stem}.npz", classes, rng.random((len(classes), 7, 9)), (7, 9), dtype="float32")
    return folders


def cam_masks(folder, background):
    masks = []
    for stem in "abc":
        with np.load(folder / "cams" / f"{stem}.npz") as file:
            rows = np.zeros((3, 7, 9))
            rows[file["classes"]] = file["cams"]
        rows[0] = background(rows.max(0))
        masks.append((rows.argmax(0).astype(np.uint8), read(folder / "gt" / f"{stem}.png")))
    return masks


@pytest.mark.parametrize("given", [{"thresholds": [0.2, 0.6]}, {"alphas": [1, 4]}])
def test_maps_are_scored_under_each_background(maps, given):
    found = evaluate(maps / "cams", maps / "gt", cams=True, classes=maps / "classes.txt", **given)
    assert len(found.scores) == 2
    for score, value in zip(found.scores, next(iter(given.values())), strict=True):
        background = (lambda top, v=value: v) if "thresholds" in given else (lambda top, v=value: (1 - top) ** v)
        assert list(score.iou.values()) == pytest.approx(slow_iou(cam_masks(maps, background), 3))
        assert score.setting.endswith(f" {value:g}")
    assert found.best is max(found.scores, key=lambda score: score.miou)


def test_posteriors_need_no_threshold(maps):
    rng = np.random.default_rng(2)
    posteriors = {stem: rng.random((3, 7, 9)) for stem in "abc"}
    total = ConfusionMatrix(3)
    for stem, rows in posteriors.items():
        write_cams(maps / "low" / f"{stem}.npz", [0, 1, 2], rows, (7, 9), dtype="float32")
        total.update(rows.argmax(0), read(maps / "gt" / f"{stem}.png"))
    found = evaluate(maps / "low", maps / "gt", cams=True, classes=maps / "classes.txt")
    assert found.best.miou == pytest.approx(total.miou())
    without = evaluate(maps / "cams", maps / "gt", cams=True, classes=maps / "classes.txt")
    assert "--threshold" in dict(without.failed)["a"]


def test_maps_of_another_size_are_brought_to_the_ground_truths(folders):
    write_mask(folders / "gt" / "a.png", np.repeat([[1, 1, 0, 0]], 4, axis=0).astype(np.uint8))
    write_cams(folders / "cams" / "a.npz", [1], np.array([[[1.0, 0.0]]]), (4, 4))
    (folders / "one.txt").write_text("a")
    found = evaluate(
        folders / "cams",
        folders / "gt",
        cams=True,
        thresholds=[0.5],
        listing=folders / "one.txt",
        classes=folders / "classes.txt",
    )
    assert found.best.iou["cat"] == 1.0


def test_contradictions_are_usage_errors(folders):
    with pytest.raises(UsageError, match="--cams"):
        evaluate(folders / "masks", folders / "gt", thresholds=[0.2])
    with pytest.raises(UsageError, match="one of them"):
        evaluate(folders / "masks", folders / "gt", cams=True, thresholds=[0.2], alphas=[4])
    with pytest.raises(UsageError, match="no such folder"):
        evaluate(folders / "nowhere", folders / "gt")


def test_scoring_masks_does_not_import_torch(tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    for side in ("found", "truth"):
        write_mask(tmp_path / side / "a.png", mask)
    program = "import sys, pixaff; pixaff.evaluate(*sys.argv[1:]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "found"), str(tmp_path / "truth")], check=True)
