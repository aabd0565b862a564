"""The numbers of the method, gathered in one place and named by presets.

A model carries its own `Settings` (the background powers must fit its activation maps); the command line replaces
single values, and every run prints and records the ones that took effect.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from pixaff.errors import UsageError

BORDERS = ("full", "published")
NUMBERS = ("crf_low", "crf_high", "alpha", "beta", "radius", "steps", "borders")
"""Fields that belong to the method and not to the networks: those that a preset lends to another model."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides a mask, besides the photo and the weights.

    Attributes:
        preset: Name the values go by.
        cam: Registry name of the network that makes the class activation maps.
        affinity: Registry name of the AffinityNet.
        scales: Image scales whose activation maps are summed.
        flip: Whether every scale is seen mirrored as well.
        size: Long side in pixels at which the networks and the CRF work; larger photos are shrunk to it, smaller ones
            stay as they are. 0 means the photo's own size.
        seed_low, seed_high: As ``crf_low`` and ``crf_high``, for the cells that a network's pixel head learns from.
        crf_low: Power of the background score ``(1 - max cam) ** power`` for the CRF with much background.
        crf_high: The same for the CRF with little background.
        alpha: The same for the random walk.
        beta: Power to which each affinity is raised before the walk.
        radius: Radius in cells of 8 pixels within which two cells are neighbours.
        steps: Length of the random walk.
        borders: "published" leaves cells near the border with fewer neighbours, as the published graph does; "full"
            gives them all that lie within the radius.
        label_threshold: Probability from which a predicted class counts as present.
        final_crf: Whether a dense CRF follows the walk.

    Raises:
        UsageError: A value is out of range.
    """

    preset: str = "lite"
    cam: str = "lite_cam"
    affinity: str = "lite_affinity"
    scales: tuple[float, ...] = (1.0, 0.5)
    flip: bool = True
    size: int = 512
    seed_low: float = 8.0
    seed_high: float = 16.0
    crf_low: float = 0.5
    crf_high: float = 3.0
    alpha: float = 1.25
    beta: float = 20.0
    radius: int = 5
    steps: int = 256
    borders: Literal["full", "published"] = "full"
    label_threshold: float = 0.35
    final_crf: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        for name in ("seed_low", "seed_high", "crf_low", "crf_high", "alpha", "beta"):
            value = float(getattr(self, name))
            _expect(math.isfinite(value) and value > 0, name, value, "a number above 0")
            object.__setattr__(self, name, value)
        _expect(bool(self.scales) and all(0 < s <= 8 for s in self.scales), "scales", self.scales, "between 0 and 8")
        _expect(self.size == 0 or self.size >= 32, "size", self.size, "0 (the photo's own) or at least 32 pixels")
        _expect(self.radius >= 2, "radius", self.radius, "at least 2 cells")
        _expect(self.steps >= 0, "steps", self.steps, "0 or more")
        _expect(self.borders in BORDERS, "borders", self.borders, " or ".join(BORDERS))
        _expect(0 < self.label_threshold <= 1, "label_threshold", self.label_threshold, "above 0 and at most 1")

    def replace(self, **overrides: Any) -> Settings:
        """A copy with some values replaced; ``None`` keeps the present one, as for an option that was not given.

        Raises:
            UsageError: A name is no setting, or a value is out of range.
        """
        known = {field.name for field in fields(self)}
        for name in overrides:
            if name not in known:
                raise UsageError(f"no setting is called {name!r}", f"settings: {', '.join(sorted(known))}")
        return replace(self, **{name: value for name, value in overrides.items() if value is not None})

    def with_numbers_of(self, preset: str) -> Settings:
        """A copy that keeps the networks and takes the method's numbers (`NUMBERS`) from a preset.

        Raises:
            UsageError: No preset has that name.
        """
        other = preset_settings(preset)
        return self.replace(preset=preset, **{name: getattr(other, name) for name in NUMBERS})

    def pick(self, names: Iterable[str]) -> dict[str, Any]:
        """Some of the values, plain for JSON."""
        values = self.to_dict()
        return {name: values[name] for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "scales": list(self.scales)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from JSON; values left out take the defaults, unknown names raise `UsageError`."""
        return cls().replace(**values)


def value_words(value: Any) -> str:
    """A value as it is typed: 3 instead of 3.0, yes instead of True."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(value_words(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _expect(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise UsageError(f"{name} is {value}, expected {expected}")


# alpha, CRF and walk numbers of the published networks: Ahn & Kwak, CVPR 2018, and the authors' later release.
_PSA = Settings(
    scales=(1.0, 0.5, 1.5, 2.0),
    size=0,
    crf_low=4.0,
    crf_high=32.0,
    alpha=16.0,
    beta=8.0,
    steps=256,
    borders="published",
    label_threshold=0.5,
    final_crf=False,
)

PRESETS: dict[str, Settings] = {
    "lite": Settings(),
    "psa-vgg16": replace(_PSA, preset="psa-vgg16", cam="vgg16_cam", affinity="vgg16_affinity"),
    "psa-resnet38": replace(_PSA, preset="psa-resnet38", cam="resnet38_cam", affinity="resnet38_affinity"),
    "psa-resnet38-cvpr": replace(
        _PSA, preset="psa-resnet38-cvpr", cam="resnet38_cam", affinity="resnet38_affinity", crf_high=24.0
    ),
    "hybrid": replace(
        _PSA, preset="hybrid", cam="hybrid_cam", affinity="hybrid_affinity", scales=(1.0,), alpha=4.0, beta=16.0
    ),
}
"""Settings by name: the embedded model's and those of the published networks."""


def preset_settings(name: str) -> Settings:
    """The settings of a preset, its networks among them.

    Raises:
        UsageError: No preset has that name.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset is called {name!r}", f"presets: {', '.join(PRESETS)}")
    return PRESETS[name]


def settings_of_network(cam: str) -> Settings:
    """The settings that a CAM network goes with: those of the first preset that has it, else the default numbers."""
    return next((settings for settings in PRESETS.values() if settings.cam == cam), Settings(cam=cam))
