"""The closed form of relevance maps against the rules one by one, with autograd for every product on the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixaff.models import hybrid
from pixaff.models.hybrid import HybridCam
from pixaff.models.relevance import class_rows

SIZE = 48
CLASSES = (3, 11)


@pytest.fixture
def model() -> Iterator[HybridCam]:
    """A small classifier that attends to something, in float64."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("WIDTH", 48), ("DEPTH", 3), ("HEADS", 3)):
            patch.setattr(hybrid, name, value)
        torch.manual_seed(0)
        model = HybridCam(20, SIZE).eval()
        for name, parameter in model.named_parameters():
            if name.endswith(("qkv.weight", "head.weight")):
                nn.init.normal_(parameter, std=0.3)
            elif name.endswith("bias"):
                nn.init.normal_(parameter, std=0.1)
        yield model.double()


class Slow:
    """Relevance of one class of one image, as Chefer et al. write it; steady as for `HybridCam.cam`."""

    def __init__(self, model: HybridCam, steady: float) -> None:
        self.model, self.steady = model, steady

    def over(self, x: Tensor, y: Tensor, cancels: bool = False) -> Tensor:
        """x / y, and 0 where y is 0; a sum that may cancel is moved away from 0."""
        if cancels and self.steady:
            floor = self.steady * y.square().mean((-2, -1), keepdim=True).sqrt()
            return x / (y + torch.where(y < 0, -floor, floor))
        moved = y.clamp(min=1e-9) + y.clamp(max=1e-9)
        return torch.where(y == 0, 0, x / torch.where(moved == 0, 1e-9, moved))

    def linear(self, layer: nn.Linear, x: Tensor, relevance: Tensor) -> Tensor:
        above, below = (part.detach() for part in (layer.weight.clamp(min=0), layer.weight.clamp(max=0)))
        parts = [part.detach().requires_grad_() for part in (x.clamp(min=0), x.clamp(max=0))]
        out = F.linear(parts[0], above) + F.linear(parts[1], below)
        grads = torch.autograd.grad(out, parts, self.over(relevance, out.detach()))
        return sum(part.detach() * grad for part, grad in zip(parts, grads, strict=True))

    def product(self, of: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, relevance: Tensor, whole: Tensor):
        """Both halves of the relevance of ``of(a, b)``; ``whole`` is what it is divided by."""
        a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
        grads = torch.autograd.grad(of(a, b), (a, b), self.over(relevance, whole.detach(), cancels=True))
        return a.detach() * grads[0] / 2, b.detach() * grads[1] / 2

    def add(self, a: Tensor, b: Tensor, relevance: Tensor) -> list[Tensor]:
        parts = [x * self.over(relevance, a + b, cancels=True) for x in (a, b)]
        sums = [part.sum() for part in parts]
        shares = [self.over(s.abs(), sums[0].abs() + sums[1].abs()) * relevance.sum() for s in sums]
        return [part * self.over(share, s) for part, share, s in zip(parts, shares, sums, strict=True)]

    def __call__(self, x: Tensor, index: int, method: str) -> Tensor:
        """Normalised image (3,H,W) and class -> map, flat."""
        tokens, kept = self.model._tokens(x[None])[0], []
        for block in self.model.blocks:
            attention, mlp, at = block.attn, block.mlp, {"in": tokens}
            at["norm1"] = block.norm1(tokens)
            q, k, v = attention.qkv(at["norm1"]).unflatten(1, (3, attention.num_heads, -1)).permute(1, 2, 0, 3)
            at |= {"q": q, "k": k, "v": v, "scores": torch.einsum("hid,hjd->hij", q, k)}
            at["map"] = torch.softmax(at["scores"] * attention.scale, -1)
            at["mixed"] = torch.einsum("hij,hjd->ihd", at["map"], v).flatten(1)
            at["attended"] = attention.proj(at["mixed"])
            at["mid"] = tokens + at["attended"]
            at["norm2"] = block.norm2(at["mid"])
            at["hidden"] = F.gelu(mlp.fc1(at["norm2"]))
            at["mlp"] = mlp.fc2(at["hidden"])
            tokens = at["mid"] + at["mlp"]
            kept.append(at)
        token = self.model.norm(tokens)[:1]
        logits = self.model.head(token)
        assert torch.allclose(logits, self.model(x[None]))
        grads = torch.autograd.grad(logits[0, index], [at["map"] for at in kept])
        kept = [{name: value.detach() for name, value in at.items()} for at in kept]
        start = F.one_hot(torch.tensor([index]), logits.shape[1]).double()
        relevance = F.pad(self.linear(self.model.head, token.detach(), start), (0, 0, 0, len(tokens) - 1))
        rollout = torch.eye(len(tokens), dtype=torch.float64)
        for block, at, grad in reversed(list(zip(self.model.blocks, kept, grads, strict=True))):
            passed, branch = self.add(at["mid"], at["mlp"], relevance)
            branch = self.linear(block.mlp.fc1, at["norm2"], self.linear(block.mlp.fc2, at["hidden"], branch))
            passed, branch = self.add(at["in"], at["attended"], passed + branch)
            branch = self.linear(block.attn.proj, at["mixed"], branch)
            attention, value = self.product(
                lambda a, v: torch.einsum("hij,hjd->ihd", a, v).flatten(1), at["map"], at["v"], branch, at["mixed"]
            )
            seen = attention if method == "relevance" else at["map"]
            rollout = rollout @ (torch.eye(len(tokens)) + (grad * seen).clamp(min=0).mean(0))
            query, key = self.product(
                lambda q, k: torch.einsum("hid,hjd->hij", q, k), at["q"], at["k"], attention, at["scores"]
            )
            joined = torch.stack([query, key, value]).permute(2, 0, 1, 3).flatten(1)
            relevance = passed + self.linear(block.attn.qkv, at["norm1"], joined)
        return rollout[0, 1:]


@pytest.mark.parametrize(("method", "steady"), [("gradient-rollout", 0.1), ("relevance", 0.0), ("relevance", 0.1)])
def test_maps_follow_the_rules(model: HybridCam, method: str, steady: float) -> None:
    x = torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)
    found = model.cam(x, CLASSES, method, steady)
    for image in range(2):
        for row, index in enumerate(CLASSES):
            expected = Slow(model, steady)(x[image], index, method)
            assert (found[image, row].flatten() - expected).abs().max() < 1e-5 * expected.abs().max()


def test_divisors_are_held_a_tenth_from_zero(model: HybridCam) -> None:
    x = torch.randn(1, 3, SIZE, SIZE, dtype=torch.float64)
    assert torch.equal(model.cam(x, CLASSES), model.cam(x, CLASSES, "relevance", 0.1))


def test_autocast_reaches_the_way_back(model: HybridCam, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(hybrid, "class_rows", lambda *given: seen.append(given[-1].dtype) or class_rows(*given))
    x = torch.randn(1, 3, SIZE, SIZE)
    model.float().cam(x, CLASSES)
    with torch.autocast("cpu", torch.bfloat16):
        model.cam(x, CLASSES)
    assert seen == [torch.float32, torch.bfloat16]
