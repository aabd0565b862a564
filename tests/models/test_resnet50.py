"""IRN's networks against figures of the published implementation, with weights made from names and shapes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from filled import filled_state
from irn_figures import DATA, IMAGE, PRESENT, irn_figures
from torch import Tensor, nn

from pixaff.errors import CheckpointError, UsageError
from pixaff.io.images import read_image
from pixaff.models import create_affinity_network, create_boundary_network, create_cam_network, create_model
from pixaff.models import load_checkpoint as load
from pixaff.models.loading import load_state
from pixaff.models.recognise import count_classes, recognised
from pixaff.models.resnet50 import ResNet50Cam, ResNet50Irn
from pixaff.ops.labels import reduced_label_map
from pixaff.ops.losses import boundary_loss, displacement_loss

NETWORKS = {"cam": "resnet50_cam", "irn": "resnet50_irn"}


def published(part: str) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Shapes by name, and for every further name the one whose tensor it repeats."""
    found = json.loads(gzip.decompress((DATA / f"irn_{part}.shapes.json.gz").read_bytes()))
    return found["shapes"], found["aliases"]


@pytest.fixture(scope="module")
def cam() -> ResNet50Cam:
    model = create_model("resnet50_cam")
    model.load_state_dict(filled_state(published("cam")[0]), assign=True)
    assert isinstance(model, ResNet50Cam)
    return model


@pytest.fixture(scope="module")
def irn(cam: ResNet50Cam) -> ResNet50Irn:
    model = create_model("resnet50_irn")
    model.load_state_dict(filled_state(published("irn")[0], cam.state_dict()), assign=True)
    assert isinstance(model, ResNet50Irn)
    return model


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return read_image(IMAGE)


def check(found: Tensor, name: str) -> None:
    """Within 1e-5 of the largest value, ten times closer than asked for: no kernel rounds without need."""
    expected = irn_figures()[name]
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), name


@pytest.mark.parametrize("part", NETWORKS)
def test_irn_names_and_shapes_are_those_of_the_published_weights(part: str) -> None:
    with torch.device("meta"):
        own = create_model(NETWORKS[part]).state_dict()
    assert [(name, list(tensor.shape)) for name, tensor in own.items()] == list(published(part)[0].items())


@torch.inference_mode()
def test_irn_logits_and_cams(cam: ResNet50Cam, image: np.ndarray) -> None:
    x = cam.preprocess(image)
    check(x, "normalized")
    check(cam(x[None]), "cls_logits")
    maps = cam.cam(torch.stack([x, x.flip(2)]))
    check(maps[0] + maps[1].flip(2), "forward_cam")
    cams = cam.irn_cams(image, PRESENT)
    check(cams.cam, "cam")
    check(cams.high_res, "high_res")
    assert torch.equal(cam.normalized_cams(image, PRESENT), cams.high_res)


def test_irn_boundaries(irn: ResNet50Irn, image: np.ndarray) -> None:
    found = irn.to(memory_format=torch.channels_last).boundaries(image)
    check(found.edge, "edge")
    check(found.displacement, "displacement")


def test_irn_losses(irn: ResNet50Irn, image: np.ndarray) -> None:
    """One step of a training: terms as published, and gradients of the two branches alone."""
    figures = irn_figures()
    crop = nn.functional.pad(irn.preprocess(image)[None, :, :128, :128], (0, 0, 0, 30))
    labels = reduced_label_map(figures["loss.label"])[None]
    irn.train()
    logits, displacement = irn(crop)
    boundary = boundary_loss(logits.sigmoid(), labels)
    moved = displacement_loss(displacement, labels)
    total = boundary.total + moved.total
    terms = {"bg": boundary.bg, "fg": boundary.fg, "neg": boundary.neg, "dp_fg": moved.fg, "dp_bg": moved.bg}
    for name, term in {**terms, "total": total}.items():
        assert term.item() == pytest.approx(figures[f"loss.{name}"].item(), rel=1e-4), name
    total.backward()
    learning = {name.partition(".")[0] for name, one in irn.named_parameters() if one.grad is not None}
    irn.zero_grad(set_to_none=True)
    irn.eval()
    assert learning == {*(f"fc_edge{n}" for n in range(1, 7)), *(f"fc_dp{n}" for n in range(1, 8))}


def test_irn_mean_displacement_is_subtracted_but_not_in_training(irn: ResNet50Irn) -> None:
    x = torch.randn(1, 3, 40, 50)
    assert irn.mean_shift.running_mean.abs().max() > 0
    with torch.no_grad():
        seen, trained = irn(x)[1], irn.train()(x)[1]
    irn.eval()
    torch.testing.assert_close(trained - seen, irn.mean_shift.running_mean[None, :, None, None].expand_as(seen))


def test_irn_what_is_trained(cam: ResNet50Cam, irn: ResNet50Irn) -> None:
    groups = irn.parameter_groups()
    names = {id(one): name for name, one in irn.named_parameters()}
    assert {names[id(one)].partition(".")[0] for one in groups["head"]} == {f"fc_dp{n}" for n in range(1, 8)}
    assert {names[id(one)].partition(".")[0] for one in groups["backbone"]} == {f"fc_edge{n}" for n in range(1, 7)}
    trained = {name for name, one in cam.named_parameters() if one.requires_grad}
    frozen = {name for name, _ in cam.named_parameters()} - trained
    assert all(name.startswith(("resnet50.layer3", "resnet50.layer4", "classifier")) for name in trained)
    assert all(
        name.startswith(("resnet50.conv1", "resnet50.bn1", "resnet50.layer1", "resnet50.layer2")) for name in frozen
    )
    assert "resnet50.layer3.0.bn1.weight" in trained
    assert not any(one.training for one in cam.train().modules() if isinstance(one, nn.BatchNorm2d))
    cam.eval()


@torch.inference_mode()
@pytest.mark.parametrize("size", [(33, 50), (64, 95), (1, 1), (17, 161)])
def test_sizes_of_maps(cam: ResNet50Cam, irn: ResNet50Irn, size: tuple[int, int]) -> None:
    height, width = size
    x = torch.randn(2, 3, height, width)
    assert cam.cam(x).shape == (2, 20, -(-height // 16), -(-width // 16))
    logits, displacement = irn(x)
    assert logits.shape == (2, -(-height // 4), -(-width // 4))
    assert displacement.shape == (2, 2, -(-height // 4), -(-width // 4))
    cams = cam.irn_cams(np.zeros((height, width, 3), np.uint8), [3], scales=(1.0,))
    assert cams.cam.shape == (1, -(-height // 4), -(-width // 4))
    assert cams.high_res.shape == (1, height, width)


@pytest.mark.parametrize(
    ("size", "padded"),
    [((98, 131), (512, 512)), ((512, 512), (512, 512)), ((513, 500), (544, 512)), ((700, 1000), (704, 1024))],
)
def test_irn_larger_photos_are_padded_and_not_cut(
    irn: ResNet50Irn, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], padded: tuple[int, int]
) -> None:
    """A network that copies the red and green of its cells shows which pixels it was given, and where."""
    seen = []

    def copy(x: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(tuple(x.shape))
        return x[:, 0, ::4, ::4], x[:, :2, ::4, ::4]

    monkeypatch.setattr(irn, "forward", copy)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = irn.boundaries(image)
    assert seen == [(2, 3, *padded)]
    x = irn.preprocess(image)
    mirrored = x.flip(2)[0, ::4, ::4].flip(1)
    torch.testing.assert_close(found.edge, torch.sigmoid((x[0, ::4, ::4] + mirrored) / 2))
    torch.testing.assert_close(found.displacement, x[:2, ::4, ::4])


def whole_file(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All names of a published file, and what its training leaves there."""
    leftover = {f"path_indices_{n}": torch.zeros(2, 3, dtype=torch.int64) for n in range(3)}
    aliases = {alias: state[own] for alias, own in published(part)[1].items()}
    return {**state, **aliases, **leftover, "disp_target": torch.zeros(1, 2)}


@pytest.mark.parametrize("part", NETWORKS)
def test_irn_every_published_name_is_known(part: str) -> None:
    shapes, aliases = published(part)
    with torch.device("meta"):
        model = create_model(NETWORKS[part])
    state = {name: torch.tensor(float(number)) for number, name in enumerate(shapes)}
    assert model.adapted_state(whole_file(part, state)) == state
    assert len(aliases) > 600
    for start in ("stage", "backbone", "newly_added", "edge_layers", "dp_layers"):
        names = [alias for alias in aliases if alias.startswith(start)]
        found = model.adapted_state({alias: state[aliases[alias]] for alias in names})
        assert found == {aliases[alias]: state[aliases[alias]] for alias in names}


def test_irn_published_file_loads(irn: ResNet50Irn, tmp_path: Path) -> None:
    torch.save({f"module.{name}": one for name, one in whole_file("irn", irn.state_dict()).items()}, tmp_path / "w.pth")
    assert (tmp_path / "w.pth").stat().st_size < 120e6  # each tensor once
    found = load(create_boundary_network("resnet50_irn"), tmp_path / "w.pth").state_dict()
    for name, tensor in irn.state_dict().items():
        assert torch.equal(found[name], tensor), name


def test_irn_subsets_of_the_names_load(cam: ResNet50Cam) -> None:
    state = cam.state_dict()
    for kept in (("stage", "newly_added"), ("backbone", "newly_added"), ("stage1", "resnet50", "classifier")):
        whole = whole_file("cam", state)
        subset = {name: tensor.clone() for name, tensor in whole.items() if name.startswith(kept)}
        found = load_state(create_cam_network("resnet50_cam"), subset, "w.pth").state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    subset.pop("classifier.weight")
    with pytest.raises(CheckpointError, match=r"w\.pth: .*1 missing \(classifier\.weight\)"):
        load_state(create_cam_network("resnet50_cam"), subset, "w.pth")


def test_irn_names_that_disagree_are_refused(cam: ResNet50Cam) -> None:
    state = whole_file("cam", cam.state_dict())
    state["stage2.0.0.bn1.bias"] = state["stage2.0.0.bn1.bias"] + 1
    words = (
        r"w\.pth: found different tensors in resnet50\.layer2\.0\.bn1\.bias and stage2\.0\.0\.bn1\.bias, expected one"
    )
    with pytest.raises(CheckpointError, match=words):
        load_state(create_cam_network("resnet50_cam"), state, "w.pth")
    state["stage2.0.0.bn1.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError, match="found different tensors"):
        load_state(create_cam_network("resnet50_cam"), state, "w.pth")


def test_irn_files_are_told_apart_and_their_classes_counted() -> None:
    states = {}
    for part, name in NETWORKS.items():
        with torch.device("meta"):
            own = create_model(name, 5).state_dict()
        states[part] = whole_file(
            part, {key: torch.zeros((), dtype=one.dtype).expand_as(one) for key, one in own.items()}
        )
        assert recognised(states[part], list(NETWORKS.values())) == name
    subset = {name: one for name, one in states["cam"].items() if name.startswith(("stage", "newly_added"))}
    assert "newly_added.0.weight" in subset
    assert count_classes("resnet50_cam", states["cam"]) == count_classes("resnet50_cam", subset) == 5


@pytest.mark.parametrize("name", NETWORKS.values())
def test_irn_starts_from_imagenet_weights(name: str) -> None:
    from torchvision.models import resnet50

    with torch.device("meta"):
        model, start = create_model(name), resnet50().state_dict()
    own = model.own_names(start)
    expected = {key: one.shape for key, one in model.state_dict().items() if key.startswith("resnet50.")}
    assert {key: one.shape for key, one in own.items() if key in expected} == expected
    assert set(own) - set(expected) == {"fc.weight", "fc.bias"}
    assert model.own_names(own) == own


def test_irn_in_the_registry() -> None:
    with torch.device("meta"):
        assert create_cam_network("resnet50_cam", 3)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    with pytest.raises(UsageError, match=r"resnet50_irn is not an AffinityNet.*such as lite_affinity"):
        create_affinity_network("resnet50_irn")
    with pytest.raises(UsageError, match=r"resnet50_irn makes no CAMs.*resnet50_cam"):
        create_cam_network("resnet50_irn")
    for other, own in (("resnet50_cam", "resnet50_irn"), ("lite_affinity", "lite_irn"), ("timm:resnet18", "_irn")):
        with pytest.raises(UsageError, match=rf"predicts no boundaries.*such as \w*{own}"):
            create_boundary_network(other)
    with pytest.raises(UsageError, match="no network is called"):
        create_model("resnet50_affinity")
