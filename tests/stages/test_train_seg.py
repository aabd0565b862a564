"""Training a segmentation network: masks against photos, weights of pixels, and a resumed run's bits."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_set import CLASSES, TinySeg, quick_trainings, use_tiny, write_set

from pixaff.errors import CheckpointError, TrainingError, UsageError
from pixaff.events import Event
from pixaff.io.checkpoints import read_metadata, read_state_dict, write_state_dict
from pixaff.io.masks import write_mask
from pixaff.io.scores import ScoreFile, write_scores
from pixaff.ops.powers import background_powers
from pixaff.recipe import Recipe
from pixaff.stages.batch.record import write_record
from pixaff.stages.train_seg import mask_loss, train_seg
from pixaff.stages.training.datasets import MaskPhotos
from pixaff.stages.training.metrics import read_records
from pixaff.stages.training.pixel_labels import class_weights, mask_confidence, scores_of
from pixaff.stages.training.validation import hold_out

RECIPE = Recipe(epochs=2, batch_size=4, lr=5e-3, optimizer="adamw", precision="fp32", resize=(60, 90), crop=64)
FAST = {"classes": CLASSES, "recipe": RECIPE, "device": "cpu", "workers": 1}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)
    quick_trainings(monkeypatch)


def write_masks(folder: Path, count: int) -> tuple[Path, Path]:
    """Toy photos and their masks, which have a frame without label."""
    photos, _, masks = write_set(folder, count)
    for stem, mask in masks.items():
        framed = np.full_like(mask, 255)
        framed[2:-2, 2:-2] = mask[2:-2, 2:-2]
        write_mask(folder / "masks" / f"{stem}.png", framed)
    return photos, folder / "masks"


def test_network_learns_the_masks(tmp_path: Path) -> None:
    photos, masks = write_masks(tmp_path, 18)
    learns = {**FAST, "recipe": RECIPE.replace(epochs=20, head_lr_scale=1.0), "hold_out": 0.2}
    events: list[Event] = []
    result = train_seg(photos, masks, tmp_path / "run", **learns, report=events.append)
    assert result.path == tmp_path / "run" / "seg.safetensors"
    assert result.ok
    assert len(result.done) == 14  # 4 of 18 are held out
    epochs = [record for record in read_records(tmp_path / "run") if record["kind"] == "epoch"]
    assert epochs[-1]["loss"] < 0.5 * epochs[0]["loss"]
    measured = {record["epoch"]: record["miou"] for record in epochs if "miou" in record}
    assert list(measured) == list(range(2, 21, 2))
    assert measured[20] > 0.6 > measured[2]
    assert any("epoch 20/20, photos held out: miou 0." in event.text for event in events)
    metadata = read_metadata(result.path)
    assert (metadata["network"], json.loads(metadata["classes"]), metadata["size"]) == ("lite_seg", list(CLASSES), "75")
    TinySeg(2).load_state_dict(read_state_dict(result.path))
    assert sorted(path.name for path in result.path.parent.iterdir()) == [
        "loss.png", "metrics.jsonl", "run.json", "seg.safetensors"
    ]  # fmt: skip


def test_a_stopped_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    photos, masks = write_masks(tmp_path, 12)
    how = {**FAST, "hold_out": 0.2, "class_weights": "sqrt"}

    def stop(event: Event) -> None:
        if event.kind == "progress" and event.data["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    whole = train_seg(photos, masks, tmp_path / "whole", **how).path
    with pytest.raises(KeyboardInterrupt):
        train_seg(photos, masks, tmp_path / "run", **how, report=stop)
    with pytest.raises(UsageError, match="unfinished training"):
        train_seg(photos, masks, tmp_path / "run", **how)
    with pytest.raises(TrainingError, match="belongs to another training: class_weights sqrt -> none"):
        train_seg(photos, masks, tmp_path / "run", **{**how, "class_weights": "none"}, resume=True)
    resumed = train_seg(photos, masks, tmp_path / "run", **how, resume=True).path
    assert resumed.read_bytes() == whole.read_bytes()
    one, other = (read_records(path.parent) for path in (whole, resumed))
    assert [{**record, "images_per_second": 0} for record in one] == [
        {**record, "images_per_second": 0} for record in other
    ]


def test_loss_is_the_weighted_cross_entropy_of_labelled_pixels() -> None:
    logits = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[[0, 0], [1, 2]], [[255, 1], [255, 255]]], dtype=torch.uint8)
    sure = torch.tensor([[[255, 51], [102, 255]], [[255, 204], [0, 255]]], dtype=torch.uint8)

    class Model(TinySeg):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.min() == x.max() == pytest.approx(-1)  # black, normalised
            return logits

    batch = {"image": torch.zeros(2, 3, 2, 2, dtype=torch.uint8), "labels": labels, "confidence": sure}
    terms = mask_loss([1.0, 2.0, 4.0], 2.0)(Model(2), batch)
    total = weight = hits = 0.0
    for image, y, x in np.ndindex(2, 2, 2):
        label = int(labels[image, y, x])
        if label != 255:
            scale = (1.0, 2.0, 4.0)[label] * (float(sure[image, y, x]) / 255) ** 2
            total -= scale * logits[image, :, y, x].log_softmax(0)[label].item()
            weight += scale
            hits += int(logits[image, :, y, x].argmax()) == label
    assert terms["loss"].item() == pytest.approx(total / weight, rel=1e-5)
    assert terms["accuracy"].item() == pytest.approx(hits / 5)
    nothing = mask_loss([1.0, 1.0, 1.0])(Model(2), {**batch, "labels": torch.full_like(labels, 255)})
    assert nothing["loss"].item() == nothing["accuracy"].item() == 0


def test_weights_balance_the_median_frequency() -> None:
    counts = np.array([[60, 40, 0, 0], [90, 0, 10, 0]])
    assert class_weights(counts, "none") == [1.0] * 4
    # Shares of the pixels of the photos that show them: 0.75, 0.4, 0.1.
    assert class_weights(counts, "median") == pytest.approx([0.4 / 0.75, 1, 4, 1])
    assert class_weights(counts, "sqrt") == pytest.approx([(0.4 / 0.75) ** 0.5, 1, 2, 1])


def test_confidence_is_the_lead_of_the_best_score(tmp_path: Path) -> None:
    mask, powers = tmp_path / "a.png", background_powers()
    assert mask_confidence(mask) is None
    background = np.full((len(powers), 1, 2), 0.2, np.float32)
    scores = np.array([[[0.7, 0.2]], [[0.1, 0.6]]], np.float32)
    file = ScoreFile(np.array([1, 3]), scores, np.array(powers), background, 1.5, (8, 16), (8, 16))
    write_scores(scores_of(mask), file)
    assert mask_confidence(mask) == pytest.approx(np.array([[127.5, 102]]), abs=1)
    empty = ScoreFile(np.zeros(0, int), scores[:0], np.array(powers), background, 1.5, (8, 16), (8, 16))
    write_scores(scores_of(mask), empty)
    assert mask_confidence(mask).tolist() == [[255, 255]]


def test_confidence_needs_saved_scores(tmp_path: Path) -> None:
    photos, masks = write_masks(tmp_path, 4)
    with pytest.raises(UsageError, match=r"masks/scores: no saved scores.*--save-scores"):
        train_seg(photos, masks, tmp_path / "run", **FAST, confidence=1.0)
    powers = background_powers()
    size = np.asarray(Image.open(masks / "toy00.png")).shape
    grid = tuple(-(-side // 8) for side in size)
    file = ScoreFile(
        np.array([1]), np.full((1, *grid), 0.5, np.float32), np.array(powers),
        np.full((len(powers), *grid), 0.5, np.float32), 1.5, size, size,
    )  # fmt: skip
    write_scores(scores_of(masks / "toy00.png"), file)
    events: list[Event] = []
    train_seg(photos, masks, tmp_path / "run", **FAST, confidence=1.0, report=events.append)
    assert any("no saved scores of 3 of 4 masks" in event.text for event in events if event.kind == "warning")


def test_photo_and_mask_are_cut_alike(tmp_path: Path) -> None:
    """Bright squares and their labels stay together, whatever the crop; nothing is labelled outside the photo."""
    rng = np.random.default_rng(0)
    mask = np.repeat(np.repeat(rng.integers(0, 2, (6, 8), np.uint8), 8, 0), 8, 1)
    Image.fromarray(np.stack([mask * 255] * 3, 2)).save(tmp_path / "a.png")
    write_mask(tmp_path / "masks" / "a.png", mask)
    recipe = RECIPE.replace(resize=(40, 120))
    dataset = MaskPhotos(
        [tmp_path / "a.png"], [tmp_path / "masks" / "a.png"], 1, colours=None, confidence=None, mean=(0.5, 0.5, 0.5),
        recipe=recipe,
    )  # fmt: skip
    for epoch in range(12):
        sample, failed = dataset[epoch, 0]
        assert not failed
        image, labels = sample["image"].float().mean(0), sample["labels"]
        assert image.shape == labels.shape == (64, 64)
        assert image[labels == 1].mean() > image[labels == 0].mean() + 100
        assert ((image - 128).abs() < 1)[labels == 255].all()
        assert set(labels.unique().tolist()) <= {0, 1, 255}
    assert torch.equal(dataset[3, 0][0]["image"], dataset[3, 0][0]["image"])


def test_photos_without_a_usable_mask_are_named_and_left_out(tmp_path: Path) -> None:
    photos, masks = write_masks(tmp_path, 10)
    (masks / "toy00.png").unlink()
    (masks / "toy01.png").write_bytes(b"no mask")
    turned = np.asarray(Image.open(masks / "toy02.png")).T
    write_mask(masks / "toy02.png", np.ascontiguousarray(turned))
    write_mask(masks / "toy03.png", np.full_like(np.asarray(Image.open(masks / "toy03.png")), 7))
    (photos / "toy04.png").write_bytes(b"no photo")
    result = train_seg(photos, masks, tmp_path / "run", **FAST, hold_out=0)
    failed = dict(result.failed)
    assert sorted(failed) == ["toy00.png", "toy01.png", "toy02.png", "toy03.png", "toy04.png"]
    assert "no mask in" in failed["toy00.png"]
    assert "EXIF" in failed["toy02.png"]
    assert "found class numbers 7" in failed["toy03.png"]
    assert sorted(result.done) == [f"toy{number:02}.png" for number in range(5, 10)]


def test_classes_come_from_a_file_or_from_beside_the_masks(tmp_path: Path) -> None:
    photos, masks = write_masks(tmp_path, 4)
    asked = {**FAST, "classes": None, "hold_out": 0.0, "recipe": RECIPE.replace(epochs=1)}
    with pytest.raises(UsageError, match="nothing names the classes of these masks"):
        train_seg(photos, masks, tmp_path / "run", **asked)
    (tmp_path / "classes.txt").write_text("square\ndisc\nunicorn\n")
    events: list[Event] = []
    first = train_seg(photos, masks, tmp_path / "first", **asked, report=events.append)
    assert json.loads(read_metadata(first.path)["classes"]) == ["square", "disc", "unicorn"]
    assert any("no mask shows unicorn" in event.text for event in events if event.kind == "warning")
    write_record(masks, "propagate", {}, classes=["box", "ball"])
    second = train_seg(photos, masks, tmp_path / "second", **asked)
    assert json.loads(read_metadata(second.path)["classes"]) == ["box", "ball"]


def test_initial_weights_may_be_of_an_encoder_or_of_other_classes(tmp_path: Path) -> None:
    photos, masks = write_masks(tmp_path, 4)
    torch.manual_seed(5)
    other = TinySeg(4)
    whole, encoder = tmp_path / "whole.safetensors", tmp_path / "encoder.safetensors"
    write_state_dict(whole, other.state_dict())
    write_state_dict(encoder, {name: value for name, value in other.state_dict().items() if "backbone" in name})
    still = RECIPE.replace(backbone_lr_scale=0.0, epochs=1)
    with pytest.raises(CheckpointError, match=r"a classifier for 4 classes .* expected 2"):
        train_seg(photos, masks, tmp_path / "run", **FAST, init=whole)
    for init in (whole, encoder):
        result = train_seg(
            photos, masks, tmp_path / init.stem, **{**FAST, "recipe": still}, init=init, reset_head=init == whole
        )
        state = read_state_dict(result.path)
        assert torch.equal(state["backbone.0.weight"], other.state_dict()["backbone.0.weight"])
        assert state["head.weight"].shape[0] == 3


def test_one_photo_is_too_few_for_batch_norm(tmp_path: Path) -> None:
    photos, masks = write_masks(tmp_path, 3)
    (tmp_path / "list.txt").write_text("toy00\n")
    with pytest.raises(UsageError, match="found 1 photos to train on in batches of 4, expected at least 2"):
        train_seg(photos, masks, tmp_path / "run", **FAST, listing=tmp_path / "list.txt")
    for path in masks.iterdir():
        write_mask(path, np.zeros_like(np.asarray(Image.open(path))))
    with pytest.raises(TrainingError, match="no photo with a class in its mask"):
        train_seg(photos, masks, tmp_path / "run", **FAST)


def test_held_out_photos_are_the_same_for_a_seed() -> None:
    assert hold_out(100, 0.1, 3) == hold_out(100, 0.1, 3) != hold_out(100, 0.1, 4)
    assert len(hold_out(100, 0.1, 3)) == len(set(hold_out(100, 0.1, 3))) == 10
    assert hold_out(1, 0.9, 0) == hold_out(9, 0.05, 0) == []
    assert len(hold_out(100_000, 0.1, 0)) == 500


def test_batch_norm_of_the_decoder_learns_and_that_of_the_encoder_does_not() -> None:
    class Normed(TinySeg):
        def __init__(self) -> None:
            super().__init__(2)
            self.backbone.append(torch.nn.BatchNorm2d(16))

    network = Normed().train()
    assert network.norm.training
    assert not network.backbone[-1].training
    network.fixed_norms = False
    assert network.train().backbone[-1].training
    assert not network.eval().norm.training
    groups = {part: {id(parameter) for parameter in each} for part, each in network.parameter_groups().items()}
    assert groups["backbone"] == {id(parameter) for parameter in network.backbone.parameters()}
    assert id(network.norm.weight) in groups["head"]
