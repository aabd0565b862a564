"""Time the hybrid classifier's relevance maps: rule by rule, one class and one mirror image at a time, against pixaff.

    python -m benchmarks.hybrid [--size 448] [--images 1] [--classes 3] [--steady S] [--precision fp32 bf16]
                                [--threads N] [--cold] [--json]

Both compute the same maps, of each image and its mirror image, with random weights. The first way is the rules as they
are written down: autograd gives the gradient of the attention, each linear layer multiplies by the two halves of its
weights and back, and the rollout is a product of whole matrices. Every way has a process of its own, so that the peak
of memory is its own too: what the process held at most beyond the network. Without
--cold a first image is not timed. "Times faster" compares processor time, which other programs on the machine change
less than time on the clock.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.measuring import show
from pixaff.models.hybrid import METHODS, HybridCam
from pixaff.models.relevance import STEADY

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
WAYS = ("one by one", *METHODS)
SAFE = 1e-9


class OneByOne:
    """Relevance propagation of one class of one image, in the order of the published rules.

    Args:
        model: The classifier.
        steady: As for `HybridCam.cam`.
        dtype: Of the matrix products.
    """

    def __init__(self, model: HybridCam, steady: float, dtype: torch.dtype) -> None:
        self.model, self.steady, self.dtype = model, steady, dtype
        self.blocks: list[Any] = list(model.blocks)

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        return (a.to(self.dtype) @ b.to(self.dtype)).to(torch.float32)

    def divide(self, x: Tensor, y: Tensor) -> Tensor:
        if self.steady == 0:
            return self.divide_positive(x, y)
        floor = self.steady * y.square().mean((-2, -1), keepdim=True).sqrt()
        return torch.where(y == 0, 0, x / torch.where(y < 0, y - floor, y + floor))

    def divide_positive(self, x: Tensor, y: Tensor) -> Tensor:
        below = y.clamp(min=SAFE) + y.clamp(max=SAFE)
        return x / (below + (below == 0) * SAFE) * (y != 0)

    def forward(self, tokens: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
        kept = []
        x = tokens.requires_grad_()
        for block in self.blocks:
            at: dict[str, Tensor] = {"x": x, "normed1": block.norm1(x)}
            qkv = self.mul(at["normed1"], block.attn.qkv.weight.mT) + block.attn.qkv.bias
            heads = block.attn.num_heads
            at["q"], at["k"], at["v"] = qkv.unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)
            at["scores"] = self.mul(at["q"], at["k"].mT)
            at["a"] = (at["scores"] * block.attn.scale).softmax(-1)
            at["mixed"] = self.mul(at["a"], at["v"])
            at["joined"] = at["mixed"].transpose(0, 1).flatten(1)
            at["attended"] = self.mul(at["joined"], block.attn.proj.weight.mT) + block.attn.proj.bias
            at["mid"] = x + at["attended"]
            at["normed2"] = block.norm2(at["mid"])
            at["hidden"] = F.gelu(self.mul(at["normed2"], block.mlp.fc1.weight.mT) + block.mlp.fc1.bias)
            at["mlp"] = self.mul(at["hidden"], block.mlp.fc2.weight.mT) + block.mlp.fc2.bias
            x = at["out"] = at["mid"] + at["mlp"]
            kept.append(at)
        return x, kept

    def linear(self, layer: Any, x: Tensor, relevance: Tensor) -> Tensor:
        above, below = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
        total = self.mul(x.clamp(min=0), above.mT) + self.mul(x.clamp(max=0), below.mT)
        share = self.divide_positive(relevance, total)
        return x.clamp(min=0) * self.mul(share, above) + x.clamp(max=0) * self.mul(share, below)

    def split(self, a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        parts = [part * self.divide(relevance, a + b) for part in (a, b)]
        sums = [part.sum() for part in parts]
        shares = [self.divide_positive(s.abs(), sums[0].abs() + sums[1].abs()) * relevance.sum() for s in sums]
        first, second = (p * self.divide_positive(w, s) for p, w, s in zip(parts, shares, sums, strict=True))
        return first, second

    def __call__(self, x: Tensor, index: int) -> Tensor:
        """Normalised image (3,H,W) and 0-based class -> relevance map, flat."""
        with torch.no_grad(), torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            tokens = self.model._tokens(x[None])[0].float()
        with torch.enable_grad():
            out, kept = self.forward(tokens)
            token = self.model.norm(out)[:1]
            logit = self.model.head(token)[0, index]
            grads = torch.autograd.grad(logit, [at["a"] for at in kept])
        with torch.no_grad():
            return self.back(kept, grads, token, index)

    def back(self, kept: list[dict[str, Tensor]], grads: tuple[Tensor, ...], token: Tensor, index: int) -> Tensor:
        start = F.one_hot(torch.tensor([index]), self.model.head.out_features).float()
        relevance = torch.zeros_like(kept[-1]["out"])
        relevance[:1] = self.linear(self.model.head, token, start)
        rollout = torch.eye(len(relevance))
        for block, at, grad in reversed(list(zip(self.blocks, kept, grads, strict=True))):
            passed, branch = self.split(at["mid"], at["mlp"], relevance)
            branch = self.linear(block.mlp.fc1, at["normed2"], self.linear(block.mlp.fc2, at["hidden"], branch))
            kept_back, branch = self.split(at["x"], at["attended"], passed + branch)
            mixed = self.linear(block.attn.proj, at["joined"], branch)
            share = self.divide(mixed, at["joined"]).reshape(len(mixed), len(at["q"]), -1).transpose(0, 1)
            attention = at["a"] * self.mul(share, at["v"].mT) / 2
            rollout = rollout @ (torch.eye(len(rollout)) + (grad * attention).clamp(min=0).mean(0))
            value = at["v"] * self.mul(at["a"].mT, share) / 2
            share = self.divide(attention, at["scores"])
            query, key = at["q"] * self.mul(share, at["k"]) / 2, at["k"] * self.mul(share.mT, at["q"]) / 2
            qkv = torch.stack([query, key, value]).permute(2, 0, 1, 3).flatten(1)
            relevance = kept_back + self.linear(block.attn.qkv, at["normed1"], qkv)
        return rollout[0, 1:]


def peak() -> float:
    """Megabytes that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(way: str, precision: str, arguments: dict[str, Any]) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Seconds an image and a map, megabytes, and the maps (images, 2, classes, patches)."""
    if arguments["threads"]:
        torch.set_num_threads(arguments["threads"])
    size, images, classes = arguments["size"], arguments["images"], list(range(arguments["classes"]))
    torch.manual_seed(0)
    model = HybridCam(20, size).eval()
    photos = torch.rand(images + 1, 3, 1, size, size).flatten(2, 3) * 2 - 1
    dtype = PRECISIONS[precision]
    one = OneByOne(model, arguments["steady"], dtype)
    for block in one.blocks:  # random weights of the usual size hardly attend to anything
        nn.init.normal_(block.attn.qkv.weight, std=0.06)

    def separately(x: Tensor) -> Tensor:
        return torch.stack([torch.stack([one(image, index) for index in classes]) for image in (x, x.flip(2))])

    def together(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return model.cam(torch.stack([x, x.flip(2)]), classes, way, arguments["steady"]).flatten(2)

    compute: Callable[[Tensor], Tensor] = separately if way == WAYS[0] else together
    before = peak()
    if arguments["warm"]:
        compute(photos[0])
    began, began_cpu = time.perf_counter(), time.process_time()
    maps = [compute(photo) for photo in photos[1:]]
    seconds, cpu = (time.perf_counter() - began) / images, (time.process_time() - began_cpu) / images
    row = {
        "way": way,
        "precision": precision,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "cpu_seconds_a_map": cpu / (2 * len(classes)),
        "MB": peak() - before,
    }
    return row, torch.stack(maps).float().numpy()


def run(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a way and precision: how many times faster than one by one it is, and how far its maps are from those.

    Maps are compared after dividing each by its maximum.
    """
    rows = []
    for precision in arguments["precision"]:
        first: tuple[float, NDArray[np.float32]] | None = None
        for way in WAYS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row, maps = pool.apply(measure, (way, precision, arguments))
            first = first or (row["cpu_seconds"], maps)
            row["times_faster"] = first[0] / row["cpu_seconds"]
            ours, theirs = (array / array.max(-1, keepdims=True) for array in (maps, first[1]))
            row["difference"] = float(np.abs(ours - theirs).max())
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the relevance maps of the hybrid classifier.")
    parser.add_argument("--size", type=int, default=448, help="side of the images in pixels (default: 448)")
    parser.add_argument("--images", type=int, default=1, help="timed images (default: 1)")
    parser.add_argument("--classes", type=int, default=3, help="classes of each image (default: 3)")
    parser.add_argument("--steady", type=float, default=STEADY, help="see HybridCam.cam (default: %(default)s)")
    parser.add_argument("--precision", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--cold", dest="warm", action="store_false", help="time the first image")
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of the table")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = run(vars(arguments))
    title = f"Relevance maps, {arguments.size} x {arguments.size}, {arguments.classes} classes and mirror image"
    show(title, rows, {}, arguments.json)


if __name__ == "__main__":
    main()
