"""Folders through a segmentation network: masks, skipping, records, and models that have none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_bundle import BLUE, CLASSES, RED, draw
from toy_set import TinySeg, use_tiny
from typer.testing import CliRunner

import pixaff
from pixaff.cli.app import app
from pixaff.errors import CheckpointError
from pixaff.events import Event
from pixaff.io.checkpoints import write_state_dict
from pixaff.models.model_folder import RECORD, SEG
from pixaff.models.segmentation import PART, add_segmentation, load_segmentation
from pixaff.settings import SegSettings
from pixaff.stages.segment import segment


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw(tmp_path / "photos" / "a.png", (RED, 8, 8), (BLUE, 30, 60))
    draw(tmp_path / "photos" / "b.jpg", (RED, 20, 20), size=(50, 70))
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no photo")
    return tmp_path / "photos"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished train-seg."""
    torch.manual_seed(1)
    facts = {"network": "lite_seg", "classes": json.dumps(CLASSES), "size": "64"}
    write_state_dict(tmp_path / "run" / SEG, TinySeg(2).state_dict(), metadata=facts)
    return tmp_path / "run"


def test_masks_skipping_and_record(photos: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = segment(photos, out, model=run, overlay=True, device="cpu")
    assert sorted(first.done) == ["a.png", "b.jpg"]
    assert [name for name, _ in first.failed] == ["broken.jpg"]
    segmenter = pixaff.load_segmenter(run, device="cpu")
    for name in ("a.png", "b.jpg"):
        mask = Image.open(out / f"{Path(name).stem}.png")
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask), segmenter(photos / name).mask)
        assert Image.open(out / "overlays" / f"{Path(name).stem}.jpg").size == mask.size
    record = json.loads((out / "run.json").read_text())
    assert record["command"] == "segment"
    assert record["classes"] == list(CLASSES)
    assert {name: record["settings"][name] for name in ("size", "scales", "flip", "crf", "network")} == {
        "size": 64, "scales": [1.0], "flip": False, "crf": False, "network": "lite_seg"
    }  # fmt: skip
    again = segment(photos, out, model=run, overlay=True, device="cpu")
    assert sorted(again.skipped) == ["a.png", "b.jpg"]
    warnings: list[Event] = []
    segment(photos, out, model=run, overlay=True, device="cpu", flip=True, report=warnings.append)
    assert any("flip no -> yes" in event.text for event in warnings if event.kind == "warning")


def test_labels_restrict_and_command_prints_json(photos: Path, run: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").unlink()
    (tmp_path / "labels.csv").write_text("image,labels\na,blue\nb,\n")
    arguments = ["segment", str(photos), "-o", str(tmp_path / "out"), "-m", str(run), "--json", "--device", "cpu"]
    done = CliRunner().invoke(app, [*arguments, "-l", str(tmp_path / "labels.csv"), "--size", "32", "--scales", "1,2"])
    assert done.exit_code == 0, done.output
    lines = {Path(line["photo"]).stem: line for line in map(json.loads, done.stdout.splitlines())}
    assert (lines["a"]["classes"], lines["b"]["classes"]) == (["blue"], [])
    assert lines["a"]["outputs"] == [str(tmp_path / "out" / "a.png")]
    assert set(np.unique(np.asarray(Image.open(tmp_path / "out" / "a.png")))) <= {0, 2}
    assert not np.asarray(Image.open(tmp_path / "out" / "b.png")).any()


def test_a_model_without_the_network_says_how_to_get_one(photos: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="run2: no such folder"):
        segment(photos, tmp_path / "out", model=tmp_path / "run2")
    (tmp_path / "run2").mkdir()
    with pytest.raises(CheckpointError, match=r"run2 contains no seg.safetensors \(give the folder"):
        segment(photos, tmp_path / "out", model=tmp_path / "run2")
    (tmp_path / "run2" / RECORD).write_text("{}")
    with pytest.raises(CheckpointError, match=r"contains no seg.safetensors \(train it: pixaff train-seg"):
        segment(photos, tmp_path / "out", model=tmp_path / "run2")
    write_state_dict(tmp_path / "run2" / SEG, TinySeg(2).state_dict())
    with pytest.raises(CheckpointError, match="does not say which network and classes"):
        load_segmentation(tmp_path / "run2")
    assert not (tmp_path / "out").exists()


def test_a_model_takes_the_network_and_its_settings(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    record = {"format": 1, "classes": list(CLASSES), "settings": {}}
    (model / RECORD).write_text(json.dumps(record))
    add_segmentation(model, run / SEG, {"flip": True}, half=True)
    assert json.loads((model / RECORD).read_text()) == {**record, PART: SegSettings(size=64, flip=True).to_dict()}
    bundle = load_segmentation(model)
    assert bundle.settings == SegSettings(size=64, flip=True)
    assert bundle.classes == CLASSES
    assert not bundle.network.training
    whole = load_segmentation(run).network.state_dict()
    assert all(torch.allclose(value, whole[name], atol=1e-3) for name, value in bundle.network.state_dict().items())
    (model / RECORD).write_text(json.dumps({**record, "classes": ["red", "green"]}))
    with pytest.raises(CheckpointError, match=r"is for 2 classes \(red, blue, ...\), .* names 2 classes \(red, green"):
        load_segmentation(model)
    with pytest.raises(CheckpointError, match="for different classes"):
        add_segmentation(model, run / SEG)
    (model / RECORD).write_text(json.dumps({**record, PART: {"size": 3}}))
    with pytest.raises(CheckpointError, match=r"model\.json: size is 3"):
        load_segmentation(model)
    shutil.rmtree(model)


def test_outputs_mirror_the_folders(photos: Path, run: Path, tmp_path: Path) -> None:
    draw(photos / "more" / "a.png", (RED, 8, 8))
    report = segment(photos, tmp_path / "out", model=run, device="cpu", recursive=True, inference="torch")
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")} == {
        "a.png", "b.png", "more/a.png"
    }  # fmt: skip
    assert len(report.done) == 3
