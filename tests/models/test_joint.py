"""A CAM network and a boundary network on one backbone, computed in one pass: the results of each of them alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pixaff
from pixaff.io.images import load_image
from pixaff.models import create_model
from pixaff.models.folding import folded
from pixaff.models.inference import onnx_network
from pixaff.predictor import Predictor

PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "astronaut.jpg"


def networks():
    """The two with random weights, of which no two batch norms are alike."""
    torch.manual_seed(0)
    cam, irn = create_model("lite_cam", 3), create_model("lite_irn")
    for module in cam.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    cam.use_segmentation_head(True)
    irn.mean_shift.running_mean.copy_(torch.tensor([3.0, -2.0]))
    irn.backbone.load_state_dict(cam.backbone.state_dict())
    return cam, irn


@pytest.mark.parametrize("displacement", [False, True])
@pytest.mark.parametrize("engine", [folded, onnx_network])
def test_one_pass_makes_what_each_network_makes(engine, displacement):
    cam, irn = networks()
    joint = cam.joined(irn, displacement)
    x = torch.randn(2, 3, 48, 64)
    with torch.inference_mode():
        expected = (cam.cam(x), cam(x), *irn(x))[: 3 + displacement]
        found = engine(joint).everything(x)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()


def test_networks_that_differ_in_their_backbone_or_have_no_segmentation_head_are_not_joined():
    cam, irn = networks()
    assert cam.joined(create_model("resnet50_irn")) is None
    irn.backbone.net.conv_stem.weight.data[0, 0, 0, 0] += 1
    assert cam.joined(irn) is None
    cam, irn = networks()
    cam.use_segmentation_head(False)
    assert cam.joined(irn) is None
    assert create_model("vgg16_cam", 3).joined(irn) is None


@pytest.fixture(scope="module")
def lite() -> Predictor:
    return pixaff.load("lite", inference="torch", size=160)


def apart(model: Predictor) -> Predictor:
    """The same model whose networks see the photo one after the other."""
    other = model.replace()
    other._networks = {part: network for part, network in model._networks.items() if "joint" not in part}
    return other


@pytest.mark.parametrize(("labels", "instances"), [(["person"], False), (None, True)])
def test_masks_and_instances_are_those_of_networks_that_look_one_after_the_other(lite, labels, instances):
    found, expected = (model(PHOTO, labels, instances=instances) for model in (lite, apart(lite)))
    assert found.walked_size == (160, 160)
    assert found.classes == expected.classes
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    np.testing.assert_allclose(found.walked, expected.walked, atol=1e-4)
    assert (found.mask == expected.mask).mean() > 0.999
    assert found.mask.any()
    if instances:
        assert (found.instances.map == expected.instances.map).mean() > 0.999


def test_a_photo_whose_sides_are_no_multiples_of_a_cell_is_walked_at_the_nearest_size(lite):
    image = load_image(PHOTO, 512)[0][:375, :500]
    model = lite.replace(size=0, steps=4, final_crf=False)
    found, expected = (one(image, ["person"], instances=True) for one in (model, apart(model)))
    assert found.walked_size == (368, 496)
    assert found.walked.shape == (2, 92, 124)
    assert found.cams.shape == (1, 375, 500)
    assert found.mask.shape == found.instances.map.shape == (375, 500)
    assert (found.mask == expected.mask).mean() > 0.999


def noted(part, run, seen):
    """A method of a network that adds the network and the width of its images to a list."""

    def method(x):
        seen.append(f"{part} {x.shape[3]}")
        return run(x)

    return method


def test_one_pass_is_one_pass(lite, monkeypatch):
    seen: list[str] = []
    for part, network in lite._networks.items():
        method = "everything" if "joint" in part else network.exported[0]
        engine = lite._engine(part, type(network))
        monkeypatch.setitem(engine.__dict__, method, noted(part, getattr(engine, method), seen))
    lite(PHOTO)
    assert sorted(seen) == ["cam 80", "joint 160"]
    seen.clear()
    lite.replace(scales=(1.0,))(PHOTO, instances=True)
    assert seen == ["joint_displacement 160"]
    seen.clear()
    lite.replace(scales=(1.0,), walk="psa")(PHOTO, ["person"])
    assert sorted(seen) == ["affinity 160", "cam 160"]


def test_without_mirror_image_or_the_full_size_each_network_looks_for_itself(lite):
    for changes in ({"flip": False}, {"scales": (0.5,)}):
        assert not lite.replace(**changes)._in_one_pass(False)
        assert lite.replace(**changes, steps=4)(PHOTO, ["person"]).mask.any()
