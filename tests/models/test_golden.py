"""The published networks against figures of the authors' implementation, with weights made from names and shapes.

The parts that need no network (walk, CRF, labels, losses) are held against the same figures in their own test files;
`pytest -k golden` runs them all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from filled import filled_state
from numpy.typing import NDArray
from torch import Tensor
from typer.testing import CliRunner

from pixaff.cli.app import app
from pixaff.io.cams import read_cams, write_cams
from pixaff.io.images import read_image
from pixaff.io.labels import VOC_CLASSES
from pixaff.io.masks import read_mask
from pixaff.models import create_affinity_network, create_cam_network, create_model
from pixaff.models.base import AffinityNetwork, CamNetwork
from pixaff.models.registry import preset_settings
from pixaff.ops.cam import normalized_cams
from pixaff.predictor import Predictor

DATA = Path(__file__).parents[1] / "data"
NETWORKS = ("vgg16", "resnet38")
PRESENT = (7, 14)
"""Cat and person, 0-based."""


@dataclass
class Networks:
    name: str
    cam: CamNetwork
    affinity: AffinityNetwork


@pytest.fixture(scope="module", params=NETWORKS)
def networks(request: pytest.FixtureRequest) -> Networks:
    """Both networks of one name; the AffinityNet shares the tensors that are the same."""
    cam, affinity = create_cam_network(f"{request.param}_cam"), create_affinity_network(f"{request.param}_affinity")
    for network in (cam, affinity):
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        known = None if network is cam else cam.state_dict()
        network.load_state_dict(filled_state(shapes, known), assign=True)
    return Networks(request.param, cam, affinity)


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[np.float32]]:
    with np.load(DATA / "reference_golden.npz") as data:
        return {key: data[key] for key in data if key == "cam" or "." in key}


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return read_image(DATA / "crf_image.png")


def close(found: Tensor, expected: NDArray[np.float32]) -> bool:
    """Within 1e-4 of the largest value."""
    values = found.numpy()
    return values.shape == expected.shape and np.abs(values - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("kind", "published"), [("cam", "cls"), ("affinity", "aff")])
def test_names_and_shapes_are_those_of_the_published_weights(network: str, kind: str, published: str) -> None:
    shapes = json.loads((DATA / f"{network}_{published}.shapes.json").read_text())
    with torch.device("meta"):
        own = create_model(f"{network}_{kind}").state_dict()
    assert [(name, list(tensor.shape)) for name, tensor in own.items()] == list(shapes.items())


@torch.inference_mode()
def test_preprocessing_logits_and_activation_maps(networks: Networks, golden: dict, image: NDArray[np.uint8]) -> None:
    x = networks.cam.preprocess(image)
    assert close(x, golden[f"{networks.name}.normalized"])
    assert close(networks.affinity.preprocess(image), golden[f"{networks.name}.normalized"])
    assert close(networks.cam(x[None]), golden[f"{networks.name}.cls_logits"])
    assert close(networks.cam.cam(x[None]), golden[f"{networks.name}.forward_cam"])


def test_multi_scale_maps(networks: Networks, golden: dict, image: NDArray[np.uint8]) -> None:
    found = normalized_cams(networks.cam, image, PRESENT, scales=(1, 0.5, 1.5, 2), flip=True)
    assert close(found, golden[f"{networks.name}.norm_cam"])


@torch.inference_mode()
def test_affinities_walks_and_masks(networks: Networks, golden: dict, image: NDArray[np.uint8]) -> None:
    predictor = Predictor(None, networks.affinity, VOC_CLASSES, preset_settings(f"psa-{networks.name}"))
    affinity = predictor.affinity(image)
    assert close(affinity[None], golden[f"{networks.name}.affinity"])
    cams = dict(zip(PRESENT, golden["cam"], strict=True))
    for alpha in (4, 16, 24, 32):
        walker = predictor.replace(alpha=alpha)
        walked = walker.walk(golden["cam"], affinity)
        assert np.abs(walked.numpy() - golden[f"{networks.name}.rw_alpha{alpha}"]).max() <= 1e-4
        found = walker(image, cams=cams)
        assert np.abs(found.walked - walked.numpy()).max() <= 1e-6
        np.testing.assert_array_equal(found.mask, golden[f"{networks.name}.rw_mask_alpha{alpha}"])


@pytest.mark.parametrize("networks", ["vgg16"], indirect=True)
def test_commands_with_published_weights_write_the_published_maps_and_masks(
    networks: Networks, golden: dict, tmp_path: Path
) -> None:
    image = str(DATA / "crf_image.png")
    for kind in ("cam", "affinity"):
        state = getattr(networks, kind).state_dict()
        torch.save(
            {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / f"{kind}.pth"
        )
    (tmp_path / "labels.csv").write_text("crf_image,cat;person\n")

    def command(name: str, *options: str) -> None:
        given = ["--preset", "psa-vgg16", "--labels", str(tmp_path / "labels.csv"), "--out", str(tmp_path / name)]
        done = CliRunner().invoke(app, [name, image, *given, *options, "--device", "cpu"])
        assert done.exit_code == 0, done.stderr

    command("cam", "--cam-weights", str(tmp_path / "cam.pth"))
    maps = read_cams(tmp_path / "cam" / "crf_image.npz")
    assert maps.classes.tolist() == [8, 15]
    assert np.abs(maps.cams - golden["vgg16.norm_cam"]).max() < 2**-11 + 1e-4  # written as float16

    write_cams(tmp_path / "maps" / "crf_image.npz", [8, 15], golden["cam"], golden["cam"].shape[1:])
    for alpha in (16, 24):
        options = () if alpha == 16 else ("--alpha", str(alpha), "--overwrite")
        weights = ("--affinity-weights", str(tmp_path / "affinity.pth"))
        command("propagate", "--cams", str(tmp_path / "maps"), *weights, *options)
        mask = read_mask(tmp_path / "propagate" / "crf_image.png")
        np.testing.assert_array_equal(mask, golden[f"vgg16.rw_mask_alpha{alpha}"])
