import pytest
import torch
from torch import nn

from pixaff.errors import PixaffError
from pixaff.models import create_model
from pixaff.models import onnx as exporting
from pixaff.models.onnx import ExportError, check_graph, export_onnx, onnx_graph

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def test_a_file_runs_without_pytorch_on_images_of_any_size(tmp_path):
    torch.manual_seed(0)
    network = create_model("lite_cam", 3)
    path = tmp_path / "cam.onnx"
    about = {"classes": "cat\ndog\ncow"}
    export_onnx(network, path, methods=["cam", "forward"], outputs=["cams", "logits"], metadata=about)
    session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs() + session.get_outputs()] == ["image", "cams", "logits"]
    assert session.get_modelmeta().custom_metadata_map == about
    for shape in ((1, 3, 100, 70), (2, 3, 33, 81)):
        x = torch.randn(shape)
        with torch.no_grad():
            expected = network.cam(x)
        (found,) = session.run(["cams"], {"image": x.numpy()})
        assert expected.max() > 0
        assert torch.allclose(torch.from_numpy(found), expected, atol=1e-4 * float(expected.max()))


class Toy(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.body = body

    def forward(self, x):
        return self.body(self.conv(x))


def test_any_module_can_be_written(tmp_path):
    export_onnx(Toy(nn.ReLU()).eval(), tmp_path / "toy.onnx")
    assert (tmp_path / "toy.onnx").stat().st_size > 400


class Negative(nn.Module):
    def forward(self, x):
        return x[:, :, : -(-x.shape[2] // 8)]  # ONNX rounds it towards zero


def test_a_graph_that_makes_something_else_is_refused(tmp_path):
    network = Toy(Negative()).eval()
    with pytest.raises(ExportError, match="Toy: ONNX Runtime makes"):
        export_onnx(network, tmp_path / "toy.onnx")
    other = Toy(nn.ReLU()).eval()
    with pytest.raises(ExportError, match="off by"):
        check_graph(onnx_graph(other), Toy(nn.ReLU()).eval())
    assert not list(tmp_path.iterdir())


class Unknown(nn.Module):
    def forward(self, x):
        return nn.functional.interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True)


def test_an_operator_that_onnx_lacks_costs_one_line(tmp_path, capfd):
    with pytest.raises(ExportError, match=r"ONNX Runtime refuses Toy: .*bicubic2d_aa") as caught:
        export_onnx(Toy(Unknown()).eval(), tmp_path / "toy.onnx")
    assert "\n" not in caught.value.message
    assert capfd.readouterr().out == ""


def test_missing_packages_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None if name == "onnx" else object())
    with pytest.raises(PixaffError, match="onnx is not installed") as caught:
        export_onnx(Toy(nn.ReLU()).eval(), tmp_path / "toy.onnx")
    assert "pixaff[onnx]" in caught.value.hint


class Padded(nn.Module):
    """Zeros at some sides before a convolution that has its own, one in use elsewhere, and one that is not of zeros."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, stride=2, padding=(1, 0)) for _ in range(3))

    def forward(self, x):
        x = nn.functional.elu(self.first(nn.functional.pad(x, (0, 1, 2, 3))))
        twice = nn.functional.pad(x, (1, 0, 1, 0))
        x = self.second(twice) + nn.functional.avg_pool2d(twice, 2)[:, :, :1, :1]
        return self.third(nn.functional.pad(x, (1, 1, 1, 1), value=2.0))


def test_convolutions_pad_their_maps_themselves_where_that_is_the_same():
    import onnx

    network = Padded().eval()
    graph = onnx_graph(network)
    nodes = onnx.load_model_from_string(graph).graph.node
    assert [node.op_type for node in nodes].count("Pad") == 2
    assert "Elu" not in [node.op_type for node in nodes]
    assert list(next(one.ints for one in nodes[0].attribute if one.name == "pads")) == [3, 0, 4, 1]
    check_graph(graph, network)
