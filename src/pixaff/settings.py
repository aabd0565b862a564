"""The hyper-parameters of the method, each with its help and range.

A model has its own `Settings`, because the alphas must suit its CAMs. The command line replaces single values, and
every run prints and records the effective ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from pixaff.errors import UsageError
from pixaff.options import check_options, option, options_of, unknown_option

CAMS = ("cam", "propagate")
WALK = ("propagate",)
HYPER_PARAMETERS = (
    "crf_low",
    "crf_high",
    "conf_fg",
    "conf_bg",
    "walk",
    "alpha",
    "background",
    "beta",
    "boundary_beta",
    "radius",
    "steps",
    "borders",
    "final_crf",
)
"""Fields that belong to the method rather than to the networks: a preset lends these to another model."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides a mask, besides the image, its labels and the weights.

    Every option says which commands take it; `pixaff.fit` takes all of them.

    Attributes:
        preset: Name of the set of values.
        cam: Registry name of the CAM network.
        affinity: Registry name of the AffinityNet; "" if there is none.
        irn: Registry name of the network of class boundaries and displacements; "" if there is none.

    Raises:
        UsageError: A value is out of range.
    """

    preset: str = "lite"
    cam: str = "lite_cam"
    affinity: str = "lite_affinity"
    irn: str = "lite_irn"
    scales: tuple[float, ...] = option(
        (1.0, 0.5), "Image scales whose CAMs are summed.", "S,S,...", above=0, at_most=8, commands=CAMS
    )
    flip: bool = option(True, "Also sum the CAMs of the mirror image.", commands=CAMS)
    size: int = option(
        512,
        "Working size: long side to which large photos are shrunk and small ones enlarged; 0 keeps each photo's own.",
        "PIXELS",
        at_least=0,
        commands=("cam", "crf", "propagate"),
    )
    label_threshold: float = option(
        0.55, "Probability from which a predicted class counts as present.", "P", above=0, at_most=1, commands=CAMS
    )
    seed_low: float = option(
        8.0, "Like --crf-low, for the training of the segmentation head.", "A", above=0, commands=("fit",)
    )
    seed_high: float = option(
        16.0, "Like --crf-high, for the training of the segmentation head.", "A", above=0, commands=("fit",)
    )
    crf_low: float = option(
        0.5,
        "Alpha of the CRF with much background. Its score is (1 - max CAM)^A; larger: more foreground.",
        "A",
        above=0,
        commands=("crf",),
    )
    crf_high: float = option(
        3.0,
        "Alpha of the CRF with little background. Its score is (1 - max CAM)^A; larger: more foreground.",
        "A",
        above=0,
        commands=("crf",),
    )
    conf_fg: float = option(
        0.6,
        "Score of the background in the labelling whose foreground is sure (confident labels).",
        "P",
        at_least=0,
        at_most=1,
        commands=("crf",),
    )
    conf_bg: float = option(
        0.3,
        "Score of the background in the labelling whose background is sure (confident labels); at most --conf-fg.",
        "P",
        at_least=0,
        at_most=1,
        commands=("crf",),
    )
    walk: Literal["psa", "irn", "both"] = option(
        "irn",
        "Affinities of the walk: of the AffinityNet (psa), of class boundaries (irn), or the product of both.",
        commands=WALK,
    )
    alpha: float = option(
        1.5,
        "Larger: more foreground, smaller: more background. Exponent of the walk's background score, (1 - max CAM)^A; "
        "0.25 to 32 is usual.",
        "A",
        above=0,
        commands=WALK,
    )
    background: float = option(
        0.0,
        "Constant score of the background, beside propagated scores of at most 1; 0: it is propagated, see --alpha.",
        "P",
        at_least=0,
        at_most=1,
        commands=WALK,
    )
    beta: float = option(
        20.0,
        "Exponent of the AffinityNet's affinities, in the walks psa and both. Larger: the walk stops at weaker edges.",
        "B",
        above=0,
        commands=WALK,
    )
    boundary_beta: float = option(
        10.0, "Exponent of the affinities of class boundaries, in the walks irn and both.", "B", above=0, commands=WALK
    )
    radius: int = option(
        5,
        "Radius of the neighbourhood of a cell, in cells: of 8 pixels in the walks psa and both, of 4 in the walk irn.",
        "R",
        at_least=2,
        at_most=64,
        commands=WALK,
    )
    steps: int = option(256, "Number of steps of the random walk.", "T", at_least=0, commands=WALK)
    borders: Literal["full", "published"] = option(
        "full", "Neighbourhood of cells near the border: complete, or as in the published code.", commands=WALK
    )
    final_crf: bool = option(
        False,
        "Refine the masks with a dense CRF after the walk: outlines follow the edges of the photo.",
        commands=WALK,
    )

    def __post_init__(self) -> None:
        check_options(self)
        check_size(self.size)

    @property
    def enlarge_below(self) -> int:
        """Long side in pixels below which a photo is enlarged to the working size.

        The walk crosses as many cells in a small photo as in a large one, and would level out its scores. Close to the
        working size enlarging gains nothing (docs/lite.md).
        """
        return self.size * 7 // 8

    def replace(self, **overrides: Any) -> Settings:
        """A copy with some values replaced; ``None`` means not given, and keeps the present value.

        Raises:
            UsageError: A name is no setting, or a value is out of range.
        """
        known = {field.name for field in fields(self)}
        for name in overrides:
            if name not in known:
                raise unknown_option(name, "setting", known)
        return replace(self, **{name: value for name, value in overrides.items() if value is not None})

    def with_hyper_parameters_of(self, other: Settings) -> Settings:
        """A copy with the same networks, and the hyper-parameters of other settings."""
        return self.replace(preset=other.preset, **{name: getattr(other, name) for name in HYPER_PARAMETERS})

    def of(self, command: str) -> dict[str, Any]:
        """The values on which a command's outputs depend, plain for JSON."""
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
        """Settings from JSON; missing values get the defaults, unknown names raise `UsageError`."""
        return cls().replace(**values)


@dataclass(frozen=True)
class SegSettings:
    """Everything that decides the mask of a segmentation network, besides the image, its labels and the weights.

    Raises:
        UsageError: A value is out of range.
    """

    scales: tuple[float, ...] = option(
        (1.0,), "Image scales whose probabilities are averaged.", "S,S,...", above=0, at_most=8
    )
    flip: bool = option(False, "Also average with the mirror image.")
    size: int = option(
        384,
        "Working size: long side to which large photos are shrunk and small ones enlarged; 0 keeps each photo's own.",
        "PIXELS",
        at_least=0,
    )
    crf: bool = option(False, "Refine the masks with a dense CRF.")

    def __post_init__(self) -> None:
        check_options(self)
        check_size(self.size)

    @property
    def enlarge_below(self) -> int:
        """Long side in pixels below which a photo is enlarged to the working size, as for `Settings`."""
        return self.size * 7 // 8

    def replace(self, **overrides: Any) -> SegSettings:
        """A copy with some values replaced; ``None`` means not given, and keeps the present value.

        Raises:
            UsageError: A name is no setting, or a value is out of range.
        """
        known = {field.name for field in fields(self)}
        for name in overrides:
            if name not in known:
                raise unknown_option(name, "setting", known)
        return replace(self, **{name: value for name, value in overrides.items() if value is not None})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "scales": list(self.scales)}


def check_size(size: int) -> None:
    """Refuse a working size that is too small to see anything.

    Raises:
        UsageError: It is.
    """
    if 0 < size < 32:
        raise UsageError(f"size is {size}, expected 0 (the photo's own) or at least 32 pixels")


def value_words(value: Any) -> str:
    """A value as it is typed: 3 instead of 3.0, yes instead of True, none instead of None."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(value_words(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
