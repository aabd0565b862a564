from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from pixaff.cli.app import app
from pixaff.errors import FormatError, UsageError
from pixaff.io.cams import write_cams
from pixaff.io.checkpoints import write_state_dict
from pixaff.io.masks import write_mask
from pixaff.stages.batch.record import write_record
from pixaff.stages.info import info


def test_the_installation():
    facts = info()
    assert torch.__version__.startswith(facts["versions"]["torch"])
    assert facts["threads"] == torch.get_num_threads()
    assert "torch" in facts["crf_engines"]
    assert {"lite_cam", "vgg16_affinity"} <= set(facts["models"])
    published = facts["presets"]["psa-resnet38"]
    assert (published["cam"], published["affinity"]) == ("resnet38_cam", "resnet38_affinity")
    assert (published["crf_low"], published["alpha"], published["crf_high"], published["size"]) == (4, 16, 32, 0)


def test_files_are_told_apart(tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "photo.png")
    Image.new("L", (6, 4)).save(tmp_path / "grey.png")
    Image.new("RGB", (6, 4)).quantize(4).save(tmp_path / "palette.png")
    write_mask(tmp_path / "mask.png", np.array([[0, 3], [255, 3]], np.uint8))
    write_cams(tmp_path / "cams.npz", [2, 5], np.ones((2, 3, 4)), (30, 40))
    write_cams(tmp_path / "crf.npz", [0, 2], np.ones((2, 3, 4)), (30, 40))
    write_state_dict(tmp_path / "w.safetensors", {"a": torch.ones(2, 3)}, metadata={"network": "toy"})
    for name in ("photo", "grey", "palette"):
        assert info(tmp_path / f"{name}.png")["kind"] == "photo"
        assert info(tmp_path / f"{name}.png")["size"] == [4, 6]
    mask = info(tmp_path / "mask.png")
    assert (mask["kind"], mask["values"], mask["void"]) == ("mask", [0, 3, 255], True)
    cams = info(tmp_path / "cams.npz")
    assert (cams["kind"], cams["classes"], cams["photo_size"]) == ("CAMs", [2, 5], [30, 40])
    assert info(tmp_path / "crf.npz")["kind"] == "CRF posterior"
    weights = info(tmp_path / "w.safetensors")
    assert (weights["kind"], weights["parameters"], weights["metadata"]["network"]) == ("weights", 6, "toy")


def test_folders_tell_what_made_them(tmp_path):
    (tmp_path / "a.jpg").touch()
    assert info(tmp_path)["files"] == {".jpg": 1}
    write_record(tmp_path, "crf", {"crf_low": 3.0})
    facts = info(tmp_path)
    assert facts["kind"] == "outputs of pixaff crf"
    assert facts["run.json"]["settings"] == {"crf_low": 3.0}


def test_what_is_unknown_or_absent(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FormatError, match=r"notes\.txt"):
        info(tmp_path / "notes.txt")
    with pytest.raises(UsageError, match="no such"):
        info(tmp_path / "gone")


def test_the_command_prints_words_or_json(tmp_path):
    write_mask(tmp_path / "mask.png", np.array([[0, 3]], np.uint8))
    words = CliRunner().invoke(app, ["info", f"{tmp_path}/mask.png"])
    assert "kind: mask" in words.stdout.splitlines()
    assert "values: 0 3" in words.stdout.splitlines()
    facts = json.loads(CliRunner().invoke(app, ["info", f"{tmp_path}/mask.png", "--json"]).stdout)
    assert facts["values"] == [0, 3]


def test_labels_are_counted_and_compared_with_photos(tmp_path):
    for name in ("cat/a", "cat/b", "dog/c"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (len(name), ord(name[-1]), 0)).save(tmp_path / "photos" / f"{name}.png")
    facts = info(tmp_path / "photos")
    assert (facts["kind"], facts["format"], facts["images"]) == ("labels", "a folder per class", 3)
    assert facts["classes"] == {"cat": 2, "dog": 1}
    (tmp_path / "labels.csv").write_text("image,labels\na,cat;dog\nx,dog\nc,\n")
    facts = info(tmp_path / "labels.csv", tmp_path / "photos" / "cat")
    assert (facts["images_without_class"], facts["classes"]) == (1, {"cat": 1, "dog": 2})
    assert facts["labels_without_image"] == {"count": 2, "first": ["x", "c"]}
    assert facts["images_without_label"] == {"count": 1, "first": ["b"]}
    command = ["info", f"{tmp_path}/labels.csv", "--photos", f"{tmp_path}/photos/cat"]
    assert "format: a table, a row an image" in CliRunner().invoke(app, command).stdout.splitlines()
    with pytest.raises(UsageError, match="photos without labels"):
        info(photos=tmp_path / "photos")
