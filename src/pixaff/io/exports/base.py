"""What the export formats share: an image to export, and the promises of a writer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixaff.errors import FormatError, UsageError, quoted
from pixaff.io.exports.splits import Split
from pixaff.io.masks import VOID


@dataclass(frozen=True, eq=False)
class Item:
    """An image to export.

    Attributes:
        name: The mask's name without suffix.
        mask: uint8 (H, W): 0 background, 1..K classes, 255 void.
        regions: int64 (H, W), 0 for background and void, 1..N for the connected regions of a class; None where the
            format needs none.
        photo: The photo, where photos were given.
        values: int64 (N,), mask values of the regions; None for those of the mask at their pixels.
        scores: float64 (N,), scores of the regions, where they have any.
        margin: float32 (H, W) in 0..1, the lead of the best propagated score, where scores were saved and the format
            has a place for them.
    """

    name: str
    mask: NDArray[np.uint8]
    regions: NDArray[np.int64] | None = None
    photo: Path | None = None
    values: NDArray[np.int64] | None = None
    scores: NDArray[np.float64] | None = None
    margin: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Corrected:
    """Masks that come back from a labelling tool.

    Attributes:
        classes: Names of the mask values 1, 2, ...
        names: The images that have a mask, without suffix.
        read: The mask of one of them, uint8 (H, W): 0 background, 1..K classes. Raises a `PixaffError` where it cannot
            be read.
        untouched: Images that nobody has annotated.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    read: Callable[[str], NDArray[np.uint8]]
    untouched: tuple[str, ...] = ()


class Writer:
    """Writes a set of masks in one format; used as a context manager, which completes the set when its block ends well.

    A format subclasses it and overrides what it needs.

    Args:
        out: Output folder.
        classes: Names of the mask values 1, 2, ...
        photos: Whether every `Item` has a photo.
        polygons: Write polygons where the format knows both polygons and pixels.
        split: Parts of the set; None makes one.

    Raises:
        UsageError: The format needs photos, knows no parts, or has no place for such a class name.
    """

    name = ""
    """As ``--to`` takes it."""
    regions = False
    """Whether `convert` needs `Item.regions`."""
    scores = False
    """Whether `convert` uses `Item.margin`."""
    splits = False
    """Whether the set may have parts."""
    needs_photos = False
    forbidden = ""
    """Characters that a class name must not have."""

    def __init__(
        self,
        out: Path,
        classes: Sequence[str],
        *,
        photos: bool = False,
        polygons: bool = False,
        split: Split | None = None,
    ) -> None:
        self.out = out
        self.classes = tuple(classes)
        self.photos = photos
        self.polygons = polygons
        self.split = split
        if split is not None and not self.splits:
            raise UsageError(f"--to {self.name} has no parts, found --split", "leave it out")
        if self.needs_photos and not photos:
            raise UsageError(f"--to {self.name} stores photos and masks together", "give --photos DIR")
        for name in self.classes:
            if any(sign in name for sign in self.forbidden):
                raise UsageError(f"the class name {name!r} cannot be written to {self.name}", "rename it: --classes")

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the set; "train" alone without a split."""
        return ("train",) if self.split is None else self.split.names

    def part_of(self, name: str) -> str:
        """The part of an image."""
        return "train" if self.split is None else self.split.part_of(name)

    def files(self, name: str) -> tuple[Path, ...]:
        """The files of one image."""
        return ()

    def shared(self) -> tuple[Path, ...]:
        """The files of the whole set."""
        return ()

    def convert(self, item: Item) -> Any:
        """Write the files of one image; called from several threads. Returns what `add` needs."""
        raise NotImplementedError

    def add(self, name: str, made: Any) -> None:
        """Take what `convert` returned; called in the order of the images."""

    def finish(self) -> None:
        """Write the files of the whole set."""

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()


def region_cuts(item: Item) -> list[tuple[int, tuple[slice, slice], NDArray[np.bool_]]]:
    """The connected regions of an image: mask value, the rows and columns of its box, and its pixels in that box."""
    assert item.regions is not None
    flat = item.regions.ravel()
    inside = np.flatnonzero(flat)
    order = inside[np.argsort(flat[inside], kind="stable")]
    width = item.mask.shape[1]
    cuts = []
    for places in np.split(order, np.flatnonzero(np.diff(flat[order])) + 1) if len(order) else []:
        rows, columns = np.divmod(places, width)
        top, left = int(rows[0]), int(columns.min())
        pixels = np.zeros((int(rows[-1]) - top + 1, int(columns.max()) - left + 1), np.bool_)
        pixels[rows - top, columns - left] = True
        box = slice(top, top + pixels.shape[0]), slice(left, left + pixels.shape[1])
        number = int(item.regions[rows[0], columns[0]])
        value = item.mask[rows[0], columns[0]] if item.values is None else item.values[number - 1]
        cuts.append((int(value), box, pixels))
    return cuts


def without_void(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mask with background in place of void, for formats that know none."""
    return np.where(mask == VOID, np.uint8(0), mask)


def image_name(text: str, source: Path) -> str:
    """The name of an image that a strange file names, as a path without suffix that stays within its folder.

    Raises:
        FormatError: It leads elsewhere.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    parts = path.with_suffix("").parts if path.name else ()
    bad = not parts or path.is_absolute() or ":" in parts[0] or any(part in ("", ".", "..") for part in parts)
    if bad or not all(sign.isprintable() for sign in text):
        raise FormatError(f"{source}: found the name {quoted(text)}, expected one within the folder")
    return "/".join(parts)


def class_values(found: Sequence[str], classes: Sequence[str], source: Path) -> dict[str, int]:
    """The mask values of the class names in a strange file.

    Raises:
        FormatError: A name is no class.
    """
    values = {name: value for value, name in enumerate(classes, 1)}
    unknown = [name for name in found if name not in values]
    if unknown:
        raise FormatError(
            f"{source}: found the label {quoted(unknown[0])}, expected one of {', '.join(map(quoted, classes[:8]))}",
            "--classes names the classes in the order of the mask values",
        )
    return {name: values[name] for name in found}
