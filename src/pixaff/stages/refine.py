"""The second half of the chain: activation maps walked over learned affinities, sharpened, and made into masks."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pixaff.errors import UsageError
from pixaff.models.base import AffinityNetwork, Network
from pixaff.ops.affinity import pair_affinity
from pixaff.ops.cam import background_score, with_background
from pixaff.ops.crf import dense_crf
from pixaff.ops.neighbours import Borders
from pixaff.ops.walk import cell_scores, upsample_scores
from pixaff.stages.memory import check_memory
from pixaff.stages.training.precision import autocast

ENGINES = ("auto", "torch", "pydensecrf")
STRIDE = 8
SURE = 0.9
"""Probability of the walk's label in the CRF that follows it."""
BILATERAL = 4.0
"""Weight of that CRF's bilateral kernel."""
BAND = 1 << 23
"""Scores held at once while a mask is enlarged: 32 MB of float32."""


def scores_to_walk(maps: Tensor, alpha: float, powers: Sequence[float] = ()) -> Tensor:
    """Background and class scores of the cells that are walked over (section 3.3 of the paper).

    Args:
        maps: Normalised activation maps, float32 (C, h, w).
        alpha: Background power.
        powers: Further powers for which the background is walked as well.

    Returns:
        float32 (1 + C + len(powers), ceil(h / 8), ceil(w / 8)): background, classes, background at each of ``powers``.
    """
    rows = [with_background(maps, alpha), *(background_score(maps, power) for power in powers)]
    return cell_scores(torch.cat(rows), STRIDE)


def probabilities(walked: Tensor, size: tuple[int, int]) -> Tensor:
    """Walked cells (C, h/8, w/8) brought back to the size (h, w): float32, summing to 1 at each pixel."""
    scores = upsample_scores(walked, size, STRIDE).float().clamp(min=0)
    return scores / scores.sum(0).clamp(min=1e-5)


def at_network_size(model: Network, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image (h, w, 3) brought to the size at which a network sees it (bicubic)."""
    height, width = model.seen_size((image.shape[0], image.shape[1]))
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def at_size(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps or scores (C, H, W) brought to a size (h, w), bilinearly."""
    if maps.shape[1:] == size:
        return maps
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


def image_affinity(
    model: AffinityNetwork,
    image: NDArray[np.uint8],
    radius: int,
    borders: Borders = "published",
    precision: str = "fp32",
) -> Tensor:
    """Pair affinities (P, L) of an image (h, w, 3), zero-padded to whole cells at the right and bottom.

    With the precision "bf16" the network computes in bfloat16, the affinities of its features in float32.

    Raises:
        ImageError: The image is too large for the network.
    """
    check_memory(model, (image.shape[0], image.shape[1]))
    x = model.preprocess(image)[None].to(model.device)
    x = F.pad(x, (0, -x.shape[3] % STRIDE, 0, -x.shape[2] % STRIDE))
    with autocast(precision, x.device):
        features = model.features(x.contiguous(memory_format=torch.channels_last))
    return pair_affinity(features.float().contiguous(), radius, borders)[0]


def check_engine(engine: str) -> str:
    """The name of a CRF engine that is there.

    Raises:
        UsageError: No engine has that name, or its library is not installed.
    """
    if engine not in ENGINES:
        raise UsageError(f"found the CRF engine {engine!r}, expected {', '.join(ENGINES)}")
    if engine == "pydensecrf" and importlib.util.find_spec("pydensecrf") is None:
        raise UsageError("pydensecrf is not installed", "pip install 'pixaff[pydensecrf]', or --engine torch")
    return engine


def sharpened(image: NDArray[np.uint8], scores: Tensor, engine: str) -> Tensor:
    """A dense CRF's posterior, float32 (C, h, w), of the labels that probabilities (C, h, w) give an image (h, w, 3).

    The walk's own probabilities are so even that the CRF would shrink what is small: the best row counts as 90 % sure.
    With the paper's bilateral weight, 10, it would do so still; 4 moves the outlines alone (docs/lite.md).
    """
    rows = scores.shape[0]
    best = F.one_hot(scores.argmax(0), rows).permute(2, 0, 1).float()
    sure = best * SURE + (1 - best) * (1 - SURE) / max(1, rows - 1)
    return dense_crf(image, sure, engine=engine, weight_bilateral=BILATERAL)


def mask_at_size(scores: Tensor, values: Sequence[int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The best row's value at each pixel of a larger size.

    The scores are enlarged (bilinear, align_corners false) a band of rows at a time, so that a mask of 100 megapixels
    takes little more memory than itself.

    Args:
        scores: float32 (C, h, w).
        values: Mask value of each of the C rows.
        size: (H, W) of the mask.

    Returns:
        uint8 (H, W).
    """
    scores = scores.cpu()
    count, height, _ = scores.shape
    mask = np.empty(size, np.uint8)
    # Where each row of the mask lies between two rows of the scores.
    place = ((torch.arange(size[0], dtype=torch.float64) + 0.5) * height / size[0] - 0.5).clamp(0, height - 1)
    above = place.floor().long()
    below, weight = (above + 1).clamp(max=height - 1), (place - above).float()[:, None]
    rows = max(1, BAND // (count * size[1]))
    for start in range(0, size[0], rows):
        band = slice(start, start + rows)
        part = torch.lerp(scores[:, above[band]], scores[:, below[band]], weight[band])
        wide = F.interpolate(part[None], (part.shape[1], size[1]), mode="bilinear", align_corners=False)[0]
        mask[band] = best_value(wide, values).numpy()
    return mask


def best_value(scores: Tensor, values: Sequence[int]) -> Tensor:
    """The value of the largest row at each pixel: argmax over so few rows is some twenty times slower."""
    best = scores[0].clone()
    found = torch.full_like(best, values[0], dtype=torch.uint8)
    for row, value in zip(scores[1:], values[1:], strict=True):
        found.masked_fill_(row > best, value)
        torch.maximum(best, row, out=best)
    return found
