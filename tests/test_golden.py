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
from torch import Tensor, nn

from pixaff.io.images import read_image
from pixaff.models import create_model
from pixaff.ops.cam import normalized_cams
from pixaff.ops.walk import random_walk
from pixaff.stages.refine import image_affinity, mask_at_size, probabilities, scores_to_walk

DATA = Path(__file__).parent / "data"
NETWORKS = ("vgg16", "resnet38")
PRESENT = (7, 14)
"""Cat and person, 0-based."""


@dataclass
class Networks:
    name: str
    cam: nn.Module
    affinity: nn.Module


@pytest.fixture(scope="module", params=NETWORKS)
def networks(request: pytest.FixtureRequest) -> Networks:
    """Both networks of one name; the AffinityNet shares the tensors that are the same."""
    cam, affinity = (create_model(f"{request.param}_{kind}") for kind in ("cam", "affinity"))
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
    affinity = image_affinity(networks.affinity, image, radius=5)
    assert close(affinity[None], golden[f"{networks.name}.affinity"])
    maps = torch.from_numpy(golden["cam"])
    for alpha in (4, 16, 24, 32):
        walked = random_walk(scores_to_walk(maps, alpha), affinity, beta=8.0, steps=256, radius=5)
        assert np.abs(walked.numpy() - golden[f"{networks.name}.rw_alpha{alpha}"]).max() <= 1e-4
        scores = probabilities(walked, image.shape[:2])
        mask = mask_at_size(scores, [0, *(index + 1 for index in PRESENT)], image.shape[:2])
        np.testing.assert_array_equal(mask, golden[f"{networks.name}.rw_mask_alpha{alpha}"])
