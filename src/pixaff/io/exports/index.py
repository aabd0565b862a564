"""Grey PNGs whose grey is the class number, for programs that read a palette's colours."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixaff.io.atomic import write_bytes, write_text
from pixaff.io.exports.base import Item, Writer


class Index(Writer):
    """``NAME.png`` and ``classes.txt``."""

    name = "index"

    def files(self, name: str) -> tuple[Path, ...]:
        return (self.out / f"{name}.png",)

    def shared(self) -> tuple[Path, ...]:
        return (self.out / "classes.txt",)

    def convert(self, item: Item) -> Any:
        write_bytes(self.files(item.name)[0], grey_png(item.mask))

    def finish(self) -> None:
        write_text(self.shared()[0], "".join(f"{name}\n" for name in self.classes))


def grey_png(mask: NDArray[np.uint8]) -> bytes:
    """A mask (H, W) as a PNG without palette."""
    png = io.BytesIO()
    Image.fromarray(mask).save(png, format="PNG")
    return png.getvalue()
