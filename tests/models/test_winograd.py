import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixaff.models import create_cam_network, winograd
from pixaff.models.base import Network
from pixaff.models.inference import torch_network
from pixaff.models.winograd import WinogradConv2d, winograd_layers, with_winograd


class Toy(Network):
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 128, 3, padding=1)
        self.first = nn.Conv2d(128, 256, 3, padding=1)
        self.second = nn.Conv2d(256, 256, 3, padding=2, dilation=2, bias=False)
        self.strided = nn.Conv2d(256, 256, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.strided(F.relu(self.second(F.relu(self.first(self.stem(x)), inplace=True)), inplace=True))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Toy().eval()


@pytest.fixture
def no_plain_convolution(monkeypatch):
    monkeypatch.setattr(nn.Conv2d, "forward", lambda *_: pytest.fail("a plain convolution"))


@pytest.mark.usefixtures("no_plain_convolution")
@pytest.mark.parametrize(
    ("dilation", "size", "bias", "memory_format", "band"),
    [
        (1, (13, 22), True, torch.channels_last, winograd.BAND),
        (1, (4, 33), False, torch.contiguous_format, 1),
        (2, (23, 17), True, torch.contiguous_format, 10_000_000),
        (4, (31, 29), True, torch.channels_last, winograd.BAND),
    ],
)
def test_it_is_the_convolution(dilation, size, bias, memory_format, band, monkeypatch):
    monkeypatch.setattr(winograd, "BAND", band)
    torch.manual_seed(0)
    conv = nn.Conv2d(48, 40, 3, padding=dilation, dilation=dilation, bias=bias)
    x = torch.randn(2, 48, *size).contiguous(memory_format=memory_format)
    before = x.clone()
    with torch.inference_mode():
        found = WinogradConv2d(conv)(x)
        offset = conv.bias.double() if bias else None
        expected = F.conv2d(x.double(), conv.weight.double(), offset, padding=dilation, dilation=dilation)
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert torch.equal(x, before)


def test_plain_where_tiles_are_mostly_empty_or_gradients_are_wanted(monkeypatch):
    conv = nn.Conv2d(4, 4, 3, padding=4, dilation=4)
    made, x = WinogradConv2d(conv), torch.randn(1, 4, 16, 16)
    monkeypatch.setattr(torch, "bmm", lambda *_, **__: pytest.fail("Winograd's algorithm"))
    with torch.inference_mode():
        small = x[:, :, :5, :5]
        assert torch.equal(made(small), conv(small))
    made(x).sum().backward()
    assert conv.weight.grad is not None


def test_a_copy_of_the_network_shares_its_weights(network):
    assert winograd_layers(network) == ["first", "second"]
    assert torch_network(network, "bf16") is network
    made = torch_network(network, "fp32")
    assert [type(conv) for conv in made.children()] == [nn.Conv2d, WinogradConv2d, WinogradConv2d, nn.Conv2d]
    assert {type(conv) for conv in network.children()} == {nn.Conv2d}
    state = made.state_dict()
    assert state.keys() == network.state_dict().keys()
    assert all(state[name].data_ptr() == tensor.data_ptr() for name, tensor in network.state_dict().items())
    x = torch.randn(2, 3, 27, 38)
    with torch.inference_mode():
        expected, found = network(x), made(x)
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_networks_that_stay_as_they_are(network, monkeypatch):
    assert with_winograd(network.train()) is network
    assert with_winograd(network.eval().double()) is network.float()
    for limit, value in (("MEMORY", 2**20), ("SHARE", 0.7)):
        with monkeypatch.context() as patch:
            patch.setattr(winograd, limit, value)
            assert with_winograd(network) is network


def test_maps_of_vgg16_stay():
    torch.manual_seed(0)
    network = create_cam_network("vgg16_cam").eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    assert len(winograd_layers(network)) == 10
    x = torch.randn(1, 3, 90, 75)
    with torch.inference_mode():
        expected, found = network.cam(x), with_winograd(network).cam(x)
    assert not torch.equal(found, expected)
    assert (found.square() - expected.square()).abs().max() < 1e-5 * expected.square().max()
    assert (found - expected).abs().max() < 5e-3 * expected.max()  # the square root of almost nothing
