"""The hyper-parameters of a training, each with its help and range; every network has its own recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pixaff.errors import UsageError
from pixaff.options import check_options, option, unknown_option


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; everything here affects the resulting weights.

    The learning rate falls to 0 as ``lr * (1 - step / steps) ** 0.9``. Biases learn at twice the rate of weights, and
    have no weight decay.

    Raises:
        UsageError: A value is out of range.
    """

    epochs: int = option(8, "Number of passes over the training images.", "N", at_least=1)
    min_steps: int = option(
        0, "Minimum number of training steps: with few images, there are more epochs.", "N", at_least=0
    )
    hold_out: float = option(
        0.0,
        "Share of the images to hold out: the classifier's training ends when their loss no longer falls.",
        "F",
        at_least=0,
        at_most=0.5,
        commands=("train-cam",),
    )
    batch_size: int = option(16, "Number of images per training step.", "N", at_least=1, flags=("--batch-size", "-b"))
    lr: float = option(0.1, "Initial learning rate of the backbone.", "LR", above=0)
    optimizer: Literal["sgd", "adamw"] = option("sgd", "Optimizer.")
    momentum: float = option(0.9, "Momentum of SGD.", "M", at_least=0, at_most=1)
    weight_decay: float = option(5e-4, "Weight decay; biases have none.", "D", at_least=0)
    backbone_lr_scale: float = option(
        1.0, "Factor on the backbone's learning rate; 0 freezes the backbone.", "F", at_least=0
    )
    head_lr_scale: float = option(10.0, "Factor on the learning rate of new layers.", "F", at_least=0)
    clip_norm: float = option(0.0, "Largest norm of the gradients; 0 disables clipping.", "N", at_least=0)
    crop: int = option(448, "Side of the random crop, a multiple of 8.", "PIXELS", at_least=32)
    resize: tuple[int, int] = option(
        (256, 512),
        "Range of the random long side to which each image is resized.",
        "MIN:MAX",
        at_least=1,
        commands=("train-cam", "train-irn", "train-seg"),
    )
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "Precision of the training; auto picks the faster one on this machine."
    )
    seed: int = option(0, "Seed of initialisation, image order, augmentation and dropout.", "N", at_least=0)

    def __post_init__(self) -> None:
        check_options(self)
        if self.crop % 8:
            raise UsageError(f"crop is {self.crop}, expected a multiple of 8")
        if len(self.resize) != 2 or self.resize[0] > self.resize[1]:
            words = " to ".join(map(str, self.resize))
            raise UsageError(f"resize is {words}, expected the smallest and the largest long side")

    def epochs_for(self, images: int) -> int:
        """Number of epochs: `epochs`, or as many as `min_steps` needs with so many images."""
        steps = max(1, images // min(self.batch_size, max(1, images)))
        return max(self.epochs, math.ceil(self.min_steps / steps))

    def replace(self, **overrides: Any) -> Recipe:
        """A copy with some values replaced; ``None`` means not given, and keeps the present value."""
        return replace(self, **{name: value for name, value in overrides.items() if value is not None})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint stores them."""
        return {**asdict(self), "resize": list(self.resize)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """A recipe from plain values; missing ones get the defaults."""
        return cls(**values)


@dataclass(frozen=True)
class MaskRecipe:
    """What a segmentation network learns from its masks; everything here affects the resulting weights.

    Raises:
        UsageError: A value is out of range.
    """

    class_weights: Literal["none", "sqrt", "median"] = option(
        "none", "Weights of rare classes in the loss: median frequency balancing, its square root, or none."
    )
    confidence: float = option(
        0.0,
        "Exponent of the masks' confidence, from their saved scores, as weight of a pixel; 0 ignores it.",
        "P",
        at_least=0,
        at_most=8,
    )
    hold_out: float = option(
        0.05,
        "Share of the photos that are kept out of the training, to measure mIoU.",
        "SHARE",
        at_least=0,
        at_most=0.9,
    )

    def __post_init__(self) -> None:
        check_options(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint stores them."""
        return asdict(self)


def whole_recipe(given: Recipe | Mapping[str, Any] | None, own: Recipe) -> Recipe:
    """A given recipe as it is, or a network's own recipe with the given values.

    A given number of epochs is exact: without ``min_steps`` beside it, there is no minimum number of steps.

    Raises:
        UsageError: A name is not a hyper-parameter, or a value is out of range.
    """
    if isinstance(given, Recipe):
        return given
    values = dict(given or {})
    for name in values:
        if name not in Recipe.__dataclass_fields__:
            raise unknown_option(name, "hyper-parameter", Recipe.__dataclass_fields__)
    if values.get("epochs") is not None and values.get("min_steps") is None:
        values["min_steps"] = 0
    return own.replace(**values)
