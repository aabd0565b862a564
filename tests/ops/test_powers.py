from __future__ import annotations

import numpy as np
import pytest

from pixaff.ops.powers import HIGHEST, LOWEST, background_powers, power_weights


def test_a_few_powers_give_every_other_one_for_every_score():
    """The error that the docstring tells, over scores 1 - c as close to 0 and 1 as float32 tells apart."""
    powers = background_powers()
    assert (powers[0], powers[-1]) == (LOWEST, HIGHEST)
    assert list(powers) == sorted(powers)
    scores = np.unique(np.concatenate([1 - np.geomspace(1e-7, 1, 1500), np.geomspace(1e-30, 1, 1500), [0.0]]))
    walked = scores[None] ** np.array(powers)[:, None]
    worst = 0.0
    for alpha in np.geomspace(LOWEST, HIGHEST, 300).clip(LOWEST, HIGHEST):
        weights = power_weights(powers, float(alpha))
        assert sum(weights) == pytest.approx(1, abs=1e-12)
        assert np.abs(weights).sum() < 3  # what rounding of the walked rows can grow by
        worst = max(worst, np.abs(np.array(weights) @ walked - scores**alpha).max())
    assert 1e-6 < worst < 7e-5


def test_a_power_that_was_walked_is_taken_as_it_is():
    powers = background_powers()
    for k, power in enumerate(powers):
        assert power_weights(powers, power) == tuple(float(i == k) for i in range(len(powers)))


@pytest.mark.parametrize(
    ("powers", "alpha", "words"),
    [
        ((1.0, 4.0), 5.0, "alpha: found 5, expected 1 to 4"),
        ((1.0, 4.0), 0.5, "alpha: found 0.5"),
        ((2.0,), 2.0, "expected at least two different ones"),
        ((2.0, 2.0), 2.0, "expected at least two different ones"),
        ((0.0, 2.0), 1.0, "above 0"),
    ],
)
def test_bad_powers(powers, alpha, words):
    with pytest.raises(ValueError, match=words):
        power_weights(powers, alpha)
