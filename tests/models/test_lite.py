"""The embedded networks: shapes, the two ways of making CAMs, and what of them is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pixaff.errors import CheckpointError
from pixaff.io.checkpoints import read_state_dict
from pixaff.models import create_affinity_network, create_boundary_network, create_cam_network
from pixaff.models.base import AffinityNetwork, BoundaryNetwork, CamNetwork
from pixaff.models.bundle import shipped_weights
from pixaff.models.registry import create_seg_network
from pixaff.stages.training.starting import load_fitting


@pytest.fixture(scope="module")
def cam() -> CamNetwork:
    torch.manual_seed(0)
    return create_cam_network("lite_cam", 3)


@pytest.fixture(scope="module")
def affinity() -> AffinityNetwork:
    torch.manual_seed(0)
    return create_affinity_network("lite_affinity")


@torch.inference_mode()
@pytest.mark.parametrize("size", [(33, 50), (64, 96), (1, 1)])
def test_shapes(cam: CamNetwork, affinity: AffinityNetwork, size: tuple[int, int]) -> None:
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
def test_logits_are_the_average_of_the_maps_before_relu(cam: CamNetwork) -> None:
    x = torch.randn(2, 3, 48, 64)
    rows = cam.classifier(cam.top(cam.backbone(x)[2]))
    assert torch.allclose(cam(x), rows.mean((2, 3)), atol=1e-5)
    assert torch.equal(cam.cam(x), rows.relu())


@torch.inference_mode()
def test_seeded_maps_are_each_class_s_probability_against_the_background(cam: CamNetwork) -> None:
    x = torch.randn(1, 3, 48, 64)
    odds = cam.segmentation_logits(x).softmax(1)
    assert odds.shape == (1, 4, 3, 4)
    cam.seeded.fill_(True)
    maps = cam.cam(x)
    cam.seeded.fill_(False)
    assert torch.allclose(maps, odds[:, 1:] / (odds[:, 1:] + odds[:, :1]), atol=1e-5)


@torch.inference_mode()
def test_cells_look_at_their_own_pixels(cam: CamNetwork) -> None:
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


def test_training_leaves_batch_norm_and_the_first_stages_alone(cam: CamNetwork) -> None:
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


def test_preprocess_refuses_other_images(cam: CamNetwork) -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\) and uint8, expected uint8 \(H,W,3\)"):
        cam.preprocess(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="float32, expected"):
        cam.preprocess(np.zeros((4, 4, 3), np.float32))


@pytest.fixture(scope="module")
def irn() -> BoundaryNetwork:
    torch.manual_seed(0)
    return create_boundary_network("lite_irn")


@torch.inference_mode()
@pytest.mark.parametrize("size", [(33, 50), (64, 96), (1, 1)])
def test_irn_shapes(irn: BoundaryNetwork, size: tuple[int, int]) -> None:
    height, width = size
    cells = -(-height // 4), -(-width // 4)
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
    logits, displacement = irn(irn.preprocess(image)[None])
    assert (logits.shape, displacement.shape) == ((1, *cells), (1, 2, *cells))
    found = irn.boundaries(image)
    assert (found.edge.shape, found.displacement.shape) == (cells, (2, *cells))
    assert 0 < float(found.edge.min()) <= float(found.edge.max()) < 1


@torch.inference_mode()
def test_irn_levels_are_those_of_the_others_and_finer_ones_in_their_place(
    irn: BoundaryNetwork, affinity: AffinityNetwork
) -> None:
    x = torch.randn(1, 3, 64, 96)
    backbone = create_affinity_network("lite_affinity").backbone
    backbone.load_state_dict(irn.backbone.state_dict())
    levels = irn.backbone.all_levels(x)
    assert [tuple(level.shape[1:]) for level in levels[:2]] == [(16, 16, 24), (24, 16, 24)]
    assert all(torch.equal(one, other) for one, other in zip(levels[2:], backbone(x), strict=True))
    x = torch.zeros(1, 3, 176, 176)
    plain = irn.backbone.all_levels(x)[:2]
    x[:, :, 86:90, 86:90] = 1.0
    for before, after in zip(plain, irn.backbone.all_levels(x)[:2], strict=True):
        change = (after - before).abs().sum(1)[0]
        places = torch.arange(44, dtype=torch.float32)
        for axis in (0, 1):
            weight = change.sum(axis)
            assert abs(float((weight * places).sum() / weight.sum()) - 21.5) < 0.4


def test_irn_training_subtracts_no_mean_and_trains_the_branches_alone(irn: BoundaryNetwork) -> None:
    irn.mean_shift.running_mean.copy_(torch.tensor([3.0, -5.0]))
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        still = irn(x)[1]
        moving = irn.train()(x)[1]
    irn.eval()
    irn.mean_shift.running_mean.zero_()
    assert torch.allclose(moving - still, torch.tensor([3.0, -5.0])[:, None, None].expand_as(still), atol=1e-4)
    names = {name.split(".")[0] for name, _ in irn.named_parameters()}
    assert names - {"backbone"} == set(irn.new)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(33, 50), (64, 96), (1, 1)])
def test_segmentation_network_predicts_every_pixel(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = create_seg_network("lite_seg", 3)
    assert network(torch.randn(1, 3, *size)).shape == (1, 4, *size)
    # Half precision, in the wheel.
    assert 2 * sum(parameter.numel() for parameter in network.parameters()) < 11e6


@torch.inference_mode()
def test_levels_cover_the_image(irn: BoundaryNetwork) -> None:
    x = torch.randn(1, 3, 96, 64)
    for stride, level in zip((4, 4, 8, 16, 16), irn.backbone.all_levels(x), strict=True):
        assert level.shape[2:] == (96 // stride, 64 // stride)
    for stride, level in zip((4, 8, 16, 32), create_seg_network("lite_seg", 1).backbone.own_levels(x), strict=True):
        assert level.shape[2:] == (96 // stride, 64 // stride)


@torch.inference_mode()
def test_segmentation_knows_what_the_whole_image_shows() -> None:
    torch.manual_seed(0)
    network = create_seg_network("lite_seg", 2)
    x = torch.randn(1, 3, 64, 96)
    before = network.cell_logits(x)
    top = network.top(network.backbone.own_levels(x)[-1]).mean((2, 3))[0]
    # The classifier is sure of the second class and against the first one.
    network.classifier.weight[:, :, 0, 0] = torch.stack([-20 * top, 20 * top]) / top.square().sum()
    change = (network.cell_logits(x) - before).mean((0, 2, 3))
    assert change[0] == 0
    assert change[1] < -8
    assert 0 < change[2] < 0.4


def test_segmentation_starts_from_the_layers_of_the_classifier() -> None:
    shipped = read_state_dict(shipped_weights("lite_seg"))
    network = create_seg_network("lite_seg", 20)
    own = network.state_dict()
    encoder = {name for name in own if name.partition(".")[0] in network.encoder}
    assert {name.partition(".")[0] for name in encoder} == {"backbone", "top"}
    assert encoder <= set(shipped)
    assert all(shipped[name].shape == own[name].shape for name in encoder)


@pytest.mark.parametrize("part", ["cam", "seg"])
def test_segmentation_of_other_classes_starts_from_the_weights_in_the_package(part: str) -> None:
    path = shipped_weights("lite_seg").with_name(f"{part}.safetensors")
    with pytest.raises(CheckpointError, match=r"found a classifier for 20 classes \(classifier.*, expected 2 "):
        load_fitting(create_seg_network("lite_seg", 2), path, reset_head=False)
    network = create_seg_network("lite_seg", 2)
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    new, _ = load_fitting(network, path, reset_head=True)
    assert {"classifier.weight", "rows.weight", "rows.bias"} <= set(new)
    assert not any(name.startswith(("backbone.", "top.")) for name in new)
    assert all(torch.equal(network.state_dict()[name], fresh[name]) for name in new)
