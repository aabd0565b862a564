"""Networks as ONNX files: the same results in ONNX Runtime, at several sizes, and in a program without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_set import CLASSES, draw

import pixaff
from pixaff.errors import CheckpointError, UsageError
from pixaff.io.checkpoints import write_state_dict
from pixaff.models.model_folder import SEG
from pixaff.models.registry import create_cam_network, create_seg_network
from pixaff.stages.export_onnx import export_onnx

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]
SIZES = ((96, 128), (67, 101), (130, 60))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of train-seg and one of train-cam in one folder, of lite with random weights."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    facts = {"classes": json.dumps(CLASSES), "size": "96"}
    for name, network in (("seg", create_seg_network("lite_seg", 2)), ("cam", create_cam_network("lite_cam", 2))):
        for module in network.modules():  # random statistics, or folding would change nothing
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.8, 1.2)
        write_state_dict(
            folder / f"{name}.safetensors", network.state_dict(), metadata={"network": f"lite_{name}", **facts}
        )
    return folder


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [draw(rng, height, width, (0, 1))[0] for height, width in SIZES]


@torch.inference_mode()
def test_segmentation_network_is_the_same_at_three_sizes_and_without_torch(run: Path, tmp_path: Path) -> None:
    made = export_onnx(run, tmp_path / "seg.onnx")
    assert (made.network, made.outputs, made.opset, made.classes) == ("lite_seg", ("logits",), 17, CLASSES)
    session = onnxruntime.InferenceSession(made.path)
    segmenter = pixaff.load_segmenter(run, device="cpu")
    for image in images():
        x = segmenter.network.preprocess(image)[None]
        (found,) = session.run(None, {"image": x.numpy()})
        expected = segmenter.network(x).numpy()
        assert found.shape == expected.shape == (1, 3, *image.shape[:2])
        assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    Image.fromarray(images()[0]).save(tmp_path / "photo.png")
    example = ROOT / "examples" / "onnx_without_torch.py"
    code = f"import sys, runpy; sys.modules['torch'] = None; runpy.run_path({str(example)!r})"
    arguments = [str(made.path), str(tmp_path / "photo.png"), str(tmp_path / "mask.png")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    same = segmenter.replace(size=96)(tmp_path / "photo.png").mask
    assert mask.shape == same.shape == SIZES[0]
    assert (mask != same).mean() < 0.02
    assert set(done.stdout.split()) == {("background", *CLASSES)[value] for value in np.unique(mask)}


@torch.inference_mode()
def test_cam_network_has_cams_and_logits(run: Path, tmp_path: Path) -> None:
    made = export_onnx(run, tmp_path / "cam.onnx", part="cam")
    assert (made.network, made.outputs) == ("lite_cam", ("cams", "logits"))
    session = onnxruntime.InferenceSession(made.path)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == list(CLASSES)
    assert (json.loads(facts["mean"]), json.loads(facts["bgr"])) == ([0.5, 0.5, 0.5], False)
    network = pixaff.load(run, device="cpu", parts=["cam"]).cam_network
    assert network is not None
    for image in images():
        x = network.preprocess(image)[None]
        for found, expected in zip(session.run(None, {"image": x.numpy()}), (network.cam(x), network(x)), strict=True):
            assert np.abs(found - expected.numpy()).max() < 1e-3 * float(expected.abs().max())


def test_what_cannot_be_exported_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.onnx"):
        export_onnx(run, tmp_path / "model.pt")
    (tmp_path / "there.onnx").write_text("mine")
    with pytest.raises(UsageError, match=r"exists already \(--overwrite replaces it\)"):
        export_onnx(run, tmp_path / "there.onnx")
    with pytest.raises(UsageError, match="part is 'affinity', expected seg or cam"):
        export_onnx(run, tmp_path / "a.onnx", part="affinity")  # type: ignore[arg-type]
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / SEG).write_bytes((run / SEG).read_bytes())
    with pytest.raises(CheckpointError, match="contains neither"):
        export_onnx(tmp_path / "only", tmp_path / "a.onnx", part="cam")
    assert (tmp_path / "there.onnx").read_text() == "mine"
