"""What the export formats share: an image to export, and the promises of a writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixaff.errors import UsageError
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
    """

    name: str
    mask: NDArray[np.uint8]
    regions: NDArray[np.int64] | None = None
    photo: Path | None = None
    values: NDArray[np.int64] | None = None
    scores: NDArray[np.float64] | None = None


class Writer:
    """Writes a set of masks in one format; used as a context manager, which completes the set when its block ends well.

    A format subclasses it and overrides what it needs.

    Args:
        out: Output folder.
        classes: Names of the mask values 1, 2, ...
        photos: Whether every `Item` has a photo.
        polygons: Write polygons where the format knows both polygons and pixels.

    Raises:
        UsageError: The format needs photos, or has no place for such a class name.
    """

    name = ""
    """As ``--to`` takes it."""
    regions = False
    """Whether `convert` needs `Item.regions`."""
    needs_photos = False
    forbidden = ""
    """Characters that a class name must not have."""

    def __init__(self, out: Path, classes: Sequence[str], *, photos: bool = False, polygons: bool = False) -> None:
        self.out = out
        self.classes = tuple(classes)
        self.photos = photos
        self.polygons = polygons
        if self.needs_photos and not photos:
            raise UsageError(f"--to {self.name} stores photos and masks together", "give --photos DIR")
        for name in self.classes:
            if any(sign in name for sign in self.forbidden):
                raise UsageError(f"the class name {name!r} cannot be written to {self.name}", "rename it: --classes")

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
