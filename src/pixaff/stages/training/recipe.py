"""The numbers of one training, and the error that ends it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pixaff.errors import PixaffError, UsageError

OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("auto", "fp32", "bf16")


class TrainingError(PixaffError):
    """A training cannot begin, go on or be resumed."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; everything here decides the resulting weights.

    Attributes:
        epochs: Times that every photo is seen.
        batch_size: Photos a step; fewer when there are fewer photos.
        lr: Learning rate of the backbone's weights at the first step; it falls to 0 as (1 - step / steps)^0.9.
        optimizer: ``sgd`` (momentum 0.9) or ``adamw``.
        weight_decay: Of the weights; biases have none.
        backbone_lr_scale: Factor on the backbone's learning rate; 0 freezes it and saves its backward pass.
        head_lr_scale: Factor on the learning rate of the new layers.
        clip_norm: Bound on the norm of all gradients together; 0 means none.
        precision: ``fp32``, ``bf16`` (autocast) or ``auto`` (whichever the device gains from).
        seed: Of the new layers, the order of the photos, their augmentation and dropout.

    Raises:
        UsageError: A value is out of range.
    """

    epochs: int
    batch_size: int
    lr: float
    optimizer: str = "sgd"
    weight_decay: float = 5e-4
    backbone_lr_scale: float = 1.0
    head_lr_scale: float = 10.0
    clip_norm: float = 0.0
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}, expected at least {least}")
        for name in ("weight_decay", "backbone_lr_scale", "head_lr_scale", "clip_norm"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if not self.lr > 0:
            raise UsageError(f"lr is {self.lr}, expected a number above 0")
        for name, choices in (("optimizer", OPTIMIZERS), ("precision", PRECISIONS)):
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(choices)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are kept in a checkpoint."""
        return asdict(self)


# The paper's SGD at 0.1 suits its own networks; it ruins an EfficientNet's features within an epoch. The
# backbone stays frozen as it was for the shipped model; whether training it helps the maps is open (docs/lite.md).
# The new rows need 1e-2 and some hundred steps: stopped at 3 epochs of 3e-3 they had learned the frequent classes only
# (mean average precision 0.60 in five-fold cross-validation on 1,619 VOC photos, 0.75 with these numbers).
CAM_RECIPE = Recipe(
    epochs=8, batch_size=16, lr=1e-3, optimizer="adamw", weight_decay=1e-4, backbone_lr_scale=0.0, precision="fp32"
)
SEED_RECIPE = Recipe(
    epochs=3, batch_size=16, lr=1e-4, optimizer="adamw", weight_decay=1e-2, backbone_lr_scale=0.0, precision="fp32"
)
AFFINITY_RECIPE = Recipe(epochs=8, batch_size=8, lr=2e-4, optimizer="adamw")

# Section 4.2 of the paper and the authors' release: SGD at 0.1, new layers at ten times that, all in float32.
PUBLISHED_CAM_RECIPE = Recipe(epochs=15, batch_size=16, lr=0.1, precision="fp32")
PUBLISHED_AFFINITY_RECIPE = Recipe(epochs=8, batch_size=8, lr=0.1, precision="fp32")

OWN_RECIPES = {
    "vgg16_cam": PUBLISHED_CAM_RECIPE,
    "resnet38_cam": PUBLISHED_CAM_RECIPE,
    "vgg16_affinity": PUBLISHED_AFFINITY_RECIPE,
    "resnet38_affinity": PUBLISHED_AFFINITY_RECIPE,
}
"""Recipes of the networks that are not trained by the default ones."""


def cam_recipe(network: str) -> Recipe:
    """The recipe by which a classifier is trained when none is given."""
    return OWN_RECIPES.get(network, CAM_RECIPE)


def affinity_recipe(network: str) -> Recipe:
    """The recipe by which an AffinityNet is trained when none is given."""
    return OWN_RECIPES.get(network, AFFINITY_RECIPE)
