"""Files of weights into networks: what must fit, and what is said where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pixaff.errors import CheckpointError
from pixaff.io.checkpoints import read_state_dict, write_state_dict
from pixaff.models import create_cam_network, create_model, load_checkpoint
from pixaff.models.base import CamNetwork
from pixaff.models.bundle import load_model, shipped_weights
from pixaff.models.segmentation import load_segmentation


@pytest.fixture(scope="module")
def cam() -> CamNetwork:
    torch.manual_seed(0)
    return create_cam_network("lite_cam", 3)


def test_a_checkpoint_must_fit(cam: CamNetwork, tmp_path: Path) -> None:
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
def test_numbers_that_are_no_weights_are_refused(cam: CamNetwork, tmp_path: Path, value: torch.Tensor) -> None:
    state = {**cam.state_dict(), "classifier.weight": value}
    assert value.shape == cam.state_dict()["classifier.weight"].shape
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth: found NaN, .* in classifier\.weight, expected finite"):
        load_checkpoint(create_model("lite_cam", 3), tmp_path / "w.pth")
    torch.save({name: tensor.half() for name, tensor in cam.state_dict().items()}, tmp_path / "half.pth")
    load_checkpoint(create_model("lite_cam", 3), tmp_path / "half.pth")


def test_a_head_of_other_classes_is_named_and_left_alone_on_request(cam: CamNetwork, tmp_path: Path) -> None:
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


def test_files_of_old_versions_lack_counters(cam: CamNetwork, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in cam.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert len(state) < len(cam.state_dict())
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "w.pth")
    loaded = load_checkpoint(create_model("lite_cam", 3), tmp_path / "w.pth").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_models_are_loaded_without_random_numbers() -> None:
    before = torch.get_rng_state()
    loaded = load_model("lite", parts=("cam",)).cam, load_segmentation("lite").network
    assert torch.equal(torch.get_rng_state(), before)
    for name, network in zip(("lite_cam", "lite_seg"), loaded, strict=True):
        state, own = read_state_dict(shipped_weights(name)), network.state_dict()
        assert all(torch.equal(own[each], state[each].to(own[each].dtype)) for each in own)
    assert not torch.equal(create_model("lite_cam").classifier.weight, create_model("lite_cam").classifier.weight)
