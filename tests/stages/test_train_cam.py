"""Training the classifier: labels against photos, where weights start, and what the folder says afterwards."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_set import CLASSES, TinyCam, quick_trainings, use_tiny, write_set

from pixaff.errors import CheckpointError, TrainingError, UsageError
from pixaff.events import Event
from pixaff.io.checkpoints import read_metadata, read_state_dict, write_state_dict
from pixaff.models.base import CamNetwork
from pixaff.recipe import Recipe
from pixaff.stages.train_cam import cam_loss, seed_loss, train_cam
from pixaff.stages.training.metrics import read_records

RECIPE = Recipe(epochs=2, batch_size=4, lr=5e-3, optimizer="adamw", precision="fp32", resize=(60, 90), crop=64)
FAST = {"recipe": RECIPE, "device": "cpu", "workers": 1}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)
    quick_trainings(monkeypatch)


def test_network_learns_to_tell_the_classes(tmp_path: Path) -> None:
    photos, labels, _ = write_set(tmp_path, 18)
    result = train_cam(photos, labels, CLASSES, tmp_path / "run", **{**FAST, "recipe": RECIPE.replace(epochs=14)})
    assert result.path == tmp_path / "run" / "cam.safetensors"
    assert result.ok
    assert len(result.done) == 18
    epochs = [record for record in read_records(tmp_path / "run") if record["kind"] == "epoch"]
    assert epochs[-1]["loss"] < 0.7 * epochs[0]["loss"]
    assert epochs[-1]["f1"] > 0.8
    metadata = read_metadata(result.path)
    assert metadata["network"] == "lite_cam"
    assert json.loads(metadata["classes"]) == list(CLASSES)
    TinyCam(2).load_state_dict(read_state_dict(result.path))
    assert sorted(path.name for path in result.path.parent.iterdir()) == [
        "cam.safetensors", "loss.png", "metrics.jsonl", "run.json"
    ]  # fmt: skip


def test_seed_loss_weighs_background_and_classes_the_same() -> None:
    logits = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[[0, 0], [0, 2]], [[255, 1], [255, 255]]])

    class Model(CamNetwork):
        def segmentation_logits(self, image: torch.Tensor) -> torch.Tensor:
            return logits

    terms = seed_loss(Model(), {"image": torch.zeros(1), "labels": labels})
    sides: dict[str, list[float]] = {"bg": [], "fg": []}
    for image, y, x in np.ndindex(2, 2, 2):
        label = int(labels[image, y, x])
        if label != 255:
            cost = -logits[image, :, y, x].log_softmax(0)[label].item()
            sides["bg" if label == 0 else "fg"].append(cost)
    means = {name: float(np.mean(costs)) for name, costs in sides.items()}
    assert terms["bg"].item() == pytest.approx(means["bg"], rel=1e-5)
    assert terms["fg"].item() == pytest.approx(means["fg"], rel=1e-5)
    assert terms["loss"].item() == pytest.approx((means["bg"] + means["fg"]) / 2, rel=1e-5)
    nothing = seed_loss(Model(), {"image": torch.zeros(1), "labels": torch.full_like(labels, 255)})
    assert nothing["loss"].item() == 0


def test_one_folder_of_posteriors_is_too_few(tmp_path: Path) -> None:
    photos, labels, _ = write_set(tmp_path, 3)
    with pytest.raises(UsageError, match="expected two"):
        train_cam(photos, labels, CLASSES, tmp_path / "run", crf_low_dir=tmp_path, **FAST)


def test_a_network_without_a_segmentation_head_is_refused_posteriors(tmp_path: Path) -> None:
    photos, labels, _ = write_set(tmp_path, 3)
    with pytest.raises(UsageError, match="no segmentation head"):
        train_cam(
            photos, labels, CLASSES, tmp_path / "run", network="vgg16_cam", crf_low_dir=tmp_path, crf_high_dir=tmp_path
        )


def test_loss_is_the_multi_label_soft_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.1, -0.2]])
    target = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    terms = cam_loss(lambda image: logits, {"image": torch.zeros(1), "target": target})
    probability = logits.sigmoid()
    slow = -(target * probability.log() + (1 - target) * (1 - probability).log()).mean()
    assert terms["loss"].item() == pytest.approx(slow.item(), rel=1e-6)
    # Predicted (0, 0), (0, 2), (1, 1); present (0, 0), (1, 1), (1, 2): two hits of three and three.
    assert terms["f1"].item() == pytest.approx(2 * 2 / 6)


def test_bad_photos_and_labels_are_named_and_left_out(tmp_path: Path) -> None:
    photos, labels, _ = write_set(tmp_path, 6)
    (photos / "notes.txt").write_text("no image")
    (photos / "empty.jpg").touch()
    (photos / "extra.png").write_bytes((photos / "toy00.png").read_bytes())
    text = labels.read_text() + "empty,disc\nnotes,disc\ngone,disc\n"
    labels.write_text(text)
    (tmp_path / "classes.txt").write_text("square\ndisc\nunicorn\n")
    events: list[Event] = []
    result = train_cam(photos, labels, tmp_path / "classes.txt", tmp_path / "run", **FAST, report=events.append)
    failed = dict(result.failed)
    assert set(failed) == {"notes.txt", "empty.jpg", "extra.png"}
    assert 'no entry for "extra"' in failed["extra.png"]
    assert len(result.done) == 6
    warnings = [event.text for event in events if event.kind == "warning"]
    assert any("gone" in text for text in warnings)
    assert any("no photo shows unicorn" in text for text in warnings)
    assert any("starts from random weights; --init takes" in text for text in warnings)
    assert read_state_dict(result.path)["head.weight"].shape[0] == 3


def test_list_chooses_the_photos(tmp_path: Path) -> None:
    photos, labels, _ = write_set(tmp_path, 6)
    (tmp_path / "list.txt").write_text("toy04\ntoy00\nmissing\n")
    result = train_cam(photos, labels, CLASSES, tmp_path / "run", listing=tmp_path / "list.txt", **FAST)
    assert sorted(result.done) == ["toy00.png", "toy04.png"]
    assert [name for name, _ in result.failed] == ["missing"]


def test_nothing_to_train_on_is_said_before_anything_is_written(tmp_path: Path) -> None:
    photos, labels, _ = write_set(tmp_path, 3)
    for path in photos.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(TrainingError, match="no photo is left to train on"):
        train_cam(photos, labels, CLASSES, tmp_path / "run", **FAST)
    with pytest.raises(UsageError, match=r'2 of 3 entries cannot be used.*unknown class "disc".*did you mean "disk"'):
        train_cam(photos, labels, ("square", "disk"), tmp_path / "run", **FAST)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop": 60}, "crop is 60"),
        ({"crop": 0}, "crop is 0"),
        ({"resize": (90, 60)}, "90 to 60"),
        ({"resize": (0, 9)}, "resize is 0, 9, expected a number of at least 1"),
    ],
)
def test_sizes_out_of_range_are_refused(tmp_path: Path, options: dict, words: str) -> None:
    photos, labels, _ = write_set(tmp_path, 3)
    with pytest.raises(UsageError, match=words):
        train_cam(photos, labels, CLASSES, tmp_path / "run", recipe=options, device="cpu")


def test_finished_unfinished_and_anew(tmp_path: Path) -> None:
    photos, labels, _ = write_set(tmp_path, 6)
    out = tmp_path / "run"

    def interrupt(event: Event) -> None:
        if event.kind == "progress":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_cam(photos, labels, CLASSES, out, **FAST, report=interrupt)
    with pytest.raises(UsageError, match="unfinished training"):
        train_cam(photos, labels, CLASSES, out, **FAST)
    with pytest.raises(UsageError, match="contradict"):
        train_cam(photos, labels, CLASSES, out, **FAST, resume=True, overwrite=True)
    resumed = read_state_dict(train_cam(photos, labels, CLASSES, out, **FAST, resume=True).path)
    assert not (out / "training.pt").exists()

    written = (out / "cam.safetensors").stat().st_mtime_ns
    again = train_cam(photos, labels, CLASSES, out, **FAST, resume=True)
    assert again.path.stat().st_mtime_ns == written
    assert again.done == []
    anew = read_state_dict(train_cam(photos, labels, CLASSES, out, **FAST, overwrite=True).path)
    assert (out / "cam.safetensors").stat().st_mtime_ns > written
    assert all(torch.equal(resumed[name], anew[name]) for name in anew)


def test_resume_notices_other_labels(tmp_path: Path) -> None:
    photos, labels, _ = write_set(tmp_path, 6)

    def interrupt(event: Event) -> None:
        if event.kind == "progress":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_cam(photos, labels, CLASSES, tmp_path / "run", **FAST, report=interrupt)
    labels.write_text(labels.read_text().replace("toy00,square", "toy00,disc"))
    with pytest.raises(TrainingError, match=r"another training: data \w+ -> \w+"):
        train_cam(photos, labels, CLASSES, tmp_path / "run", **FAST, resume=True)


def test_weights_start_where_they_are_told(tmp_path: Path) -> None:
    photos, labels, _ = write_set(tmp_path, 6)
    torch.manual_seed(1)
    start = TinyCam(7)  # a classifier of other classes: its head does not fit
    write_state_dict(tmp_path / "start.safetensors", start.state_dict(), half=True)
    still = RECIPE.replace(lr=1e-12, weight_decay=0.0)
    notes: list[str] = []
    options = {**FAST, "recipe": still, "report": lambda event: notes.append(event.text)}
    start_file = tmp_path / "start.safetensors"
    with pytest.raises(
        CheckpointError, match=r"found a classifier for 7 classes \(head\.weight, head\.bias\), expected 2"
    ):
        train_cam(photos, labels, CLASSES, tmp_path / "run", init=start_file, **options)
    result = train_cam(photos, labels, CLASSES, tmp_path / "run", init=start_file, reset_head=True, **options)
    weights = read_state_dict(result.path)
    assert torch.allclose(weights["backbone.0.weight"], start.backbone[0].weight, atol=1e-3)
    assert weights["head.weight"].shape == (2, 16, 1, 1)
    assert weights["head.weight"].dtype == torch.float32
    assert any("start.safetensors, re-initialised: head.weight, head.bias" in note for note in notes)

    random = read_state_dict(train_cam(photos, labels, CLASSES, tmp_path / "random", init="random", **options).path)
    assert not torch.allclose(random["backbone.0.weight"], start.backbone[0].weight, atol=1e-3)
    write_state_dict(tmp_path / "other.safetensors", {"conv.weight": torch.zeros(3)})
    write_state_dict(start_file, start.state_dict() | {"backbone.2.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"1 of another shape \(backbone\.2\.weight \(1,\) instead of"):
        train_cam(photos, labels, CLASSES, tmp_path / "run2", init=start_file, reset_head=True, **FAST)
    with pytest.raises(CheckpointError, match=r"none of its 1 tensors fits, the first is conv\.weight"):
        train_cam(photos, labels, CLASSES, tmp_path / "other", init=tmp_path / "other.safetensors", **FAST)
