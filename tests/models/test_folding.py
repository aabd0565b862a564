import pytest
import torch
from torch import nn

from pixaff.models import create_cam_network
from pixaff.models.folding import folded


@pytest.fixture(params=["lite_cam", "resnet50_cam"])
def network(request):
    torch.manual_seed(0)
    made = create_cam_network(request.param, 3).double().eval()  # so that rounding hides nothing
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return made


def norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_folding_keeps_the_maps_and_the_network(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    made = folded(network)
    assert norms(network) > 40
    assert norms(made) <= 1  # lite's segmentation head begins with one
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    x = torch.randn(2, 3, 80, 112, dtype=torch.float64)
    with torch.no_grad():
        for method in ("cam", "forward"):
            expected, found = getattr(network, method)(x), getattr(made, method)(x)
            assert expected.abs().max() > 0
            assert (found - expected).abs().max() <= 1e-10 * expected.abs().max()


def test_a_network_without_batch_norm_or_in_training_is_returned_as_it_is(network):
    assert folded(network.train()) is network
    plain = create_cam_network("vgg16_cam", 3).eval()
    assert folded(plain) is plain
