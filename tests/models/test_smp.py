"""Segmentation networks of segmentation-models-pytorch by name."""

from __future__ import annotations

import pytest
import torch

from pixaff.errors import UsageError
from pixaff.models.registry import create_model, create_seg_network, part_of, seg_recipe

smp = pytest.importorskip("segmentation_models_pytorch")

NAME = "seg:fpn:tu-test_resnet"


@torch.inference_mode()
def test_a_name_stands_for_a_network_with_any_size_of_images() -> None:
    network = create_seg_network(NAME, 3)
    assert network(torch.rand(2, 3, 37, 70)).shape == (2, 4, 37, 70)
    assert part_of(NAME) == "seg"
    assert (network.mean, network.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert seg_recipe(NAME).epochs > 0
    groups = network.parameter_groups()
    assert groups["backbone"]
    assert groups["head"]
    assert create_model("seg:linknet:resnet18", 1).mean == (0.485, 0.456, 0.406)


def test_initial_weights_may_have_timms_names() -> None:
    network = create_seg_network(NAME, 3)
    plain = create_model("timm:test_resnet", 2).backbone.net.state_dict()
    for names in (plain, {f"backbone.net.{name}": tensor for name, tensor in plain.items()}):
        own = network.own_names({**names, "fc.weight": torch.zeros(1)})
        assert set(own) - set(network.state_dict()) == {"encoder.fc.weight"}
        assert {name for name in network.state_dict() if name.startswith("net.encoder.")} <= set(own)
    assert network.own_names(network.state_dict()).keys() == network.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("seg:unet", "expected seg:ARCHITECTURE:ENCODER"),
        ("seg:unett:resnet18", r'no architecture called "unett" \(did you mean unet'),
        ("seg:unet:tu-test_resnett", r'no encoder called "tu-test_resnett" \(did you mean tu-test_resnet'),
        ("seg:fpn:tu-test_vit", "seg:fpn:tu-test_vit cannot be used"),
        ("lite_cam", r"lite_cam is no segmentation network \(choose one, such as lite_seg\)"),
        ("lite_sec", "did you mean lite_seg"),
    ],
)
def test_what_is_no_segmentation_network_is_refused(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        create_seg_network(name)
