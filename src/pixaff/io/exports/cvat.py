"""CVAT's "Segmentation mask 1.1": a zip of masks of classes and of instances, in colours that `labelmap.txt` lists."""

from __future__ import annotations

import io
import zipfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixaff.io.atomic import atomic_stream
from pixaff.io.exports.base import Item, Writer, without_void
from pixaff.io.masks import voc_palette

MOST_OBJECTS = 255
"""Colours that are told apart in a mask of instances."""


class Cvat(Writer):
    """``masks.zip``, to be imported into a task that has the photos. Void becomes background."""

    name = "cvat"
    regions = True
    forbidden = ":\n"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.names: list[str] = []
        self._open = ExitStack()

    def shared(self) -> tuple[Path, ...]:
        return (self.out / "masks.zip",)

    def __enter__(self) -> Cvat:
        stream = self._open.enter_context(atomic_stream(self.shared()[0]))
        self._zip = self._open.enter_context(zipfile.ZipFile(stream, "w"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            if error is not None:
                self._open.__exit__(kind, error, trace)
                return
            colours = voc_palette()[: len(self.classes) + 1].tolist()
            lines = [
                f"{name}:{red},{green},{blue}::\n"
                for name, (red, green, blue) in zip(("background", *self.classes), colours, strict=True)
            ]
            self._zip.writestr("labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(lines))
            self._zip.writestr("ImageSets/Segmentation/default.txt", "".join(f"{name}\n" for name in self.names))

    def convert(self, item: Item) -> Any:
        assert item.regions is not None
        mask, objects = without_void(item.mask), item.regions
        if objects.max() > MOST_OBJECTS:
            objects = mask.astype(np.int64)  # an instance for each class
        return _coloured(mask), _coloured(objects.astype(np.uint8))

    def add(self, name: str, made: Any) -> None:
        self.names.append(name)
        for folder, png in zip(("SegmentationClass", "SegmentationObject"), made, strict=True):
            self._zip.writestr(f"{folder}/{name}.png", png)


def _coloured(values: NDArray[np.uint8]) -> bytes:
    """A PNG in RGB: of palettes, programs disagree whether the number or the colour counts."""
    png = io.BytesIO()
    Image.fromarray(voc_palette()[values]).save(png, format="PNG")
    return png.getvalue()
