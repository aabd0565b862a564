"""The paper's recipe for the paper's networks: what learns how fast, what stays, and two steps of each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filled import filled_state
from toy_set import CLASSES, write_set

from pixaff.errors import CheckpointError
from pixaff.events import Event
from pixaff.io.cams import write_cams
from pixaff.io.checkpoints import read_metadata, read_state_dict, write_state_dict
from pixaff.models import create_model
from pixaff.models.base import AFFINITY_RECIPE, CAM_RECIPE, Network
from pixaff.models.registry import affinity_recipe, cam_recipe
from pixaff.stages.train_affinity import pair_loss, train_affinity
from pixaff.stages.train_cam import train_cam
from pixaff.stages.training.optimizer import build_optimizer, parameter_groups, set_lr

RECIPE = affinity_recipe("resnet38_affinity").replace(lr=1e-3)
NETWORKS = ("vgg16", "resnet38")
FROZEN = {"vgg16": ("conv1_", "conv2_"), "resnet38": ("conv1a.", "b2.", "b2_1.", "b2_2.")}


class Pair(Network):
    """Two layers with biases, one of them new."""

    new = ("fc8",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc7, self.fc8 = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)


def test_recipes_are_the_paper_s() -> None:
    for network in NETWORKS:
        cam, affinity = cam_recipe(f"{network}_cam"), affinity_recipe(f"{network}_affinity")
        assert (cam.epochs, cam.batch_size, affinity.epochs, affinity.batch_size) == (15, 16, 8, 8)
        for recipe in (cam, affinity):
            assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.momentum) == ("sgd", 0.1, 5e-4, 5e-4)
            assert (recipe.backbone_lr_scale, recipe.head_lr_scale) == (1.0, 10.0)
    assert (cam_recipe("lite_cam"), affinity_recipe("lite_affinity")) == (CAM_RECIPE, AFFINITY_RECIPE)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", ["cam", "affinity"])
def test_every_parameter_has_its_rate(network: str, kind: str) -> None:
    with torch.device("meta"):
        model = create_model(f"{network}_{kind}").train()
    recipe = cam_recipe(f"{network}_cam") if kind == "cam" else affinity_recipe(f"{network}_affinity")
    optimizer = build_optimizer(recipe, parameter_groups(model, recipe))
    set_lr(optimizer, 0.1, step=1, steps=4)
    decay = 0.75**0.9
    rates = {id(p): (g["lr"] / decay, g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert all(group["momentum"] == 5e-4 for group in optimizer.param_groups)
    new = ("fc8",) if kind == "cam" else ("f8_3", "f8_4", "f8_5", "f9")
    for name, parameter in model.named_parameters():
        layer, _, part = name.rpartition(".")
        if name.startswith(FROZEN[network]) or isinstance(model.get_submodule(layer), torch.nn.BatchNorm2d):
            assert id(parameter) not in rates, name
            assert not parameter.requires_grad
            continue
        rate, decay_of_weights = rates.pop(id(parameter))
        assert rate == pytest.approx((1.0 if layer in new else 0.1) * (2 if part == "bias" else 1)), name
        assert decay_of_weights == (0.0 if part == "bias" else 5e-4)
    assert not rates
    assert not any(module.training for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert any(module.training for module in model.modules() if isinstance(module, torch.nn.Dropout2d))


@pytest.mark.parametrize("network", NETWORKS)
def test_steps_are_those_of_the_published_optimizer_written_out(network: str) -> None:
    """SGD with momentum 5e-4: weights decay and biases do not, new layers learn ten times as fast."""
    recipe, steps = cam_recipe(f"{network}_cam"), 6
    noise = torch.Generator().manual_seed(1)
    faster = {"fc7": 1.0, "fc8": 10.0}
    model = Pair()
    expected = {name: parameter.detach().double().clone() for name, parameter in model.named_parameters()}
    velocity = {name: torch.zeros_like(value) for name, value in expected.items()}
    optimizer = build_optimizer(recipe, parameter_groups(model, recipe))
    for step in range(steps):
        rate = 0.1 * (1 - step / steps) ** 0.9
        set_lr(optimizer, recipe.lr, step, steps)
        for name, parameter in model.named_parameters():
            layer, _, part = name.partition(".")
            parameter.grad = torch.randn(parameter.shape, generator=noise)
            slope = parameter.grad.double() + (0.0 if part == "bias" else 5e-4) * expected[name]
            velocity[name] = slope if step == 0 else 5e-4 * velocity[name] + slope
            expected[name] = expected[name] - rate * faster[layer] * (2 if part == "bias" else 1) * velocity[name]
        optimizer.step()
        for name, parameter in model.named_parameters():
            assert torch.allclose(parameter.double(), expected[name], rtol=1e-5, atol=1e-6), (step, name)
    assert cam_recipe("lite_cam").momentum == affinity_recipe("timm:resnet50:affinity").momentum == 0.9


def start_file(path: Path) -> Path:
    """Weights of a VGG-16 classifier of 20 classes."""
    shapes = {name: tensor.shape for name, tensor in create_model("vgg16_cam").state_dict().items()}
    write_state_dict(path, filled_state(shapes), half=True)
    return path


def test_vgg16_trains_from_a_file_by_the_stages(tmp_path: Path) -> None:
    photos, labels, masks = write_set(tmp_path, 2)
    start = start_file(tmp_path / "start.safetensors")
    said: list[Event] = []
    options = {"init": start, "device": "cpu", "workers": 1, "report": said.append}
    # At 0.1 noise for weights would not survive the first step.
    recipe = replace(cam_recipe("vgg16_cam"), epochs=2, batch_size=2, lr=1e-4)
    sizes = {"network": "vgg16_cam", "recipe": recipe.replace(resize=(48, 64), crop=32)}
    with pytest.raises(CheckpointError, match=r"classifier for 20 classes \(fc8\.weight\), expected 2 .*--reset-head"):
        train_cam(photos, labels, CLASSES, tmp_path / "cam", **sizes, **options)
    cam = train_cam(photos, labels, CLASSES, tmp_path / "cam", reset_head=True, **sizes, **options)
    assert any(event.text.endswith("re-initialised: fc8.weight") for event in said)
    before, after = read_state_dict(start), read_state_dict(cam.path)
    moved = {name for name in after if name != "fc8.weight" and not torch.equal(before[name].float(), after[name])}
    assert moved == {name for name in after if name != "fc8.weight" and not name.startswith(FROZEN["vgg16"])}
    assert after["fc8.weight"].shape == (2, 1024, 1, 1)
    assert read_metadata(cam.path)["network"] == "vgg16_cam"
    record = json.loads((tmp_path / "cam" / "run.json").read_text())
    assert (record["images"], record["settings"]["seed"], record["settings"]["lr"]) == (2, 0, 1e-4)
    assert {"versions", "device", "list"} <= record.keys()

    for stem, mask in masks.items():
        classes = np.unique(np.append(mask, 0))
        scores = np.where(mask == classes[:, None, None], 0.9, 0.05).astype(np.float32)
        for side in ("low", "high"):
            write_cams(tmp_path / side / f"{stem}.npz", classes, scores / scores.sum(0), mask.shape)
    sizes = {"network": "vgg16_affinity", "recipe": recipe.replace(crop=96)}
    affinity = train_affinity(photos, tmp_path / "low", tmp_path / "high", tmp_path / "aff", **sizes, **options)
    notes = [event.text for event in said if event.command == "train-affinity" and event.kind == "note"]
    assert any("re-initialised: f8_3.weight, f8_4.weight" in text and "unused: fc8.weight" in text for text in notes)
    after = read_state_dict(affinity.path)
    assert not torch.equal(before["conv3_1.weight"].float(), after["conv3_1.weight"])
    assert torch.equal(before["conv2_2.weight"].float(), after["conv2_2.weight"])


def test_resnet38_learns_in_two_steps() -> None:
    torch.manual_seed(0)
    model = create_model("resnet38_affinity").train()
    optimizer = build_optimizer(RECIPE, parameter_groups(model, RECIPE))
    labels = torch.zeros(1, 9, 10, dtype=torch.long)
    labels[..., 5:] = 1
    batch = {"image": torch.randn(1, 3, 72, 80), "labels": labels}
    loss_of = pair_loss(5)
    frozen, learnt = model.get_parameter("b2_2.conv_branch2a.weight"), model.get_parameter("b3.conv_branch2a.weight")
    before = frozen.clone(), learnt.clone()
    losses = []
    for step in range(2):
        set_lr(optimizer, 1e-3, step, 2)
        optimizer.zero_grad()
        loss = loss_of(model, batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert torch.equal(frozen, before[0])
    assert not torch.equal(learnt, before[1])
    assert learnt.isfinite().all()
