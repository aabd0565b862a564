from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from foreign_cams import save
from PIL import Image
from typer.testing import CliRunner

from pixaff.cli.app import app
from pixaff.errors import FormatError, UsageError
from pixaff.io.cams import write_cams
from pixaff.io.labels import VOC_CLASSES
from pixaff.io.masks import voc_palette, write_mask
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
    (folders / "masks" / "run.json").write_text(json.dumps({"settings": {}, "classes": ["fox", "hen", "owl"]}))
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


def scored(folders, truth="gt", masks="masks", **options):
    events = []
    found = evaluate(
        folders / masks, folders / truth, classes=folders / "classes.txt", report=events.append, workers=1, **options
    )
    return found, [event.text for event in events if event.kind == "warning"]


def test_case_binary_ground_truth_255(folders):
    """Black and white drawings: all of the object would be void, and background alone a score of 100."""
    for stem in "abc":
        object_ = np.zeros((7, 9), np.uint8)
        object_[2:5, 3:6] = 255 if stem != "c" else 0
        Image.fromarray(object_).save(folders / "gt" / f"{stem}.png")
        write_mask(folders / "masks" / f"{stem}.png", np.zeros((7, 9), np.uint8))
    with pytest.raises(FormatError, match=r"gt: found 0 and 255 alone in all masks, .*replace 255 by 1 .*--void 255"):
        scored(folders)
    done = CliRunner().invoke(app, ["evaluate", str(folders / "masks"), str(folders / "gt")])
    assert (done.exit_code, done.stdout) == (1, "")
    # Who says so gets it.
    assert scored(folders, void=255)[0].best.miou == 1
    # True classes in another image settle what 255 is.
    write_mask(folders / "gt" / "c.png", np.ones((7, 9), np.uint8))
    found, warnings = scored(folders)
    assert (found.best.iou["cat"], warnings) == (0, [])


def test_ground_truth_of_background_alone_is_said(folders):
    for stem in "abc":
        write_mask(folders / "gt" / f"{stem}.png", np.zeros((7, 9), np.uint8))
    found, warnings = scored(folders)
    assert found.images == 3
    assert warnings == [f"evaluate: the ground truth in {folders / 'gt'} shows background only"]


@pytest.mark.parametrize("void", [254, 0])
def test_void_of_another_value(folders, void):
    expected, _ = scored(folders)
    for stem in "abc":
        truth = read(folders / "gt" / f"{stem}.png")
        other = np.where(truth == 255, void, np.where((truth == 0) & (void == 0), 255, truth)).astype(np.uint8)
        write_mask(folders / "other" / f"{stem}.png", other)
    if void == 0:  # then 255 is nothing
        reasons = dict(scored(folders, "other", void=0)[0].failed)
        assert "found the value 255, expected 0 for void" in reasons["a"]
        return
    assert scored(folders, "other", void=254)[0].best.iou == expected.best.iou
    assert "found class numbers 254" in dict(scored(folders, "other")[0].failed)["a"]
    done = CliRunner().invoke(
        app,
        ["evaluate", f"{folders}/masks", f"{folders}/other", "--classes", f"{folders}/classes.txt", "--void", "254"],
    )
    assert f"mIoU {100 * expected.best.miou:.2f} on 3 images" in done.stdout
    with pytest.raises(UsageError, match="--void: found 256"):
        scored(folders, void=256)


def test_case_palette_in_another_order(folders):
    """VOC's colours at other numbers, as an editor stores them: the score of the masks as they were."""
    rng = np.random.default_rng(3)
    for stem in "abc":
        values = rng.choice([0, 13, 15, 255], (7, 9)).astype(np.uint8)
        write_mask(folders / "voc" / f"{stem}.png", values)
        write_mask(folders / "found" / f"{stem}.png", np.where(values == 255, 13, values).astype(np.uint8))
        order = rng.permutation([0, 13, 15, 255])
        numbers = np.zeros(256, np.uint8)
        numbers[order] = range(4)
        picture = Image.fromarray(numbers[values])
        picture.putpalette(voc_palette()[order].tobytes())
        (folders / "resaved").mkdir(exist_ok=True)
        picture.save(folders / "resaved" / f"{stem}.png")
        (folders / "coloured").mkdir(exist_ok=True)
        picture.convert("RGB").save(folders / "coloured" / f"{stem}.png")
    for truth in ("voc", "resaved", "coloured"):
        found = evaluate(folders / "found", folders / truth)
        assert (found.best.miou, found.failed) == (1.0, ())


def test_the_colours_of_a_class_list_are_followed(folders):
    (folders / "labelmap.txt").write_text("# label:color_rgb:parts:actions\ncat:255,0,0::\ndog:0,0,255::\n")
    values = np.array([[0, 1, 2, 1]], np.uint8)
    table = np.zeros((256, 3), np.uint8)
    table[1], table[2] = (255, 0, 0), (0, 0, 255)
    for name in ("coloured", "masks"):
        (folders / name).mkdir(exist_ok=True)
        (folders / "one.txt").write_text("one")
    Image.fromarray(table[values]).save(folders / "coloured" / "one.png")
    write_mask(folders / "masks" / "one.png", values)
    found = evaluate(folders / "masks", folders / "coloured", classes=folders / "labelmap.txt")
    assert (found.failed, found.best.iou) == ((), {"background": 1.0, "cat": 1.0, "dog": 1.0})


def test_case_sideways_maps_evaluate(folders):
    """A program ignored that the photo lies on its side: its CAMs are named, as by the other commands."""
    truth = np.zeros((40, 30), np.uint8)
    truth[10:30, 5:20] = 1
    for stem in "ab":
        write_mask(folders / "tall" / f"{stem}.png", truth)
    upright = (truth == 1).astype(np.float32)[None]
    for stem, maps in (("a", upright), ("b", np.ascontiguousarray(np.rot90(upright[0]))[None])):
        write_cams(folders / "cams" / f"{stem}.npz", [1], maps, maps.shape[1:])
    found, _ = scored(folders, "tall", "cams", cams=True, thresholds=[0.3])
    assert (found.images, found.best.iou["cat"]) == (1, 1.0)
    assert "of 30 x 40 pixels, expected 40 x 30: they lie on their side" in dict(found.failed)["b"]
    # Of another size, square or not, they are stretched: some programs work at one size.
    write_cams(folders / "cams" / "b.npz", [1], np.ones((1, 32, 32)), (32, 32))
    assert scored(folders, "tall", "cams", cams=True, thresholds=[0.3])[0].images == 2


def test_case_uppercase_mask_suffix(folders):
    expected, _ = scored(folders)
    for folder in ("gt", "masks"):
        (folders / folder / "b.png").rename(folders / folder / "b.PNG")
    found, warnings = scored(folders)
    assert (found.images, found.best.iou, warnings) == (3, expected.best.iou, [])
    for folder in ("gt", "masks"):
        for stem in "ac":
            (folders / folder / f"{stem}.png").rename(folders / folder / f"{stem}.PNG")
    assert scored(folders)[0].best.iou == expected.best.iou
    (folders / "cams").mkdir()
    for stem in "abc":
        write_cams(folders / "cams" / f"{stem}.NPZ", [1], np.zeros((1, 7, 9)), (7, 9))
    assert scored(folders, masks="cams", cams=True, thresholds=[0.3])[0].images == 3


def test_names_in_decomposed_and_composed_form_are_one(folders):
    write_mask(folders / "accents" / "caf\u00e9.png", np.ones((7, 9), np.uint8))
    write_mask(folders / "found" / "cafe\u0301.png", np.ones((7, 9), np.uint8))
    (folders / "list.txt").write_text("cafe\u0301\n", encoding="utf-8")
    for listing in (None, folders / "list.txt"):
        found, _ = scored(folders, "accents", "found", listing=listing)
        assert (found.images, found.best.iou["cat"]) == (1, 1.0)


def test_case_maps_of_image_without_class(folders):
    """CAMs of a photo that shows none of the classes: background, and scored as such."""
    for stem in "abc":
        write_cams(folders / "cams" / f"{stem}.npz", [1], np.ones((1, 7, 9)), (7, 9))
    write_cams(folders / "cams" / "b.npz", [], np.zeros((0, 7, 9)), (7, 9))
    save(folders / "cams" / "c.npy", {})
    (folders / "cams" / "c.npz").unlink()
    for stem in "bc":
        write_mask(folders / "gt" / f"{stem}.png", np.zeros((7, 9), np.uint8))
    write_mask(folders / "gt" / "a.png", np.ones((7, 9), np.uint8))
    found, _ = scored(folders, masks="cams", cams=True, thresholds=[0.3])
    assert (found.images, found.best.miou) == (3, 1.0)


@pytest.mark.parametrize(
    ("thresholds", "said"),
    [((0.2, 0.4, 0.6), False), ((0.5, 0.6), True), ((0.2, 0.3), True), ((0.3, 0.35, 0.45), True), ((0.6,), False)],
)
def test_a_best_value_at_an_end_of_a_sweep_is_said(folders, thresholds, said):
    """A map of 0.9 on the cat, 0.45 on one half of the rest and 0.25 on the other: best between 0.45 and 0.9."""
    truth = np.zeros((4, 9), np.uint8)
    truth[:2] = 1
    cam = np.full((1, 4, 9), 0.9, np.float32)
    cam[0, 1], cam[0, 2], cam[0, 3] = 0.58, 0.39, 0.25
    write_mask(folders / "truth" / "a.png", truth)
    write_cams(folders / "cams" / "a.npz", [1], cam, (4, 9), "float32")
    found, warnings = scored(folders, "truth", "cams", cams=True, thresholds=thresholds)
    expected = f"the best value, {found.best.setting}, is at an end of the sweep"
    assert [expected in text for text in warnings] == [True] * said


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_case_pipes_and_loops(folders):
    for name in ("gt/a.png", "masks/b.png"):
        (folders / name).unlink()
        os.mkfifo(folders / name)
    found, _ = scored(folders)
    reasons = dict(found.failed)
    assert found.images == 1
    assert all("found a named pipe (FIFO), expected a file" in reasons[stem] for stem in "ab")
