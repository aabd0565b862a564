"""Photos too large for a network's memory are named; the rest of the batch goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from toy_bundle import RED, ToyCam, draw, toy_bundle

from pixaff.errors import ImageError
from pixaff.models import create_model
from pixaff.stages import cam as cam_stage
from pixaff.stages import memory
from pixaff.stages import propagate as propagate_stage


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
    monkeypatch.setattr(memory, "total_memory", lambda: 1_000_000_000)
    monkeypatch.setattr(cam_stage, "load_model", lambda *args, **kwargs: bundle)
    report = cam_stage.cam(photos, tmp_path / "out")
    assert report.done == ["small.png"]
    ((name, reason),) = report.failed
    assert name == "large.png"
    assert reason == (
        "too large for ToyCam: found 800 x 800 pixels at the largest scale, which take some 1.3 GB; expected at most "
        "the 1.0 GB of this machine (shrink what the networks see with --size 512)"
    )


def test_the_affinity_network_is_asked_too(photos, tmp_path, monkeypatch):
    bundle = toy_bundle(size=0)
    bundle.affinity.bytes_per_pixel = 1000
    monkeypatch.setattr(memory, "total_memory", lambda: 1000 * 399 * 400)
    monkeypatch.setattr(propagate_stage, "load_model", lambda *args, **kwargs: bundle)
    report = propagate_stage.propagate(photos, tmp_path / "out")
    assert report.done == ["small.png"]
    assert "too large for ToyAffinity" in report.failed[0][1]


def test_what_is_unknown_passes(monkeypatch):
    network = create_model("vgg16_cam")
    with pytest.raises(ImageError):
        memory.check_memory(network, (10**6, 10**6))
    monkeypatch.setattr(memory, "total_memory", lambda: None)
    memory.check_memory(network, (10**6, 10**6))
    monkeypatch.undo()
    memory.check_memory(ToyCam(), (10**6, 10**6))


def test_memory_is_that_of_the_container(tmp_path, monkeypatch):
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "LIMITS", (limit, Path("/nowhere")))
    for words, expected in ((None, machine), ("max\n", machine), ("123456789\n", 123456789)):
        if words:
            limit.write_text(words)
        assert memory.total_memory.__wrapped__() == expected
