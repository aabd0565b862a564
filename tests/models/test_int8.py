from pathlib import Path

import numpy as np
import pytest
import torch

import pixaff
from pixaff.errors import UsageError
from pixaff.io.images import load_image
from pixaff.models import create_model, int8
from pixaff.models import inference as inference_module
from pixaff.models.inference import onnx_network, onnx_networks
from pixaff.models.int8 import FILES, digest, int8_graph, int8_weights, quantized
from pixaff.models.onnx import ExportError

pytest.importorskip("onnxruntime")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photo():
    return load_image(Path(__file__).parents[2] / "examples" / "photos" / "chelsea.jpg", 256)[0]


@pytest.fixture(scope="module")
def lite() -> pixaff.Predictor:
    return pixaff.load("lite", inference="torch")


def test_masks_of_int8_are_nearly_those_of_float32(photo, lite):
    found = pixaff.load("lite", inference="int8")
    assert found.inference == "int8"
    masks = [model.replace(size=256)(photo, labels=["cat"]).mask for model in (lite, found)]
    assert 0.1 < (masks[0] > 0).mean() < 0.95
    assert (masks[0] == masks[1]).mean() > 0.99


def test_segment_in_int8_is_nearly_that_of_float32(photo):
    masks = [pixaff.load_segmenter("lite", inference=name, size=256)(photo).mask for name in ("torch", "int8")]
    assert masks[0].max() > 0
    assert 0.99 < (masks[0] == masks[1]).mean() < 1


def test_weights_of_seven_bits_are_for_processors_that_add_in_sixteen(photo, lite, monkeypatch):
    monkeypatch.setattr(int8, "has_vnni", lambda: False)
    weights = int8_weights(lite.affinity_network)
    integers = [value for name, value in weights.items() if name.endswith(".int8")]
    assert max(np.abs(value).max() for value in integers) == 63
    assert 2 * 255 * 63 < 2**15
    made = onnx_network(lite.affinity_network, int8=True)
    x = lite.affinity_network.preprocess(photo)[None, :, :96, :128]
    with torch.inference_mode():
        expected, found = lite.affinity_network.features(x), made.features(x)
    assert 1e-3 < (found - expected).norm() / expected.norm() < 0.1


@pytest.mark.parametrize("depth", [1, 6])
def test_what_rounding_adds_to_the_mean_is_taken_off_the_bias(depth):
    noise = np.random.default_rng(0)
    weight = noise.normal(size=(6, depth, 3, 3)).astype(np.float32)
    bias, mean = noise.normal(size=6).astype(np.float32), np.full(6, 2, np.float32)
    made = quantized(weight, bias, np.float32(0.02), mean, 127)
    rounded = made["int8"] * made["int8_scale"][:, None, None, None]
    assert np.abs(rounded - weight).max() <= made["int8_scale"].max() / 2 + 1e-6
    output = 2 * weight.sum((1, 2, 3)) + bias
    corrected = 2 * rounded.sum((1, 2, 3)) + made["int32"] * made["int32_scale"]
    np.testing.assert_allclose(corrected, output, atol=0.01)


def test_a_channel_without_weights_keeps_its_bias():
    bias = np.array([0.5, -3.0], np.float32)
    made = quantized(np.zeros((2, 2, 1, 1), np.float32), bias, np.float32(0.02), np.zeros(2, np.float32), 127)
    np.testing.assert_allclose(made["int32"] * made["int32_scale"], bias, rtol=1e-5)


def test_other_weights_have_no_ranges(lite):
    names = sorted({path.stem for path in FILES.iterdir()})
    joint = ["lite_joint", "lite_joint_displacement"]
    assert names == ["lite_affinity", "lite_cam", "lite_cam_seeded", "lite_head", "lite_irn", *joint, "lite_seg"]
    assert int8_graph(lite.cam_network) is not None
    other = create_model("lite_cam", 3)
    assert int8_graph(other) is None
    other.load_state_dict({**lite.cam_network.state_dict(), **{
        name: tensor for name, tensor in other.state_dict().items() if name.startswith(("classifier", "pixel"))
    }})  # fmt: skip
    assert int8_graph(other) is not None  # other classes on the same backbone
    assert digest(other, ["top.conv_head"]) == digest(lite.cam_network, ["top.conv_head"])
    with torch.inference_mode():
        assert onnx_network(other, int8=True)(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    for network in (create_model("lite_affinity"), create_model("vgg16_affinity")):
        with pytest.raises(ExportError, match="known of the model lite alone"):
            onnx_network(network, int8=True)
        with pytest.raises(UsageError, match="int8 needs the ranges"):
            onnx_networks("int8", {"affinity": network}, CPU, "fp32")


@pytest.mark.parametrize("load", [pixaff.load, pixaff.load_segmenter])
@pytest.mark.parametrize(
    ("precision", "inference", "expected"),
    [
        ("fp32", "auto", ("fp32", "onnx")),
        ("fp32", "torch", ("fp32", "torch")),
        ("fp32", "onnx", ("fp32", "onnx")),
        ("fp32", "int8", ("fp32", "int8")),
        ("bf16", "auto", ("bf16", "torch")),
        ("bf16", "torch", ("bf16", "torch")),
        ("bf16", "onnx", None),
        ("bf16", "int8", None),
        ("auto", "onnx", ("fp32", "onnx")),
        ("auto", "int8", ("fp32", "int8")),
    ],
)
def test_precision_and_inference_together(load, precision, inference, expected, monkeypatch):
    monkeypatch.setattr(inference_module, "onnx_network", lambda network, int8: network)
    if expected is None:
        with pytest.raises(UsageError, match="found bf16 on cpu"):
            load("lite", precision=precision, inference=inference)
        return
    made = load("lite", precision=precision, inference=inference)
    assert (made.precision, made.inference) == expected


@pytest.mark.parametrize(("bf16_gains", "expected"), [(1.5, ("bf16", "torch")), (1.0, ("fp32", "onnx"))])
@pytest.mark.parametrize("kind", [pixaff.Predictor, pixaff.Segmenter])
def test_auto_compares_bfloat16_with_what_would_compute_float32(kind, bf16_gains, expected, monkeypatch):
    monkeypatch.setattr(inference_module, "onnx_network", lambda network, int8: network)
    engines = []

    def seconds(self, precision):
        engines.append((precision, self.inference))
        return {"fp32": 1.0, "bf16": 1 / bf16_gains}[precision]

    monkeypatch.setattr(kind, "seconds", seconds)
    load = pixaff.load if kind is pixaff.Predictor else pixaff.load_segmenter
    made = load("lite", precision="auto")
    assert (made.precision, made.inference) == expected
    assert engines == [("fp32", "onnx"), ("bf16", "onnx")]


def test_bfloat16_is_tried_in_pytorch(lite, monkeypatch):
    made = pixaff.load("lite")
    called, joint = [], made._engines["joint"]

    def noted(x, run=joint.everything):
        called.append(1)
        return run(x)

    monkeypatch.setitem(joint.__dict__, "everything", noted)
    made.seconds("bf16")
    assert not called
    made.seconds("fp32")
    assert len(called) == 3
