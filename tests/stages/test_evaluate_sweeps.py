"""Scores that propagate saves, and what evaluate makes of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from toy_bundle import BLUE, RED, draw, use_toy
from typer.testing import CliRunner

from pixaff.cli.app import app
from pixaff.errors import UsageError
from pixaff.io.cams import write_cams
from pixaff.io.masks import read_mask, write_mask
from pixaff.io.scores import read_scores
from pixaff.prediction import masks_at
from pixaff.stages.evaluate import evaluate
from pixaff.stages.propagate import propagate

ALPHAS = (0.25, 0.7, 3.0, 10.0, 40.0, 64.0)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    use_toy(monkeypatch)


@pytest.fixture
def photos(tmp_path):
    """Photos with colours that fade, so that every alpha gives another mask; one larger than the working size."""
    rng = np.random.default_rng(0)
    for name, colours, size in (
        ("red", [(RED, 16, 16)], (64, 96)),
        ("both", [(RED, 8, 8), (BLUE, 32, 60)], (71, 93)),
        ("large", [(RED, 60, 20), (BLUE, 90, 180)], (190, 260)),
    ):
        cells = [1 + size[0] // 8, 1 + size[1] // 8]
        maps = rng.random((2, *cells)).astype(np.float32)
        maps = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], size, mode="bilinear")[0].numpy() ** 2
        maps /= maps.max((1, 2), keepdims=True)
        draw(tmp_path / "photos" / f"{name}.png", *colours, size=size, side=48)
        write_cams(tmp_path / "cams" / f"{name}.npz", [1, 2], maps, size, dtype="float32")
        write_mask(tmp_path / "gt" / f"{name}.png", rng.choice([0, 1, 2, 255], size).astype(np.uint8))
    labels = "image,labels\nred,red;blue\nboth,red;blue\nlarge,blue\n"
    (tmp_path / "labels.csv").write_text(labels)
    return tmp_path


def refine(folder, out, **settings):
    report = propagate(
        folder / "photos", folder / out, cams=folder / "cams", labels=folder / "labels.csv", size=104, **settings
    )
    assert report.ok, report.failed
    return folder / out


def test_saved_scores_give_the_mask_of_every_alpha(photos):
    saved = refine(photos, "saved", save_scores=True)
    found = {}
    for name in ("red", "both", "large"):
        file = read_scores(saved / "scores" / f"{name}.npz")
        found[name] = dict(zip(ALPHAS, masks_at(file, ALPHAS), strict=True))
    for alpha in ALPHAS:
        alone = refine(photos, f"alpha-{alpha:g}", alpha=alpha)
        for name, masks in found.items():
            mask = read_mask(alone / f"{name}.png")
            assert masks[alpha].dtype == np.uint8
            assert masks[alpha].shape == mask.shape
            # Scores are kept to 11 bits: a pixel in ten thousand may change sides, which here is one or a few.
            assert (masks[alpha] != mask).sum() <= max(1, mask.size // 10_000), (name, alpha)
    shares = [np.mean([(masks[alpha] == 0).mean() for masks in found.values()]) for alpha in ALPHAS]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1] + 0.3


def test_saving_scores_leaves_the_masks_as_they_are(photos):
    plain, saved = refine(photos, "plain"), refine(photos, "saved", save_scores=True, batch_size=1)
    assert not (plain / "scores").exists()
    for mask in plain.glob("*.png"):
        np.testing.assert_array_equal(read_mask(mask), read_mask(saved / mask.name))
    file = read_scores(saved / "scores" / "large.npz")
    assert (file.classes.tolist(), file.alpha, file.size) == ([2], 3.0, (190, 260))
    assert max(file.walked_size) == 104


def test_scores_are_made_where_they_are_absent_and_kept_where_they_are_not(photos):
    refine(photos, "out")
    again = propagate(photos / "photos", photos / "out", save_scores=True)
    assert len(again.done) == 3
    again = propagate(photos / "photos", photos / "out", save_scores=True)
    assert (len(again.skipped), again.done) == (3, [])
    (photos / "out" / "scores" / "red.npz").unlink()
    assert propagate(photos / "photos", photos / "out", save_scores=True).done == ["red.png"]


def test_scores_follow_the_walk_and_not_the_crf(photos):
    """And whoever scores them is told."""
    crf = refine(photos, "crf", save_scores=True, final_crf=True, engine="torch")
    walk = refine(photos, "walk", save_scores=True)
    for name in ("red", "both"):
        with_crf, without = (read_scores(out / "scores" / f"{name}.npz") for out in (crf, walk))
        np.testing.assert_array_equal(with_crf.scores, without.scores)
        np.testing.assert_array_equal(with_crf.background, without.background)
    for out, expected in (
        (crf, ["evaluate: scoring the walk alone, without the CRF refinement that followed it"]),
        (walk, []),
    ):
        events = []
        evaluate(out, photos / "gt", sweep={"alpha": [3]}, report=events.append)
        assert [event.text for event in events if event.kind == "note"] == expected


def test_a_sweep_scores_what_separate_runs_would(photos, monkeypatch):
    saved = refine(photos, "saved", save_scores=True)
    alone = [evaluate(refine(photos, f"at-{alpha:g}", alpha=alpha), photos / "gt") for alpha in ALPHAS]
    monkeypatch.setattr("pixaff.ops.walk.transition_matrix", None)  # nothing is walked from here on
    for folder in (saved, saved / "scores"):
        found = evaluate(folder, photos / "gt", sweep={"alpha": ALPHAS}, workers=2)
        assert [score.setting for score in found.scores] == [f"alpha {alpha:g}" for alpha in ALPHAS]
        assert (found.images, found.failed) == (3, ())
        for score, single in zip(found.scores, alone, strict=True):
            assert score.miou == pytest.approx(single.best.miou, abs=1e-4)
    assert list(found.best.iou) == ["background", "red", "blue"]  # of the record in the folder above


def test_scores_without_a_sweep_stand_for_the_masks_of_their_run(photos):
    out = refine(photos, "out", save_scores=True, alpha=7)
    masks, scores = evaluate(out, photos / "gt"), evaluate(out / "scores", photos / "gt")
    assert [score.setting for score in scores.scores] == [""]
    assert scores.best.miou == pytest.approx(masks.best.miou, abs=1e-4)


def test_what_cannot_be_swept_is_a_usage_error(photos):
    out = refine(photos, "out", save_scores=True)
    calls = [
        ({"beta": [8.0]}, {}, "found beta, expected alpha=FROM:TO:STEP .*run propagate once for each"),
        ({"alpha": [4.0, 65.0]}, {}, "alpha is 65, expected 0.0625 to 64, the range of saved scores"),
        ({"alpha": [4.0]}, {"cams": True}, "found --cams"),
    ]
    for sweep, options, words in calls:
        with pytest.raises(UsageError, match=words):
            evaluate(out, photos / "gt", sweep=sweep, **options)
    for sweep in ({"alpha": [4.0]}, None):
        with pytest.raises(UsageError, match="contains CAMs, expected propagated scores"):
            evaluate(photos / "cams", photos / "gt", sweep=sweep)
    with pytest.raises(UsageError, match=r"none of the 3 images .*\w\.npz, which propagate --save-scores writes"):
        evaluate(refine(photos, "masks"), photos / "gt", sweep={"alpha": [4.0]})
    with pytest.raises(UsageError, match="alpha is 100, expected"):
        refine(photos, "more", save_scores=True, alpha=100)


def test_damaged_scores_are_named_and_the_rest_is_scored(photos):
    out = refine(photos, "out", save_scores=True)
    (out / "scores" / "both.npz").write_bytes(b"PK")
    (out / "scores" / "large.npz").unlink()
    found = evaluate(out, photos / "gt", sweep={"alpha": [4.0]})
    assert found.images == 1
    assert "damaged" in dict(found.failed)["both"]
    assert "no prediction" in dict(found.failed)["large"]


def test_the_command_prints_each_point_and_then_the_best(photos):
    out = refine(photos, "out", save_scores=True)
    call = ["evaluate", f"{out}", f"{photos}/gt", "--sweep", "alpha=1:9:4"]
    done = CliRunner().invoke(app, [*call, "--json", "-j", "1"])
    assert done.exit_code == 0, done.output
    *points, best = [json.loads(line) for line in done.stdout.splitlines()]
    assert [point["setting"] for point in points] == ["alpha 1", "alpha 5", "alpha 9"]
    assert best == {**max(points, key=lambda point: point["miou"]), "best": True}
    done = CliRunner().invoke(app, call)
    assert [f"alpha {alpha}" in done.stdout for alpha in (1, 5, 9)] == [True] * 3
    assert f"{100 * best['miou']:.2f} at {best['setting']}, the best of 3, on 3 images" in done.stdout
    for wrong in ("4:32:4", "=4:32:4", "alpha"):
        done = CliRunner().invoke(app, [*call[:-1], wrong])
        assert done.exit_code == 2
        assert f"--sweep: found '{wrong}', expected NAME=FROM:TO:STEP" in done.stderr
