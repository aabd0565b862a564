"""Photos too large for a network's memory are named; the rest of the batch goes on."""

from __future__ import annotations

import pytest
from toy_bundle import RED, draw, toy_bundle, use_toy

from pixaff import device
from pixaff.stages.cam import cam
from pixaff.stages.propagate import propagate


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    draw(folder / "large.png", (RED, 0, 0), size=(400, 400))
    draw(folder / "small.png", (RED, 0, 0), size=(64, 96))
    return folder


def test_a_photo_too_large_is_named_and_the_rest_done(photos, tmp_path, monkeypatch):
    # The largest scale, 2, with mirror images: 2 * 800 * 800 pixels for one photo, 2 * 128 * 192 for the other.
    bundle = toy_bundle(size=0, scales=(1.0, 2.0))
    bundle.cam.bytes_per_pixel = 1000
    monkeypatch.setattr(device, "total_memory", lambda: 1_000_000_000)
    use_toy(monkeypatch, bundle)
    report = cam(photos, tmp_path / "out")
    assert report.done == ["small.png"]
    ((name, reason),) = report.failed
    assert name == "large.png"
    assert reason == (
        "too large for ToyCam: found 800 x 800 pixels at the largest scale, which take some 1.3 GB; expected at most "
        "the 1.0 GB of this machine (use a smaller working size, such as --size 512)"
    )


def test_the_affinity_network_is_asked_too(photos, tmp_path, monkeypatch):
    bundle = toy_bundle(size=0)
    bundle.affinity.bytes_per_pixel = 1000
    monkeypatch.setattr(device, "total_memory", lambda: 1000 * 399 * 400)
    use_toy(monkeypatch, bundle)
    report = propagate(photos, tmp_path / "out")
    assert report.done == ["small.png"]
    assert "too large for ToyAffinity" in report.failed[0][1]
