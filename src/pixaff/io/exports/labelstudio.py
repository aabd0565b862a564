"""Label Studio: tasks with brush predictions, and the labelling configuration that they belong to."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from pixaff.io.atomic import write_text
from pixaff.io.exports.base import Item, Writer
from pixaff.io.masks import voc_palette

ADDRESS = "/data/local-files/?d="
"""Of a photo in Label Studio's local storage; its name follows."""
_SIZES = (3, 4, 8, 16)


class LabelStudio(Writer):
    """``tasks.json`` and ``label_config.xml``. Each class of an image is one brush region; void is left out."""

    name = "labelstudio"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tasks: list[dict[str, Any]] = []

    def shared(self) -> tuple[Path, ...]:
        return self.out / "tasks.json", self.out / "label_config.xml"

    def convert(self, item: Item) -> Any:
        height, width = item.mask.shape
        results = []
        for value in np.unique(item.mask).tolist():
            if not 0 < value <= len(self.classes):
                continue
            name = self.classes[value - 1]
            brush = {"format": "rle", "rle": brush_rle(item.mask == value), "brushlabels": [name]}
            results.append(
                {
                    "id": f"{value:03}",
                    "type": "brushlabels",
                    "from_name": "label",
                    "to_name": "image",
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "value": brush,
                }
            )
        photo = f"{item.name}.jpg"
        if item.photo is not None:
            photo = PurePosixPath(item.name).with_name(item.photo.name).as_posix()
        data = {"image": ADDRESS + quote(photo, errors="surrogateescape")}
        return {"data": data, "predictions": [{"model_version": "pixaff", "result": results}]}

    def add(self, name: str, made: Any) -> None:
        self.tasks.append(made)

    def finish(self) -> None:
        tasks, config = self.shared()
        write_text(tasks, json.dumps(self.tasks, ensure_ascii=False) + "\n")
        colours = voc_palette()[1:]
        labels = "".join(
            f'    <Label value={quoteattr(name)} background="#{bytes(colour).hex()}"/>\n'
            for name, colour in zip(self.classes, colours, strict=False)
        )
        image = '  <Image name="image" value="$image" zoom="true"/>\n'
        brush = f'  <BrushLabels name="label" toName="image">\n{labels}  </BrushLabels>\n'
        write_text(config, f"<View>\n{image}{brush}</View>\n")


def brush_rle(pixels: NDArray[np.bool_]) -> list[int]:
    """Label Studio's run lengths: bytes of a stream of bits, of an image of four channels of 0 or 255.

    The stream begins with the number of values (32 bits), the bits of a value less 1 (5), and four sizes less 1 (4 bits
    each). A run follows as 1, the number of a size (2 bits), the length less 1 in as many bits, and the value.
    """
    flat = pixels.ravel()
    ends = np.append(np.flatnonzero(np.diff(flat)) + 1, flat.size)
    bits = [f"{4 * flat.size:032b}{7:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    begin = 0
    for end in ends.tolist():
        value, length = ("11111111" if flat[begin] else "00000000"), 4 * (end - begin)
        begin = end
        while length:
            which, size = next((n, size) for n, size in enumerate(_SIZES) if length <= 1 << size or size == _SIZES[-1])
            run = min(length, 1 << size)
            bits.append(f"1{which:02b}{run - 1:0{size}b}{value}")
            length -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
