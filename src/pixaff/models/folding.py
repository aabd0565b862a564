"""Batch norm folded into the convolution before it: the same network with fewer passes over its maps, for inference.

Which batch norm follows which convolution is seen in a trial on a small image, since neither names nor order of the
layers say so: ResNet-38 has its batch norms before its convolutions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pixaff.models.base import Network

N = TypeVar("N", bound=Network)

SIDES = (32, 64)
"""Of the image of the trial."""


def folded(network: N) -> N:
    """The network for inference: each batch norm that alone follows a convolution is folded into it.

    The network itself stays as it is. The copy shares all tensors with it but those of the folded layers, and is not to
    be trained. A network without such layers is returned as it is.
    """
    if network.training or not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    with torch.inference_mode(False), torch.no_grad():
        pairs = _pairs(network)
        if not pairs:
            return network
        tensors = (*network.parameters(), *network.buffers())
        made = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
        for conv, norm in pairs:
            _fold(made, conv, norm)
        return made


def _pairs(network: Network) -> list[tuple[str, str]]:
    """Names of convolutions and of the batch norms that each of their outputs goes through and nothing else does."""
    seen = _Consumers(network)
    parameter = next(network.parameters())
    image = torch.zeros(1, 3, *SIDES, dtype=parameter.dtype, device=parameter.device)
    for name in network.exported:
        try:
            with seen:
                methodcaller(name, image)(network)
        except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError):
            return []  # what cannot be looked at stays as it is
    found = {conv: norms for conv, norms in seen.by_convolution().items() if len(norms) == 1 and None not in norms}
    pairs = [(conv, norm) for conv, (norm,) in ((conv, tuple(norms)) for conv, norms in found.items()) if norm]
    norms = [norm for _, norm in pairs]
    # One that further outputs go through has to stay for these.
    return [(conv, norm) for conv, norm in pairs if norms.count(norm) == 1 and seen.uses[norm] == seen.calls[conv]]


class _Consumers(TorchDispatchMode):
    """Notes what the outputs of convolutions go through.

    Attributes:
        calls, uses: How often each convolution and each batch norm has run.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        modules = dict(network.named_modules())
        # A convolution that recomputes its weight at each call, such as a standardised one, passes another tensor.
        self._convs = {id(module.weight): name for name, module in modules.items() if isinstance(module, nn.Conv2d)}
        self._norms = {
            id(module.running_mean): name for name, module in modules.items() if isinstance(module, nn.BatchNorm2d)
        }
        self._outputs: dict[int, tuple[Tensor, str, list[str | None]]] = {}
        self.calls: dict[str, int] = {}
        self.uses: dict[str, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or PyTorch imports its compiler, which takes a second

    def by_convolution(self) -> dict[str, set[str | None]]:
        """Batch norms by convolution; None among them stands for anything else, and for an output used not once."""
        found: dict[str, set[str | None]] = {}
        for _, conv, users in self._outputs.values():
            found.setdefault(conv, set()).update(users if len(users) == 1 else [None])
        return found

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        named: Mapping[str, Any] = kwargs or {}
        name = func.overloadpacket if isinstance(func, torch._ops.OpOverload) else func
        norm = None
        if "batch_norm" in str(name):
            norm = next((self._norms[id(leaf)] for leaf in tree_leaves((args, named)) if id(leaf) in self._norms), None)
            if norm is not None:
                self.uses[norm] = self.uses.get(norm, 0) + 1
        for leaf in tree_leaves((args, named)):
            if isinstance(leaf, Tensor) and id(leaf) in self._outputs:
                self._outputs[id(leaf)][2].append(norm)
        made = func(*args, **named)
        if name is torch.ops.aten.convolution and (conv := self._convs.get(id(args[1]))) is not None:
            self.calls[conv] = self.calls.get(conv, 0) + 1
            self._outputs[id(made)] = (made, conv, [])
        return made


def _fold(network: nn.Module, conv_name: str, norm_name: str) -> None:
    """Fold one batch norm, of whose module what comes after the norm stays: timm's have an activation."""
    conv, norm = network.get_submodule(conv_name), network.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    weight = (conv.weight.double() * scale[:, None, None, None]).to(conv.weight.dtype)
    conv.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)
    activation = dict(norm.named_children()).get("act", nn.Identity())
    parent, _, last = norm_name.rpartition(".")
    network.get_submodule(parent).add_module(last, activation)
