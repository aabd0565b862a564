"""The registry, the lite networks and model folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_set import TinyCam, use_tiny

from pixaff.errors import CheckpointError, UsageError
from pixaff.io.checkpoints import write_state_dict
from pixaff.models import create_model, list_models, load_checkpoint
from pixaff.models.bundle import load_model, write_bundle
from pixaff.models.registry import PRESETS
from pixaff.settings import Settings


@pytest.fixture(scope="module")
def cam() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("lite_cam", 3)


@pytest.fixture(scope="module")
def affinity() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("lite_affinity")


def test_names() -> None:
    assert {"lite_cam", "vgg16_cam", "resnet38_cam", "lite_affinity", "vgg16_affinity"} <= set(list_models())
    with pytest.raises(UsageError, match="did you mean lite_cam"):
        create_model("lite_cma")
    with pytest.raises(UsageError, match="expected at least 1"):
        create_model("lite_cam", 0)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(33, 50), (64, 96), (1, 1)])
def test_shapes(cam: torch.nn.Module, affinity: torch.nn.Module, size: tuple[int, int]) -> None:
    height, width = size
    x = cam.preprocess(np.zeros((height, width, 3), np.uint8))[None]
    assert x.shape == (1, 3, height, width)
    assert x.min() == x.max() == -1
    assert cam(x).shape == (1, 3)
    maps = cam.cam(x)
    assert maps.shape == (1, 3, -(-height // 16), -(-width // 16))
    assert maps.min() >= 0
    assert affinity.features(x).shape == (1, 448, -(-height // 8), -(-width // 8))


@torch.inference_mode()
def test_logits_are_the_average_of_the_maps_before_relu(cam: torch.nn.Module) -> None:
    x = torch.randn(2, 3, 48, 64)
    rows = cam.classifier(cam.top(cam.backbone(x)[2]))
    assert torch.allclose(cam(x), rows.mean((2, 3)), atol=1e-5)
    assert torch.equal(cam.cam(x), rows.relu())


@torch.inference_mode()
def test_seeded_maps_are_each_class_s_probability_against_the_background(cam: torch.nn.Module) -> None:
    x = torch.randn(1, 3, 48, 64)
    odds = cam.segmentation_logits(x).softmax(1)
    assert odds.shape == (1, 4, 3, 4)
    cam.seeded.fill_(True)
    maps = cam.cam(x)
    cam.seeded.fill_(False)
    assert torch.allclose(maps, odds[:, 1:] / (odds[:, 1:] + odds[:, :1]), atol=1e-5)


@torch.inference_mode()
def test_cells_look_at_their_own_pixels(cam: torch.nn.Module) -> None:
    """The network is blind to left and right up to its convolutions: a spot in the middle stays in the middle."""
    x = torch.zeros(1, 3, 176, 176)
    plain = [level.abs().sum(1) for level in cam.backbone(x)]
    x[:, :, 86:90, 86:90] = 1.0
    spot = [level.abs().sum(1) for level in cam.backbone(x)]
    for before, after, stride in zip(plain, spot, (8, 16, 16), strict=True):
        change = (after - before).abs()[0]
        places = torch.arange(change.shape[0], dtype=torch.float32)
        middle = (change.shape[0] - 1) / 2
        for axis in (0, 1):
            weight = change.sum(axis)
            # Without the padding at the left and top this is 7.5 pixels at stride 16.
            assert stride * abs(float((weight * places).sum() / weight.sum()) - middle) < 5


def test_training_leaves_batch_norm_and_the_first_stages_alone(cam: torch.nn.Module) -> None:
    cam.train()
    training = [name for name, m in cam.named_modules() if isinstance(m, torch.nn.BatchNorm2d) and m.training]
    assert training == ["pixel.norm"]
    groups = cam.parameter_groups()
    head = {id(p) for p in groups["head"]}
    assert {name.split(".")[0] for name, p in cam.named_parameters() if id(p) in head} == {"classifier", "pixel"}
    trained = {id(p) for p in groups["backbone"]}
    frozen = [name for name, p in cam.named_parameters() if id(p) not in trained | head]
    assert frozen
    assert all(
        name.startswith(("backbone.net.conv_stem", "backbone.net.bn1", "backbone.net.blocks")) for name in frozen
    )
    cam.eval()


def test_preprocess_refuses_other_images(cam: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\) and uint8, expected uint8 \(H,W,3\)"):
        cam.preprocess(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="float32, expected"):
        cam.preprocess(np.zeros((4, 4, 3), np.float32))


def test_a_checkpoint_must_fit(cam: torch.nn.Module, tmp_path: Path) -> None:
    state = dict(cam.state_dict())
    state.pop("classifier.weight")
    state["head.weight"] = torch.zeros(1)
    state["top.bn2.bias"] = torch.zeros(2)
    write_state_dict(tmp_path / "w.safetensors", state)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(create_model("lite_cam", 3), tmp_path / "w.safetensors")
    text = str(caught.value)
    assert "1 missing (classifier.weight)" in text
    assert "1 unknown (head.weight)" in text
    assert "top.bn2.bias (2,) instead of (1280,)" in text


@pytest.mark.parametrize(
    "value",
    [
        torch.full((3, 1280, 1, 1), torch.nan),
        torch.ones(3, 1280, 1, 1).index_fill(1, torch.tensor(7), -torch.inf),
        torch.ones(3, 1280, 1, 1, dtype=torch.int8),
        torch.ones(3, 1280, 1, 1, dtype=torch.complex64),
    ],
)
def test_numbers_that_are_no_weights_are_refused(cam: torch.nn.Module, tmp_path: Path, value: torch.Tensor) -> None:
    state = {**cam.state_dict(), "classifier.weight": value}
    assert value.shape == cam.state_dict()["classifier.weight"].shape
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth: found NaN, .* in classifier\.weight, expected finite"):
        load_checkpoint(create_model("lite_cam", 3), tmp_path / "w.pth")
    torch.save({name: tensor.half() for name, tensor in cam.state_dict().items()}, tmp_path / "half.pth")
    load_checkpoint(create_model("lite_cam", 3), tmp_path / "half.pth")


def test_a_head_of_other_classes_is_named_and_left_alone_on_request(cam: torch.nn.Module, tmp_path: Path) -> None:
    write_state_dict(tmp_path / "w.safetensors", cam.state_dict())
    other = create_model("lite_cam", 5)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"for 3 classes \(classifier\.weight, pixel\.rows\.weight, .*expected 5"):
        load_checkpoint(other, tmp_path / "w.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())
    load_checkpoint(other, tmp_path / "w.safetensors", reset_head=True)
    rows = {"classifier.weight", "pixel.rows.weight", "pixel.rows.bias"}
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, before[name] if name in rows else cam.state_dict()[name])


def test_files_of_old_versions_lack_counters(cam: torch.nn.Module, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in cam.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert len(state) < len(cam.state_dict())
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "w.pth")
    loaded = load_checkpoint(create_model("lite_cam", 3), tmp_path / "w.pth").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_a_model_folder_comes_back_as_it_was(cam: torch.nn.Module, affinity: torch.nn.Module, tmp_path: Path) -> None:
    settings = Settings(alpha=2.5, scales=(1.0, 0.5))
    write_bundle(tmp_path, "lite_cam", "lite_affinity", cam, affinity, ["a", "b", "c"], settings)
    bundle = load_model(tmp_path)
    assert bundle.classes == ("a", "b", "c")
    assert bundle.settings == settings
    for network, loaded in ((cam, bundle.cam), (affinity, bundle.affinity)):
        assert loaded is not None
        assert not loaded.training
        expected = network.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_a_folder_without_a_model_and_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds neither model\.json nor cam\.safetensors"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be understood"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"format": 1, "classes": ["a"], "settings": {"alhpa": 1}}))
    with pytest.raises(CheckpointError, match="alhpa"):
        load_model(tmp_path)


def test_the_folder_of_a_training_is_a_model_without_affinities(cam: torch.nn.Module, tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    weights = tmp_path / "cam.safetensors"
    write_state_dict(weights, cam.state_dict(), metadata={"network": "lite_cam", "classes": json.dumps(names)})
    bundle = load_model(tmp_path)
    assert bundle.classes == tuple(names)
    assert bundle.affinity is None
    write_state_dict(weights, cam.state_dict())
    with pytest.raises(CheckpointError, match="does not say which network"):
        load_model(tmp_path)


def test_a_training_of_a_published_network_takes_its_preset_s_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny(monkeypatch)
    names = {"network": "resnet38_cam", "classes": json.dumps(["a", "b"])}
    write_state_dict(tmp_path / "cam.safetensors", TinyCam(2).state_dict(), metadata=names)
    assert load_model(tmp_path).settings == PRESETS["psa-resnet38"]
