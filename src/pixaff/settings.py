"""The hyper-parameters of the method, each with its help and range.

A model carries its own `Settings`, since the alphas must fit its CAMs; the command line replaces single values, and
every run prints and records the ones that took effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from pixaff.errors import UsageError
from pixaff.options import check_options, option, options_of, unknown_option

CAMS = ("cam", "propagate")
WALK = ("propagate",)
HYPER_PARAMETERS = ("crf_low", "crf_high", "alpha", "beta", "radius", "steps", "borders")
"""Fields that belong to the method and not to the networks: those that a preset lends to another model."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides a mask, besides the image, its labels and the weights.

    Every option says which commands take it; `pixaff.fit` takes them all.

    Attributes:
        preset: Name of the set of values.
        cam: Registry name of the CAM network.
        affinity: Registry name of the AffinityNet.

    Raises:
        UsageError: A value is out of range.
    """

    preset: str = "lite"
    cam: str = "lite_cam"
    affinity: str = "lite_affinity"
    scales: tuple[float, ...] = option(
        (1.0, 0.5), "Image scales whose CAMs are summed.", "S,S,...", above=0, at_most=8, commands=CAMS
    )
    flip: bool = option(True, "Sum the CAMs of the mirrored image, too.", commands=CAMS)
    size: int = option(
        512,
        "Working size: larger photos are shrunk to this long side; 0 keeps every photo's own size.",
        "PIXELS",
        at_least=0,
        commands=("cam", "crf", "propagate"),
    )
    label_threshold: float = option(
        0.35, "Probability from which a predicted class counts as present.", "P", above=0, at_most=1, commands=CAMS
    )
    seed_low: float = option(
        8.0, "Like --crf-low, for training the segmentation head.", "A", above=0, commands=("fit",)
    )
    seed_high: float = option(
        16.0, "Like --crf-high, for training the segmentation head.", "A", above=0, commands=("fit",)
    )
    crf_low: float = option(
        0.5, "Alpha of the CRF with much background, (1 - max CAM)^A.", "A", above=0, commands=("crf",)
    )
    crf_high: float = option(
        3.0, "Alpha of the CRF with little background, (1 - max CAM)^A.", "A", above=0, commands=("crf",)
    )
    alpha: float = option(
        1.25,
        "Background score of the walk, (1 - max CAM)^A. Larger: less background, more foreground.",
        "A",
        above=0,
        commands=WALK,
    )
    beta: float = option(
        20.0, "Power of the affinities. Larger: the walk stops at weaker edges.", "B", above=0, commands=WALK
    )
    radius: int = option(
        5, "Radius of the neighbourhood, in cells of 8 pixels.", "R", at_least=2, at_most=64, commands=WALK
    )
    steps: int = option(256, "Number of steps of the random walk.", "T", at_least=0, commands=WALK)
    borders: Literal["full", "published"] = option(
        "full", "Neighbourhood of cells near the border: complete, or as in the published code.", commands=WALK
    )
    final_crf: bool = option(True, "Refine the masks with a dense CRF after the walk.", commands=WALK)

    def __post_init__(self) -> None:
        check_options(self)
        if 0 < self.size < 32:
            raise UsageError(f"size is {self.size}, expected 0 (the photo's own) or at least 32 pixels")

    @property
    def enlarge_below(self) -> int:
        """Long side in pixels below which a photo is enlarged to the working size.

        The walk goes as many cells far in a small photo as in a large one, and would even it out as a whole. Close to
        the working size nothing is gained (docs/performance.md has figures).
        """
        return self.size * 7 // 8

    def replace(self, **overrides: Any) -> Settings:
        """A copy with some values replaced; ``None`` keeps the present one, as for an option that was not given.

        Raises:
            UsageError: A name is no setting, or a value is out of range.
        """
        known = {field.name for field in fields(self)}
        for name in overrides:
            if name not in known:
                raise unknown_option(name, "setting", known)
        return replace(self, **{name: value for name, value in overrides.items() if value is not None})

    def with_hyper_parameters_of(self, other: Settings) -> Settings:
        """A copy that keeps the networks and takes the method's hyper-parameters from other settings."""
        return self.replace(preset=other.preset, **{name: getattr(other, name) for name in HYPER_PARAMETERS})

    def of(self, command: str) -> dict[str, Any]:
        """The values that a command's outputs depend on, plain for JSON."""
        return self.pick(options_of(type(self), command))

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
