"""Held-out photos: which they are, when they end a training, and that a stopped training still ends the same."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_set import TinyCam, write_set

from pixaff.events import Event
from pixaff.recipe import Recipe, whole_recipe
from pixaff.run_options import TrainingOptions
from pixaff.stages.train_cam import cam_loss
from pixaff.stages.training.augment import Normalisation
from pixaff.stages.training.datasets import CamPhotos
from pixaff.stages.training.folder import Trained
from pixaff.stages.training.held_out import CHECKS, PATIENCE, HeldOut, check_every, split_photos
from pixaff.stages.training.loop import train
from pixaff.stages.training.metrics import read_records

RECIPE = Recipe(epochs=30, batch_size=4, lr=5e-3, optimizer="adamw", precision="fp32", resize=(60, 90), crop=64)


class Script(HeldOut):
    """Held-out photos whose loss is written down beforehand; remembers the weights that it was asked about."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__([], [], 2, RECIPE)
        self.losses, self.seen = losses, []

    def loss(self, model, precision: str) -> float:
        self.seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return self.losses[len(self.seen) - 1]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(write_set(tmp_path_factory.mktemp("set"), 12)[0].iterdir())


def run(folder: Path, photos: list[Path], held_out: HeldOut | None, **options) -> tuple[dict, Trained]:
    """Train a toy network on the photos; its weights and the result."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = TinyCam(2)
    shown = [((0,), (1,), (0, 1))[number % 3] for number in range(len(photos))]
    dataset = CamPhotos(photos, shown, 2, normalisation=Normalisation(model.mean, model.std), recipe=RECIPE)
    result, how = Trained(path=folder / "w.safetensors"), TrainingOptions(device="cpu", workers=1, **options)
    train(model, dataset, cam_loss, result, RECIPE, config={}, run=how, held_out=held_out)
    return model.state_dict(), result


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_photos_are_split_by_seed_and_no_class_gives_much(share: float) -> None:
    rng = np.random.default_rng(1)
    classes = [tuple(np.flatnonzero(rng.random(6) < 1 / (2 + np.arange(6) ** 2)).tolist()) for _ in range(80)]
    kept, held = split_photos(classes, share, 0)
    assert sorted(kept + held) == list(range(80))
    assert split_photos(classes, share, 0) == (kept, held) != split_photos(classes, share, 1)
    assert 3 <= len(held) <= round(share * 80)
    whole, left = (Counter(one for index in part for one in classes[index]) for part in (range(80), kept))
    assert set(left) == set(whole)
    assert all(whole[one] - left[one] <= 2 * share * whole[one] for one in whole)


def test_small_sets_and_rare_classes_keep_their_photos() -> None:
    assert split_photos([(0,)] * 20, 0.1, 0) == (list(range(20)), [])  # two photos say nothing
    assert split_photos([(0,)] * 80, 0, 0)[1] == []
    kept, held = split_photos([(0,)] * 40 + [(1,)] * 4, 0.1, 0)
    assert len(held) == 4
    assert set(range(40, 44)) <= set(kept)
    assert len(split_photos([()] * 20 + [(0,)] * 20, 0.1, 0)[1]) == 4  # negatives may be held out


def test_loss_is_that_of_whole_photos_without_augmentation(photos: list[Path]) -> None:
    torch.manual_seed(3)
    model, shown = TinyCam(2).train(), [(0,), (1,), (0, 1)]
    held_out = HeldOut(photos[:3], shown, 2, RECIPE)
    found = held_out.loss(model, "fp32")
    losses = []
    with torch.no_grad():
        for path, present in zip(photos, shown, strict=False):
            picture = Image.open(path)
            if max(picture.size) > 75:
                factor = 75 / max(picture.size)
                picture = picture.resize([round(side * factor) for side in picture.size], Image.Resampling.LANCZOS)
            p = torch.sigmoid(model(model.preprocess(picture)[None])[0])
            y = torch.tensor([float(one in present) for one in range(2)])
            losses.append(-(y * p.log() + (1 - y) * (1 - p).log()).mean().item())
    assert found == pytest.approx(np.mean(losses), rel=2e-2)  # another filter shrinks the photos here
    assert model.training
    assert held_out.loss(model, "fp32") == found


def test_training_ends_after_the_lowest_loss_and_takes_its_weights(photos: list[Path], tmp_path: Path) -> None:
    events: list[Event] = []
    script = Script([0.5, 0.4, 0.6, 0.5, 0.5, 0.45, 0.1])
    weights, result = run(tmp_path, photos, script, report=events.append)
    every = check_every(90, 3)
    assert every == 5  # 90 steps of 3 an epoch, at most 20 checks
    checks = [record for record in read_records(tmp_path) if record["kind"] == "held-out"]
    assert [record["step"] for record in checks] == [5, 10, 15, 20, 25, 30]
    assert [record["loss"] for record in checks] == script.losses[: 2 + PATIENCE]
    assert all(torch.equal(weights[name], tensor) for name, tensor in script.seen[1].items())
    assert not all(torch.equal(weights[name], tensor) for name, tensor in script.seen[-1].items())
    assert any("after step 10, of 30 done and 90 planned" in event.text for event in events if event.text)
    assert read_records(tmp_path)[-1]["step"] == 30
    assert len(result.done) == 12


def test_a_falling_loss_changes_nothing(photos: list[Path], tmp_path: Path) -> None:
    weights, _ = run(tmp_path / "held", photos, Script([1 / (1 + k) for k in range(CHECKS)]))
    plain, _ = run(tmp_path / "plain", photos, None)
    assert all(torch.equal(weights[name], plain[name]) for name in plain)


def test_a_stopped_training_ends_with_the_same_weights(photos: list[Path], tmp_path: Path) -> None:
    def held_out() -> HeldOut:
        return HeldOut(photos[:3], [(1,), (0,), (0,)], 2, RECIPE)  # wrong labels: their loss soon rises

    whole, _ = run(tmp_path / "whole", photos, held_out())
    steps = [record for record in read_records(tmp_path / "whole") if record["kind"] == "held-out"]
    assert len(steps) < CHECKS - 2

    def interrupt(event: Event) -> None:
        if event.kind == "progress" and event.data["step"] == steps[-1]["step"] - 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", photos, held_out(), report=interrupt)
    resumed, _ = run(tmp_path / "cut", photos, held_out(), resume=True)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    again = [record for record in read_records(tmp_path / "cut") if record["kind"] == "held-out"]
    assert again == steps


def test_photos_that_cannot_be_decoded_do_not_count(photos: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(photos[0].read_bytes()[:200])
    held_out = HeldOut([broken, photos[1]], [(0,), (1,)], 2, RECIPE)
    model = TinyCam(2)
    assert held_out.loss(model, "fp32") == HeldOut([photos[1]], [(1,)], 2, RECIPE).loss(model, "fp32")
    assert [path for path, _ in held_out.failed] == [broken]
    _, result = run(tmp_path / "run", photos, HeldOut([broken], [(0,)], 2, RECIPE))
    assert [name for name, _ in result.failed] == ["broken.png"]
    assert len(result.done) == 12


@pytest.mark.parametrize(("images", "epochs"), [(4, 120), (20, 120), (70, 30), (240, 8), (4000, 8)])
def test_epochs_grow_until_there_are_enough_steps(images: int, epochs: int) -> None:
    recipe = Recipe(epochs=8, min_steps=120, batch_size=16)
    assert recipe.epochs_for(images) == epochs
    steps = images // min(16, images)  # photos left over at the end of an epoch wait for the next one
    assert recipe.epochs_for(images) * steps >= 120
    assert whole_recipe({"epochs": 2}, recipe).epochs_for(images) == 2  # a given number is exact
    assert whole_recipe({"epochs": 2, "min_steps": 120}, recipe).epochs_for(images) == max(2, -(-120 // steps))
