from __future__ import annotations

import numpy as np
import pytest
from toy_bundle import BLUE, RED, draw, use_toy

from pixaff.io.cams import read_cams
from pixaff.io.images import read_image
from pixaff.ops.cam import normalized_cams
from pixaff.stages import cam as stage
from pixaff.stages.cam import cam
from pixaff.viz.cam_panels import cam_panels


@pytest.fixture(autouse=True)
def bundle(monkeypatch):
    return use_toy(monkeypatch)


@pytest.fixture
def photos(tmp_path):
    draw(tmp_path / "photos" / "both.png", (RED, 8, 8), (BLUE, 32, 60))
    draw(tmp_path / "photos" / "red.png", (RED, 8, 8), size=(80, 200))
    draw(tmp_path / "photos" / "none.png")
    return tmp_path / "photos"


def test_maps_are_those_of_the_network_at_the_working_size(photos, tmp_path, bundle):
    assert cam(photos, tmp_path / "cams").ok
    both, red, none = (read_cams(tmp_path / "cams" / f"{name}.npz") for name in ("both", "red", "none"))
    assert both.classes.tolist() == [1, 2]
    assert (both.cams.shape, both.size) == ((2, 64, 96), (64, 96))
    expected = normalized_cams(bundle.cam, read_image(photos / "both.png"), (0, 1), scales=(1.0, 0.5), flip=True)
    np.testing.assert_allclose(both.cams, expected.detach().numpy(), atol=1e-3)
    # Shrunk to the working size, but the file knows the photo's own.
    assert (red.cams.shape, red.size) == ((1, 43, 108), (80, 200))
    # Where no class is likely, the likeliest one is taken.
    assert len(none.classes) == 1


def test_settings_of_the_call_replace_the_models(photos, tmp_path, bundle):
    cam(photos / "red.png", tmp_path / "a", size=64, scales=[1.0], flip=False)
    found = read_cams(tmp_path / "a" / "red.npz")
    assert found.cams.shape == (1, 26, 64)
    assert found.size == (80, 200)


def test_the_network_gets_the_scales_and_mirror_images_that_are_asked_for(photos, tmp_path, bundle, monkeypatch):
    seen = []
    network = bundle.cam.cam
    monkeypatch.setattr(bundle.cam, "cam", lambda x: (seen.append((len(x), x.shape[3])), network(x))[1])
    cam(photos / "both.png", tmp_path / "own", precision="fp32", inference="torch")
    cam(photos / "both.png", tmp_path / "other", scales=[0.25, 1.5], flip=False, inference="torch")
    # The toy's forward pass asks for its maps too: one image at the full size, for the labels.
    assert seen == [(1, 96), (2, 96), (2, 48), (1, 96), (1, 24), (1, 144)]


def test_given_labels_need_no_prediction(photos, tmp_path):
    (tmp_path / "labels.csv").write_text("both,blue\nred,red;blue\n")
    report = cam(photos, tmp_path / "cams", labels=tmp_path / "labels.csv")
    assert [name for name, _ in report.failed] == ["none.png"]
    assert read_cams(tmp_path / "cams" / "both.npz").classes.tolist() == [2]
    assert read_cams(tmp_path / "cams" / "red.npz").classes.tolist() == [1, 2]


def test_overlays_show_the_classes_with_their_probabilities(photos, tmp_path, monkeypatch):
    (tmp_path / "labels.csv").write_text("both,blue;red\nred,blue\nnone,\n")
    drawn = {}

    def panels(image, cams, names, scores):
        drawn[tuple(names)] = [float(score) for score in scores]
        return cam_panels(image, cams, names, scores)

    monkeypatch.setattr(stage, "cam_panels", panels)
    assert cam(photos, tmp_path / "cams", labels=tmp_path / "labels.csv", overlay=True).ok
    assert set(drawn) == {("red", "blue"), ("blue",), ()}
    assert min(drawn["red", "blue"]) > 0.5 > drawn["blue",][0]  # a label that the classifier does not see
    pictures = sorted(path.name for path in (tmp_path / "cams" / "overlays").iterdir())
    assert pictures == ["both.jpg", "none.jpg", "red.jpg"]
    assert len(cam(photos, tmp_path / "cams", labels=tmp_path / "labels.csv", overlay=True).skipped) == 3
    (tmp_path / "cams" / "overlays" / "red.jpg").unlink()
    assert cam(photos, tmp_path / "cams", labels=tmp_path / "labels.csv", overlay=True).done == ["red.png"]
