from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from toy_bundle import RED, draw

from pixaff.errors import UsageError
from pixaff.io.cams import read_cams, write_cams
from pixaff.io.images import read_image
from pixaff.io.masks import read_mask
from pixaff.ops.crf import dense_crf
from pixaff.ops.labels import confident_label_map
from pixaff.stages import crf as stage
from pixaff.stages.batch.executors import in_threads
from pixaff.stages.crf import crf


@pytest.fixture
def photos(tmp_path):
    """Four photos with a red square, and maps that roughly follow it."""
    rng = np.random.default_rng(0)
    for number in range(4):
        draw(tmp_path / "photos" / f"p{number}.png", (RED, 8 + 4 * number, 16), size=(48, 64))
        maps = rng.random((2, 48, 64)) * 0.3
        maps[0, 8 + 4 * number : 32 + 4 * number, 16:40] += 0.7
        write_cams(tmp_path / "cams" / f"p{number}.npz", [2, 5], maps, (48, 64), dtype="float32")
    return tmp_path / "photos"


def test_both_posteriors_are_those_of_the_dense_crf(photos, tmp_path):
    report = crf(
        photos, tmp_path / "cams", tmp_path / "out", crf_low=2, crf_high=20, size=64, engine="torch", workers=1
    )
    assert len(report.done) == 4
    maps = read_cams(tmp_path / "cams" / "p1.npz").cams
    image = read_image(photos / "p1.png")
    for side, power in (("low", 2), ("high", 20)):
        found = read_cams(tmp_path / "out" / side / "p1.npz")
        scores = np.concatenate([(1 - maps.max(0, keepdims=True)) ** power, maps])
        expected = dense_crf(image, torch.from_numpy(scores), engine="torch")
        assert found.classes.tolist() == [0, 2, 5]
        assert found.size == (48, 64)
        np.testing.assert_allclose(found.cams, expected.numpy(), atol=1e-3)
    low, high = (read_cams(tmp_path / "out" / side / "p1.npz").cams[0] for side in ("low", "high"))
    assert low.mean() > high.mean()


def test_a_preset_gives_both_powers_and_the_size(photos, tmp_path):
    crf(photos / "p0.png", tmp_path / "cams", tmp_path / "out", preset="psa-resnet38-cvpr", engine="torch", workers=1)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    settings = record["settings"]
    assert (settings["crf_low"], settings["crf_high"], settings["size"]) == (4, 24, 0)
    assert (record["images"], record["last_run"]["list"], record["settings"]["engine"]) == (1, None, "torch")


def test_worker_processes_give_the_same(photos, tmp_path, monkeypatch):
    """What goes to worker processes goes here through pickle alone; processes start in tests/stages/batch."""
    crf(photos, tmp_path / "cams", tmp_path / "one", size=64, engine="torch", workers=1)

    def in_processes(todo, work, *, workers):
        assert workers == 2
        return in_threads(todo, pickle.loads(pickle.dumps(work)), workers=1)

    monkeypatch.setattr(stage, "in_processes", in_processes)
    monkeypatch.setattr(stage, "PHOTOS_PER_WORKER", 1)
    (photos / "bad.png").write_text("no image")
    report = crf(photos, tmp_path / "cams", tmp_path / "two", size=64, engine="torch", workers=2)
    assert len(report.done) == 4
    assert [name for name, _ in report.failed] == ["bad.png"]
    for side in ("low", "high"):
        for path in (tmp_path / "one" / side).iterdir():
            np.testing.assert_allclose(
                read_cams(path).cams, read_cams(tmp_path / "two" / side / path.name).cams, atol=1e-3
            )


def test_maps_of_another_size_are_brought_to_the_working_size(photos, tmp_path):
    write_cams(tmp_path / "cams" / "p0.npz", [1], np.ones((1, 6, 8)), (48, 64))
    assert crf(photos / "p0.png", tmp_path / "cams", tmp_path / "out", size=32, engine="torch").ok
    assert read_cams(tmp_path / "out" / "low" / "p0.npz").cams.shape == (2, 24, 32)
    assert read_cams(tmp_path / "out" / "low" / "p0.npz").size == (48, 64)


def test_a_photo_without_maps_fails_by_name(photos, tmp_path):
    draw(photos / "new.png")
    report = crf(photos, tmp_path / "cams", tmp_path / "out", engine="torch")
    assert len(report.done) == 4
    assert report.failed[0][0] == "new.png"
    assert "no CAM file of new" in report.failed[0][1]


def test_presets_and_engines_are_checked_before_the_work(photos, tmp_path):
    with pytest.raises(UsageError, match="psa-vgg16"):
        crf(photos, tmp_path / "cams", tmp_path / "out", preset="vgg")
    with pytest.raises(UsageError, match="pydensecrf"):
        crf(photos, tmp_path / "cams", tmp_path / "out", engine="fast")
    with pytest.raises(UsageError, match="no such folder"):
        crf(photos, tmp_path / "nowhere", tmp_path / "out")
    events = []
    crf(photos / "p0.png", tmp_path / "cams", tmp_path / "out", preset="psa-resnet38-cvpr", report=events.append)
    assert (events[0].data["crf_low"], events[0].data["crf_high"]) == (4.0, 24.0)


def test_irn_labels_are_those_of_both_thresholds(photos, tmp_path):
    wanted = {"conf_fg": 0.7, "conf_bg": 0.2, "size": 64, "engine": "torch", "workers": 1}
    report = crf(photos, tmp_path / "cams", tmp_path / "out", hard=True, **wanted)
    assert len(report.done) == 4
    assert not (tmp_path / "out" / "low").exists()
    maps = torch.from_numpy(read_cams(tmp_path / "cams" / "p1.npz").cams)
    rows = confident_label_map(read_image(photos / "p1.png"), maps, 0.7, 0.2, engine="torch").numpy()
    found = read_mask(tmp_path / "out" / "p1.png")
    assert set(np.unique(found)) >= {0, 2}
    assert np.array_equal(found, np.where(rows == 1, 2, np.where(rows == 2, 5, rows)))
    settings = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]
    assert (settings["hard"], settings["conf_fg"], settings["conf_bg"]) == (True, 0.7, 0.2)
    assert "crf_low" not in settings
    again = crf(photos, tmp_path / "cams", tmp_path / "out", hard=True, **wanted)
    assert len(again.skipped) == 4


def test_irn_thresholds_in_the_wrong_order_are_refused(photos, tmp_path):
    with pytest.raises(UsageError, match=r"conf_bg is 0.3, expected at most conf_fg, 0.1"):
        crf(photos, tmp_path / "cams", tmp_path / "out", hard=True, conf_fg=0.1)
