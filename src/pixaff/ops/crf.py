"""Dense CRF: refines label probabilities of an image along its colour edges.

Krähenbühl & Koltun, *Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials*, NIPS 2011: mean field
(algorithm 1) with a Potts model and two kernels, one of positions and one of positions and colours (equation 3), both
filtered on a permutohedral lattice.

The torch engine filters one label fewer than there are: the probabilities Q of a pixel sum to 1 and the filter K is
linear, so the message of label 0 is K 1 minus all others, and K 1 never changes. Mean field then needs the logits
against label 0 only. Several sets of scores of one image, such as those of a low and a high alpha, are filtered
together.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from pixaff.ops.permutohedral import Lattice, build_lattice
from pixaff.ops.resize import best_value
from pixaff.ops.threads import one_thread

if TYPE_CHECKING:
    import numpy.typing as npt

# Position lattices take about 100 bytes per pixel: keep only those of ordinary photos.
_CACHED_PIXELS = 2**20
# Of `refine_labels`: the probability of each pixel's label, and the weight of the bilateral kernel.
_SURE = 0.9
_LABEL_BILATERAL = 4.0
# Five relaxed steps lead where ten plain ones do: to the same label at 99.95 % of the pixels or more of each of seven
# photos, while five plain steps leave up to 0.4 % behind.
_LABEL_STEPS, _LABEL_RELAXATION = 5, 1.8


def dense_crf(
    image: npt.NDArray[np.uint8] | Tensor,
    probs: npt.NDArray[Any] | Tensor,
    steps: int = 10,
    engine: str = "auto",
    *,
    device: torch.device | str | None = None,
    sxy_gaussian: float = 3,
    weight_gaussian: float = 3,
    sxy_bilateral: float = 80,
    srgb: float = 13,
    weight_bilateral: float = 10,
    relaxation: float = 1,
) -> Tensor:
    """Posterior label probabilities of a fully connected CRF over one image.

    The unary energy is ``-log(max(probs, 1e-5))``; the defaults are the kernels of Ahn & Kwak, CVPR 2018.

    Args:
        image: uint8 (H, W, 3), RGB.
        probs: Any float dtype, (C, H, W), or (A, C, H, W): A independent sets of scores over the same image, computed
            in one pass (pydensecrf takes a run for each). They need not sum to 1.
        steps: Mean-field steps; 0 gives the normalised input.
        engine: "torch" (plain tensor operations, CPU and CUDA), "pydensecrf" (the C++ library, CPU, one thread) or
            "auto". Both use one thread on the CPU, and agree to about 1e-5. "auto" means torch, which is about twice as
            fast for one set of scores, and three to four times for two (``python -m benchmarks.crf``). This relies on
            the sparse products of the MKL library: if torch lacks it, "auto" uses pydensecrf on the CPU, if that is
            installed.
        device: Where the torch engine computes and where the result lies; default: the device of `probs`.
        sxy_gaussian: Standard deviation of the position kernel, pixels.
        weight_gaussian: Potts weight of the position kernel.
        sxy_bilateral: Standard deviation of the bilateral kernel in position, pixels.
        srgb: Standard deviation of the bilateral kernel in colour, 8-bit levels.
        weight_bilateral: Potts weight of the bilateral kernel.
        relaxation: How far each step goes, as a multiple of the plain mean-field step between logits. Up to 1.8 fewer
            steps lead to the same labels; from about 2.3 on they diverge. The torch engine only.

    Returns:
        float32 tensor of the shape of `probs`, summing to 1 over the labels.

    Raises:
        ValueError: a shape, dtype or range is wrong.
        ModuleNotFoundError: engine "pydensecrf" is not installed.

    Example:
        >>> import torch
        >>> image = torch.zeros(4, 6, 3, dtype=torch.uint8)
        >>> dense_crf(image, torch.rand(2, 3, 4, 6)).shape
        torch.Size([2, 3, 4, 6])
    """
    image, probs = _checked(image, probs)
    if steps < 0 or min(weight_gaussian, weight_bilateral) < 0 or min(sxy_gaussian, sxy_bilateral, srgb) <= 0:
        raise ValueError(
            f"expected steps >= 0, kernel weights >= 0 and kernel sizes > 0, found steps={steps}, weights "
            f"{weight_gaussian} and {weight_bilateral}, sizes {sxy_gaussian}, {sxy_bilateral} and {srgb}"
        )
    if not 0 < relaxation <= 2:
        raise ValueError(f"expected a relaxation above 0 and up to 2, found {relaxation}")
    target = torch.device(device) if device is not None else probs.device
    unary = probs.to(target).reshape(-1, *probs.shape[-3:]).clamp(min=1e-5).log_().neg_()

    if _pick_engine(engine, target) == "pydensecrf":
        if relaxation != 1:
            raise ValueError(f"engine pydensecrf: expected a relaxation of 1, found {relaxation}")
        found = _pydensecrf(
            image, unary, steps, (sxy_gaussian, weight_gaussian), (sxy_bilateral, srgb, weight_bilateral)
        ).to(target)
    else:
        # Autocast would pass half precision to sparse products, which do not support it.
        with torch.autocast(target.type, enabled=False), one_thread(target):
            kernels = [
                (weight_gaussian, _position_lattice(image.shape[0], image.shape[1], sxy_gaussian, target)),
                (weight_bilateral, _bilateral_lattice(image.to(target), sxy_bilateral, srgb)),
            ]
            found = _mean_field(unary, kernels, steps, relaxation)
    return found.view(probs.shape)


def refine_labels(image: npt.NDArray[np.uint8], scores: Tensor, engine: str = "auto") -> Tensor:
    """CRF refinement of the labels that have the largest scores.

    The propagated scores themselves are so even that the CRF would shrink small objects, so the largest one counts as
    90 % sure instead. The paper's bilateral weight, 10, would still shrink them; 4 only moves the outlines
    (docs/notes).

    Args:
        image: uint8 (h, w, 3), RGB.
        scores: float32 (C, h, w), summing to 1.
        engine: As for `dense_crf`.

    Returns:
        float32 (C, h, w): the posterior.
    """
    rows = scores.shape[0]
    sure = torch.full_like(scores, (1 - _SURE) / max(1, rows - 1))
    sure.scatter_(0, best_value(scores, range(rows))[None].long(), _SURE)
    if _pick_engine(engine, scores.device) == "pydensecrf":
        return dense_crf(image, sure, engine="pydensecrf", weight_bilateral=_LABEL_BILATERAL)
    return dense_crf(
        image, sure, _LABEL_STEPS, "torch", weight_bilateral=_LABEL_BILATERAL, relaxation=_LABEL_RELAXATION
    )


def _checked(image: npt.NDArray[np.uint8] | Tensor, probs: npt.NDArray[Any] | Tensor) -> tuple[Tensor, Tensor]:
    """Both as tensors (probs float32), after their shapes, dtypes and values have been checked."""
    # torch.from_numpy needs writable arrays without negative strides; decoders often return others.
    image = image if isinstance(image, Tensor) else torch.from_numpy(np.require(image, requirements=["C", "W"]))
    probs = probs if isinstance(probs, Tensor) else torch.from_numpy(np.require(probs, requirements=["C", "W"]))
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected an image uint8 (H, W, 3), found {image.dtype} {tuple(image.shape)}")
    if not probs.is_floating_point() or probs.ndim not in (3, 4) or probs.numel() == 0:
        raise ValueError(
            f"expected probabilities, floats (C, H, W) or (A, C, H, W), found {probs.dtype} {tuple(probs.shape)}"
        )
    if probs.shape[-2:] != image.shape[:2]:
        raise ValueError(
            f"expected probabilities of the image's size {tuple(image.shape[:2])}, found {tuple(probs.shape[-2:])}"
        )
    probs = probs.detach().float()
    if not bool(probs.sum().isfinite()):
        raise ValueError("expected finite probabilities, found NaN or infinity")
    return image, probs


def _pick_engine(engine: str, device: torch.device) -> str:
    if engine not in ("auto", "torch", "pydensecrf"):
        raise ValueError(f'expected engine "auto", "torch" or "pydensecrf", found {engine!r}')
    if engine != "auto":
        return engine
    slow_products = device.type == "cpu" and not torch.backends.mkl.is_available()
    return "pydensecrf" if slow_products and _import_pydensecrf() is not None else "torch"


def _import_pydensecrf() -> Any | None:
    try:
        return importlib.import_module("pydensecrf.densecrf")
    except ImportError:
        return None


def _pydensecrf(
    image: Tensor,
    unary: Tensor,
    steps: int,
    gaussian: tuple[float, float],
    bilateral: tuple[float, float, float],
) -> Tensor:
    """The same with the pydensecrf library, one run for each of A unaries: (A, C, H, W) -> (A, C, H, W) on the CPU."""
    densecrf = _import_pydensecrf()
    if densecrf is None:
        raise ModuleNotFoundError(
            'engine pydensecrf: the package pydensecrf is not installed: pip install "pixaff[pydensecrf]" (needs a C++ '
            'compiler), or use the engine "torch"'
        )
    sxy_gaussian, weight_gaussian = gaussian
    sxy_bilateral, srgb, weight_bilateral = bilateral
    pixels = image.cpu().contiguous().numpy()
    _, labels, height, width = unary.shape
    found = []
    for energies in unary.cpu().contiguous().numpy():
        crf = densecrf.DenseCRF2D(width, height, labels)
        crf.setUnaryEnergy(energies.reshape(labels, -1))
        crf.addPairwiseGaussian(sxy=sxy_gaussian, compat=weight_gaussian)
        crf.addPairwiseBilateral(sxy=sxy_bilateral, srgb=srgb, rgbim=pixels, compat=weight_bilateral)
        found.append(torch.from_numpy(np.array(crf.inference(steps), dtype=np.float32)))
    return torch.stack(found)


def _position_lattice(height: int, width: int, sxy: float, device: torch.device) -> Lattice:
    """The lattice of the position kernel, which photos of the same size share."""
    build = _cached_position_lattice if height * width <= _CACHED_PIXELS else _cached_position_lattice.__wrapped__
    return build(height, width, sxy, device)


@functools.lru_cache(maxsize=8)
def _cached_position_lattice(height: int, width: int, sxy: float, device: torch.device) -> Lattice:
    return build_lattice(_positions(height, width, sxy, device))


def _bilateral_lattice(image: Tensor, sxy: float, srgb: float) -> Lattice:
    height, width, _ = image.shape
    return build_lattice([*_positions(height, width, sxy, image.device), *(image.permute(2, 0, 1) / srgb)])


def _positions(height: int, width: int, sxy: float, device: torch.device) -> list[Tensor]:
    """x and y of every pixel in units of sxy: two float32 (H, W)."""
    x = torch.arange(width, dtype=torch.float32, device=device) / sxy
    y = torch.arange(height, dtype=torch.float32, device=device) / sxy
    return [x.expand(height, width), y[:, None].expand(height, width)]


@torch.no_grad()
def _mean_field(unary: Tensor, kernels: Sequence[tuple[float, Lattice]], steps: int, relaxation: float = 1) -> Tensor:
    """Mean field of A unaries (A, C, H, W) under weighted kernels -> probabilities (A, C, H, W)."""
    sets, labels = unary.shape[0], unary.shape[1] - 1
    energy = unary.flatten(2)
    if sets == labels == 1:
        # One column as a vector: half of the time of one that is part of a matrix.
        logits = _mean_field_of_two(energy[0, 0] - energy[0, 1], kernels, steps, relaxation)
        return torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)]).view(unary.shape)
    # A column for every set and label but 0. MKL multiplies multiples of four columns twice as fast as other numbers,
    # and rows that lie together twice as fast as columns.
    columns = sets * labels
    spare = -columns % 4
    start = pad((energy[:, :1] - energy[:, 1:]).permute(2, 0, 1).flatten(1), (0, spare)).contiguous()
    logits = start.clone()
    if labels > 0 and steps > 0:
        start = start - sum(weight * lattice.mass[:, None] for weight, lattice in kernels)
        # Message of a label against that of label 0: its own, plus all the others' that label 0 lacks.
        against = torch.block_diag(*[torch.ones(labels, labels, device=unary.device)] * sets)
        against = pad(against + torch.eye(columns, device=unary.device), (0, spare, 0, spare))
        for _ in range(steps):
            probs = _softmax_(logits.clone(), sets, labels)
            messages = [lattice.gather(probs) @ (against * (weight * relaxation)) for weight, lattice in kernels]
            logits.lerp_(start, relaxation)
            for (_, lattice), vertices in zip(kernels, messages, strict=True):
                logits.addmm_(lattice.slice, vertices)
    logits = logits[:, :columns].unflatten(1, (sets, labels))
    return pad(logits.permute(1, 2, 0), (0, 0, 1, 0)).softmax(1).view(unary.shape)


def _mean_field_of_two(
    start: Tensor, kernels: Sequence[tuple[float, Lattice]], steps: int, relaxation: float
) -> Tensor:
    """Mean field of one unary of two labels, as the logit of label 1 against label 0: float32 (N,) -> (N,)."""
    logits = start.clone()
    if steps > 0:
        start = start - sum(weight * lattice.mass for weight, lattice in kernels)
    for _ in range(steps):
        probs = torch.sigmoid(logits).clamp_(min=1e-20)
        logits.lerp_(start, relaxation)
        for weight, lattice in kernels:
            logits.addmv_(lattice.slice, lattice.gather(probs), alpha=2 * weight * relaxation)
    return logits


def _softmax_(logits: Tensor, sets: int, labels: int) -> Tensor:
    """Softmax over each set's labels and a logit of 0 that is left out, in place: (N, columns) -> the same."""
    used = logits[:, : sets * labels].unflatten(1, (sets, labels))
    if logits.amax() > 50:  # exp may overflow further down
        used.copy_(pad(used, (1, 0)).softmax(-1)[..., 1:])
    else:
        # Many times faster than torch.softmax over so few numbers; so is adding the columns of very few labels.
        logits.clamp_(min=-30).exp_()
        first, *others = used.unbind(-1)
        total = 1 + used.sum(-1) if labels > 4 else sum(others, 1 + first)
        used.mul_(total.reciprocal_()[..., None])
    # Both clamps avoid denormal numbers, which are ten times as slow. Neither is visible in float32.
    return logits.clamp_(min=1e-20)
