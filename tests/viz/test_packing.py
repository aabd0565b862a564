"""What the page unpacks is what was packed."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest

from pixaff.io.scores import ScoreFile
from pixaff.ops.powers import background_powers, power_weights
from pixaff.viz.packing import pack_planes, pack_scores


def unpacked(text: str, shape: tuple[int, int, int]) -> np.ndarray:
    """As `report.js` does it."""
    plain = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(shape)
    # The sum over all pixels above and to the left undoes left + above - above left.
    return plain.astype(np.int64).cumsum(1).cumsum(2).astype(np.uint8)


def test_planes_come_back() -> None:
    planes = np.random.default_rng(0).integers(0, 256, (3, 7, 5), dtype=np.uint8)
    assert np.array_equal(unpacked(pack_planes(list(planes)), planes.shape), planes)
    assert np.array_equal(unpacked(pack_planes([planes[0, :1]]), (1, 1, 5)), planes[:1, :1])


@pytest.mark.parametrize(("count", "cell"), [(0, 8), (2, 8), (2, 4)])
def test_scores_come_back_at_every_alpha(count: int, cell: int) -> None:
    rng = np.random.default_rng(1)
    powers = np.array(background_powers())
    top = rng.random((6, 9))
    background = ((1 - top) ** powers[:, None, None]).astype(np.float32)
    scores = rng.random((count, 6, 9)).astype(np.float32)
    file = ScoreFile(np.arange(1, count + 1), scores, powers, background, 4.0, (6 * cell, 9 * cell), (48, 72))
    packed = pack_scores(file)
    assert packed["cell"] == cell
    planes = unpacked(packed["planes"], (len(packed["low"]), 6, 9))
    low, high = (np.array(packed[name])[:, None, None] for name in ("low", "high"))
    values = low + (high - low) / 255 * planes
    mix = np.array(packed["mix"])
    assert mix.shape[1] < len(powers)
    assert len(values) == mix.shape[1] + count
    for alpha in (0.25, 1.0, 3.3, 64.0):
        found = np.einsum("k,kj,jhw->hw", power_weights(powers.tolist(), alpha), mix, values[: mix.shape[1]])
        assert np.abs(found - (1 - top) ** alpha).max() < 0.01
    if count:
        assert np.abs(values[mix.shape[1] :] - scores).max() < 0.003
