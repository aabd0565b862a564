"""The segmentation network of a model: its own or, if it has none, the head of its CAM network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pixaff.errors import CheckpointError
from pixaff.models import create_cam_network
from pixaff.models.bundle import load_model
from pixaff.models.lite import PRIOR, LiteCam
from pixaff.models.model_folder import SEG, write_bundle
from pixaff.models.segmentation import load_segmentation
from pixaff.settings import Settings

CLASSES = ("red", "blue")


def test_lite_has_a_network_of_its_own() -> None:
    bundle = load_segmentation()
    assert (bundle.name, bundle.file.name) == ("lite_seg", SEG)
    assert (len(bundle.classes), bundle.settings.size) == (20, 384)


def test_a_model_segments_with_the_head_of_its_cam_network(tmp_path: Path) -> None:
    lite = load_model("lite", parts=("cam",))
    cam = lite.cam
    assert isinstance(cam, LiteCam)
    write_bundle(tmp_path, "lite_cam", None, cam, None, lite.classes, Settings())
    bundle = load_segmentation(tmp_path)
    assert (bundle.name, len(bundle.classes), bundle.settings.size) == ("lite_head_seg", 20, 384)
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        rows, seen = cam.segmentation_logits(image), cam(image)
        rows[:, 1:] += PRIOR * torch.log(torch.sigmoid(seen))[:, :, None, None]
        expected = torch.nn.functional.interpolate(rows, size=(64, 96), mode="bilinear", align_corners=False)
        assert torch.allclose(bundle.network(image), expected, atol=1e-4)


def test_a_fitted_model_segments_with_its_head_until_it_has_a_network(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"contains no seg\.safetensors"):
        load_segmentation(tmp_path)
    write_bundle(tmp_path, "lite_cam", None, create_cam_network("lite_cam", 2), None, CLASSES, Settings(size=320))
    bundle = load_segmentation(tmp_path)
    assert (bundle.name, bundle.classes, bundle.settings.size) == ("lite_head_seg", CLASSES, 320)
