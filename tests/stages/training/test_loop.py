"""The loop: optimizer, schedule, records, and above all that a stopped run ends as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toy_set import TinyCam, write_set

from pixaff.device import choose_precision
from pixaff.errors import CheckpointError, TrainingError, UsageError
from pixaff.events import Event
from pixaff.io.images import read_image
from pixaff.recipe import Recipe
from pixaff.run_options import TrainingOptions
from pixaff.stages.training import loop
from pixaff.stages.training.augment import Normalisation
from pixaff.stages.training.checkpoint import Position
from pixaff.stages.training.datasets import CamPhotos
from pixaff.stages.training.folder import Trained
from pixaff.stages.training.loop import train
from pixaff.stages.training.metrics import draw_curve, keep_records, read_records
from pixaff.stages.training.optimizer import build_optimizer, parameter_groups, set_lr

RECIPE = Recipe(epochs=3, batch_size=4, lr=0.05, precision="fp32", seed=3, resize=(60, 100), crop=64)


def soft_margin(model, batch):
    loss = nn.functional.multilabel_soft_margin_loss(model(batch["image"]), batch["target"])
    return {"loss": loss, "twice": 2 * loss}


def run(folder: Path, photos: Path, recipe: Recipe = RECIPE, loss_fn=soft_margin, network="tiny", **options) -> dict:
    """Train a toy network in ``folder``; returns its weights."""
    paths = sorted(photos.iterdir())
    present = [((0,), (1,), (0, 1))[number % 3] for number in range(len(paths))]
    torch.manual_seed(0)
    model = TinyCam(2)
    dataset = CamPhotos(paths, present, 2, normalisation=Normalisation(model.mean, model.std), recipe=recipe)
    result, how = Trained(path=folder / "w.safetensors"), TrainingOptions(device="cpu", **{"workers": 1, **options})
    train(model, dataset, loss_fn, result, recipe, config={"network": network}, run=how)
    return model.state_dict()


def run_and_die(folder: str, photos: str, step: int) -> None:
    """For a process of its own: a run that is killed in the middle of a step, long after the last checkpoint."""

    def kill(event: Event) -> None:
        if event.kind == "progress" and event.data["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    run(Path(folder), Path(photos), save_every=0.0, report=kill)


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def without_speed(records: list[dict]) -> list[dict]:
    return [{name: value for name, value in record.items() if name != "images_per_second"} for record in records]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"), 18)[0]


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """An uninterrupted run: its folder and its weights."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, photos)


def test_loss_falls_and_is_recorded(photos: Path, tmp_path: Path) -> None:
    run(tmp_path, photos, RECIPE.replace(epochs=12, batch_size=6, lr=5e-3, optimizer="adamw", seed=0))
    records = read_records(tmp_path)
    epochs = [record for record in records if record["kind"] == "epoch"]
    assert [record["epoch"] for record in epochs] == list(range(1, 13))
    assert epochs[-1]["loss"] < 0.6 * epochs[0]["loss"]
    steps = [record for record in records if record["kind"] == "steps"]
    assert [record["step"] for record in steps] == [10, 20, 30, 36]
    assert all(record["twice"] == pytest.approx(2 * record["loss"]) for record in records)
    # Both kinds are means of the same 36 losses, weighted by 10, 10, 10, 6 steps and by 3 steps an epoch.
    by_steps = np.average([record["loss"] for record in steps], weights=[10, 10, 10, 6])
    assert by_steps == pytest.approx(np.mean([record["loss"] for record in epochs]))
    assert read_image(tmp_path / "loss.png").std() > 0
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["batch_size"] == 6


def test_progress_names_loss_speed_and_time_left(photos: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    run(tmp_path, photos, report=events.append)
    progress = [event for event in events if event.kind == "progress"]
    assert [event.data["step"] for event in progress] == list(range(1, 13))
    assert progress[-1].data["seconds_left"] == 0 < progress[0].data["seconds_left"]
    assert progress[-1].data["steps"] == progress[-1].total == 12
    assert "epoch 1/3, loss 0." in progress[0].text
    assert "images/s" in progress[0].text
    assert [event.kind for event in events if event.kind in ("begin", "end")] == ["begin", "end"]


def test_killed_run_resumes_to_the_same_bits(photos: Path, whole: tuple[Path, dict], tmp_path: Path) -> None:
    code = f"import test_loop; test_loop.run_and_die({str(tmp_path)!r}, {str(photos)!r}, 7)"
    paths = [str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    # Killed while step 7 was reported: steps 1 to 6 are in the checkpoint.
    torch.set_num_threads(1)
    steps: list[int] = []

    def note(event: Event) -> None:
        if event.kind == "progress":
            steps.append(event.data["step"])

    weights = run(tmp_path, photos, resume=True, report=note)
    assert steps == [7, 8, 9, 10, 11, 12]
    assert same(weights, whole[1])
    assert without_speed(read_records(tmp_path)) == without_speed(read_records(whole[0]))


def test_ctrl_c_saves_between_two_steps(photos: Path, whole: tuple[Path, dict], tmp_path: Path) -> None:
    torch.set_num_threads(1)

    def interrupt(event: Event) -> None:
        if event.kind == "progress" and event.data["step"] == 5:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, photos, report=interrupt, save_every=1e9)
    assert signal.getsignal(signal.SIGINT) is before
    assert same(run(tmp_path, photos, resume=True), whole[1])
    assert without_speed(read_records(tmp_path)) == without_speed(read_records(whole[0]))


def test_records_after_the_checkpoint_are_done_again(photos: Path, whole: tuple[Path, dict], tmp_path: Path) -> None:
    torch.set_num_threads(1)

    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if event.kind == "progress" and event.data["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    def fail(event: Event) -> None:
        if event.kind == "progress" and event.data["step"] == 11:
            raise Stop

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, photos, report=stop)
    with pytest.raises(Stop):  # dies at step 11, with the checkpoint of step 2 and records up to step 10
        run(tmp_path, photos, resume=True, report=fail, save_every=1e9)
    assert [record["step"] for record in read_records(tmp_path)] == [4, 8, 10]
    assert same(run(tmp_path, photos, resume=True), whole[1])
    assert without_speed(read_records(tmp_path)) == without_speed(read_records(whole[0]))


def test_workers_do_not_change_the_result(photos: Path, whole: tuple[Path, dict], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    assert same(run(tmp_path, photos, workers=2), whole[1])


def test_seed_decides_the_result_and_leaves_the_callers_random_numbers(
    photos: Path, whole: tuple[Path, dict], tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    TinyCam(2)
    expected = torch.rand(3)
    again = run(tmp_path / "same", photos)
    assert torch.equal(torch.rand(3), expected)
    assert same(again, whole[1])
    other = run(tmp_path / "other", photos, RECIPE.replace(seed=4))
    assert not same(other, whole[1])


def test_resume_refuses_another_recipe_or_other_photos(photos: Path, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if event.kind == "progress":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, photos, report=stop)
    with pytest.raises(TrainingError, match=r"epochs 3 -> 4, lr 0.05 -> 0.1 \("):
        run(tmp_path, photos, RECIPE.replace(epochs=4, lr=0.1), resume=True)
    with pytest.raises(TrainingError, match="network tiny -> huge"):
        run(tmp_path, photos, resume=True, network="huge")
    torch.save({"model": {}}, tmp_path / "training.pt")
    with pytest.raises(CheckpointError, match=r"training\.pt"):
        run(tmp_path, photos, resume=True)


def test_loss_that_is_not_finite_ends_the_run_before_it_spoils_the_weights(photos: Path, tmp_path: Path) -> None:
    calls = 0

    def bursting(model, batch):
        nonlocal calls
        calls += 1
        return {"loss": soft_margin(model, batch)["loss"] * (float("nan") if calls == 4 else 1.0)}

    with pytest.raises(TrainingError, match=r"the loss is nan at step 4 of 12 \(.*smaller learning rate than 0.05"):
        run(tmp_path, photos, loss_fn=bursting, save_every=0.0)
    state = torch.load(tmp_path / "training.pt", weights_only=True)
    assert state["position"]["step"] == 3
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_photo_that_cannot_be_decoded_is_replaced_and_named_once(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted(photos.iterdir()):
        data = path.read_bytes()
        (folder / path.name).write_bytes(data[: len(data) // 2] if path.stem == "toy05" else data)
    events: list[Event] = []
    result = Trained(path=tmp_path / "run" / "w.safetensors")
    paths = sorted(folder.iterdir())
    model = TinyCam(2)
    normalisation = Normalisation(model.mean, model.std)
    dataset = CamPhotos(paths, [(0,)] * len(paths), 2, normalisation=normalisation, recipe=RECIPE)
    how = TrainingOptions(device="cpu", workers=1, report=events.append)
    train(model, dataset, soft_margin, result, RECIPE, config={}, run=how)
    assert [name for name, _ in result.failed] == ["toy05.png"]
    assert "another photo takes its place" in result.failed[0][1]
    assert sum(event.kind == "failed" for event in events) == 1
    assert len(result.done) == 17


@pytest.mark.parametrize("workers", [1, 2])
def test_no_photo_that_can_be_decoded_is_one_line(photos: Path, tmp_path: Path, workers: int) -> None:
    (tmp_path / "photos").mkdir()
    for path in photos.iterdir():
        (tmp_path / "photos" / path.name).write_bytes(path.read_bytes()[:500])
    with pytest.raises(TrainingError, match=r"^none of the 18 photos can be decoded \(copy or download them again\)$"):
        run(tmp_path / "run", tmp_path / "photos", workers=workers)


def test_groups_follow_the_paper() -> None:
    model = TinyCam(2)
    recipe = Recipe(lr=0.1, weight_decay=5e-4, momentum=0.7)
    groups = parameter_groups(model, recipe)
    optimizer = build_optimizer(recipe, groups)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert set_lr(optimizer, 0.1, 30, 120) == pytest.approx(0.1 * 0.75**0.9)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names.pop(id(parameter))
            scale = (10 if name.startswith("head") else 1) * (2 if name.endswith("bias") else 1)
            assert group["lr"] == pytest.approx(0.1 * 0.75**0.9 * scale)
            assert group["weight_decay"] == (0 if name.endswith("bias") else 5e-4)
            assert group["momentum"] == 0.7
    assert not names
    assert isinstance(build_optimizer(recipe.replace(optimizer="adamw"), groups), torch.optim.AdamW)


def test_frozen_backbone_keeps_its_weights_and_has_no_gradient(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = TinyCam(2).state_dict()
    weights = run(tmp_path, photos, RECIPE.replace(backbone_lr_scale=0.0))
    for name, tensor in weights.items():
        assert torch.equal(tensor, start[name]) == name.startswith("backbone")
    model = TinyCam(2)
    parameter_groups(model, Recipe(backbone_lr_scale=0.0))
    model(torch.rand(1, 3, 32, 32)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["head.weight", "head.bias"]
    with pytest.raises(ValueError, match="no parameter to train"):
        parameter_groups(model, Recipe(backbone_lr_scale=0.0, head_lr_scale=0.0))


def test_clip_norm_bounds_a_step(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = TinyCam(2).state_dict()

    def moved(name: str, clip: float) -> float:
        options = {"epochs": 1, "batch_size": 18, "weight_decay": 0.0, "head_lr_scale": 1.0, "clip_norm": clip}
        weights = run(tmp_path / name, photos, RECIPE.replace(**options))
        return sum(float((weights[n] - start[n]).square().sum()) for n in start) ** 0.5

    # One step of SGD at 0.05; biases move at twice the rate.
    assert moved("clipped", 1e-3) <= 2 * 0.05 * 1e-3 * 1.01
    assert moved("free", 0.0) > 2 * 0.05 * 1e-3 * 1.01


def test_precision_auto_takes_bfloat16_where_it_gains() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu, {"fp32": 1.0, "bf16": 0.5}.__getitem__)[0] == "bf16"
    assert choose_precision("auto", cpu, {"fp32": 1.0, "bf16": 0.9}.__getitem__)[0] == "fp32"
    assert choose_precision("bf16", cpu, {}.__getitem__)[0] == "bf16"  # asked for: nothing is timed


@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_precision_is_said_kept_and_leaves_the_start_as_it_was(photos: Path, tmp_path: Path, precision: str) -> None:
    torch.set_num_threads(1)
    events: list[Event] = []
    recipe = RECIPE.replace(precision=precision)
    weights = run(tmp_path, photos, recipe, save_every=0.0, report=events.append)
    chosen = torch.load(tmp_path / "training.pt", weights_only=True)["position"]["precision"]
    assert any(f"training in {chosen}" in event.text for event in events)
    assert same(weights, run(tmp_path / chosen, photos, RECIPE.replace(precision=chosen)))
    assert next(iter(weights.values())).dtype == torch.float32


def test_records_survive_a_line_that_a_kill_cut_off(tmp_path: Path) -> None:
    lines = [{"kind": "steps", "step": step, "loss": 1.0 / step} for step in (10, 20, 30)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"kind": "steps", "st')
    assert read_records(tmp_path) == lines
    keep_records(tmp_path, 20)
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(json.dumps(line) + "\n" for line in lines[:2])
    draw_curve(tmp_path)
    assert (tmp_path / "loss.png").is_file()


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"optimizer": "adam"}, {"precision": "fp16"}]
    + [{name: -1.0} for name in ("weight_decay", "backbone_lr_scale", "head_lr_scale", "clip_norm")],
)
def test_recipe_refuses_numbers_out_of_range(wrong: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        RECIPE.replace(**wrong)


def test_losses_that_are_read_together_are_checked_and_counted_each() -> None:
    """As on a GPU, where reading one at every step would wait for the device."""
    losses, at = loop._Losses(0.1, 9), Position()
    for step, value in enumerate((1.0, 3.0), 1):
        losses.add(step, {"loss": torch.tensor(value), "bg": torch.tensor(2 * value)})
    losses.read(at)
    losses.read(at)
    assert at.window.values() == at.epoch.values() == {"loss": 2.0, "bg": 4.0}
    losses.add(3, {"loss": torch.tensor(5.0)})
    losses.add(4, {"loss": torch.tensor(float("nan"))})
    losses.add(5, {"loss": torch.tensor(6.0)})
    with pytest.raises(TrainingError, match="the loss is nan at step 4 of 9"):
        losses.read(at)


def test_a_training_is_measured_ten_times_at_most() -> None:
    assert loop.validated_epochs(3) == {1, 2, 3}
    assert loop.validated_epochs(24) == {3, 5, 8, 10, 12, 15, 17, 20, 22, 24}
    assert len(loop.validated_epochs(100)) == 10
