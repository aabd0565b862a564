import threading

import pytest
import torch
from torch import nn

from pixaff.models import create_model, inference
from pixaff.models import onnx as exporting
from pixaff.models.inference import GRAPHS, SUFFIX, onnx_network, write_graphs
from pixaff.models.onnx import ExportError

pytest.importorskip("onnxruntime")
LITE = [("lite_cam", 20, False), ("lite_cam", 20, True), ("lite_cam", 3, True), ("lite_affinity", 20, False)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PIXAFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "onnx"


def shaken(name, classes=3):
    """A network whose weights are noise, batch norm included, of a size that keeps the values in range."""
    torch.manual_seed(0)
    network = create_model(name, classes)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    return network.to(memory_format=torch.channels_last)


def assert_equal(network, made, tolerance=1e-4):
    for shape in ((1, 3, 64, 96), (2, 3, 57, 41)):
        x = torch.randn(shape)
        for method in network.exported:
            with torch.inference_mode():
                expected, found = getattr(network, method)(x), getattr(made, method)(x)
            assert found.shape == expected.shape
            assert expected.abs().max() > 0
            assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize(("name", "classes", "seeded"), LITE)
def test_the_graphs_of_lite_need_nothing_but_onnx_runtime(name, classes, seeded, cache, monkeypatch):
    monkeypatch.setattr(inference, "onnx_graph", lambda *_: pytest.fail("exported"))
    network = shaken(name, classes)
    if name == "lite_cam":
        network.use_segmentation_head(seeded)
    assert_equal(network, onnx_network(network))
    assert not cache.exists()


def test_the_graphs_that_are_shipped_are_what_the_networks_make_now(tmp_path):
    """After a change of a network: python -m pixaff.models.inference."""
    pytest.importorskip("onnx")
    import onnx

    write_graphs(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in GRAPHS.iterdir())
    for name in names:
        new, old = (onnx.load_model_from_string((folder / name).read_bytes()).graph for folder in (tmp_path, GRAPHS))
        assert [node.op_type for node in new.node] == [node.op_type for node in old.node]
        assert sorted(one.name for one in new.initializer) == sorted(one.name for one in old.initializer)


@pytest.mark.parametrize(
    "name",
    ["timm:test_resnet", "timm:test_resnet:affinity", "vgg16_cam", "vgg16_affinity", "resnet50_cam", "hybrid_affinity"],
)
def test_every_network_makes_what_it_makes_in_pytorch(name, cache):
    pytest.importorskip("onnx")
    network = shaken(name)
    made = onnx_network(network)
    # The square root of VGG-16's maps makes much of rounding where they are almost 0.
    assert_equal(network, made, 5e-3 if name == "vgg16_cam" else 1e-4)
    assert made.mean == network.mean
    (path,) = cache.iterdir()
    if name.startswith(("timm:", "vgg16")):  # the hybrid's convolutions compute their weights
        assert path.stat().st_size < 100_000  # the weights stay outside


def test_a_graph_is_made_once_and_a_damaged_or_foreign_one_again(cache, monkeypatch):
    pytest.importorskip("onnx")
    network, other = shaken("timm:test_resnet"), shaken("timm:test_resnet", 4)
    made = []
    original = inference.onnx_graph
    monkeypatch.setattr(inference, "onnx_graph", lambda *given: made.append(1) or original(*given))
    onnx_network(network)
    assert_equal(network, onnx_network(network))
    assert len(made) == 1
    (path,) = cache.glob(f"*{SUFFIX}")
    whole = path.read_bytes()
    onnx_network(other)
    (foreign,) = (one.read_bytes() for one in cache.glob(f"*{SUFFIX}") if one != path)
    for content in (whole[:1000], whole[:-1] + b"x", b"", foreign):
        path.write_bytes(content)
        assert_equal(network, onnx_network(network))
        assert len(path.read_bytes()) == len(whole)
    assert len(made) == 6
    with torch.no_grad():
        next(network.parameters()).add_(1)  # other weights, another key
    onnx_network(network)
    assert len(made) == 7


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(cache):
    pytest.importorskip("onnx")
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_text("a file")
    network = shaken("timm:test_resnet")
    assert_equal(network, onnx_network(network))


def test_several_threads_may_call_a_network():
    network = shaken("lite_affinity")
    made, images, found = onnx_network(network), [torch.randn(1, 3, 40 + 8 * i, 56) for i in range(4)], {}
    for _ in range(2):
        threads = [threading.Thread(target=lambda i=i: found.setdefault(i, made.features(images[i]))) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i, image in enumerate(images):
        assert torch.equal(found[i], made.features(image))


def test_what_cannot_be_computed_says_why(monkeypatch):
    pytest.importorskip("onnx")
    with pytest.raises(ExportError, match="HybridCam is not for ONNX Runtime"):
        onnx_network(create_model("hybrid_cam", 3, image_size=32))
    for missing in ("onnx", "onnxruntime"):
        monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name, no=missing: None if name == no else 1)
        with pytest.raises(ExportError, match=f"{missing} is not installed") as caught:
            onnx_network(shaken("timm:test_resnet"))
        assert "pixaff[onnx]" in caught.value.hint


def test_auto_leaves_networks_of_large_convolutions_to_pytorch(monkeypatch):
    large, other = create_model("lite_cam", 3), create_model("lite_affinity")
    monkeypatch.setattr(inference, "winograd_layers", lambda network: ["conv"] if network is large else [])
    monkeypatch.setattr(inference, "onnx_network", lambda network, _: network)
    cpu = torch.device("cpu")
    assert inference.onnx_networks("auto", {"cam": large}, cpu, "fp32") == ({}, "torch", "")
    assert inference.onnx_networks("auto", {"cam": large, "walk": other}, cpu, "fp32") == ({"walk": other}, "onnx", "")
    assert inference.onnx_networks("onnx", {"cam": large}, cpu, "fp32") == ({"cam": large}, "onnx", "")
