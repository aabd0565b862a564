"""What the two published networks share: the settings and recipes of Ahn & Kwak, CVPR 2018, and of their release."""

from __future__ import annotations

from pixaff.recipe import Recipe
from pixaff.settings import Settings

SETTINGS = Settings(
    scales=(1.0, 0.5, 1.5, 2.0),
    size=0,
    crf_low=4.0,
    crf_high=32.0,
    walk="psa",
    alpha=16.0,
    beta=8.0,
    steps=256,
    borders="published",
    label_threshold=0.5,
    final_crf=False,
)

# Section 4.2 of the paper and the authors' release: SGD at 0.1, new layers at ten times that, all in float32. The
# momentum is the one that the release trained with: its optimizer passes the weight decay, 5e-4, to SGD in the place of
# the momentum. The 0.9 that the paper and its followers name is only the exponent of the learning rate schedule.
MOMENTUM = 5e-4
CAM_RECIPE = Recipe(epochs=15, batch_size=16, lr=0.1, momentum=MOMENTUM, precision="fp32")
AFFINITY_RECIPE = Recipe(epochs=8, batch_size=8, lr=0.1, momentum=MOMENTUM, precision="fp32")
