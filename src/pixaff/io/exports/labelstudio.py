"""Label Studio: tasks with brush predictions, and the labelling configuration that they belong to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from pixaff.errors import FormatError, PixaffError, quoted, shortened
from pixaff.io.atomic import write_text
from pixaff.io.exports.base import Corrected, Item, Writer, class_values, image_name
from pixaff.io.masks import voc_palette
from pixaff.io.picture_files import MAX_PIXELS
from pixaff.io.records import parse_json
from pixaff.io.regular import check_regular

ADDRESS = "/data/local-files/?d="
"""Of a photo in Label Studio's local storage; its name follows."""
MOST_BYTES = 1 << 30
"""Of an export, as its brushes are long lists of numbers."""
_SIZES = (3, 4, 8, 16)
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # before the names of uploaded files
_HINT = "export as JSON, not as JSON-MIN"


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


def detect(source: Path) -> bool:
    """Whether this may be an export from Label Studio."""
    return source.is_file() and source.suffix.lower() == ".json"


@contextmanager
def corrected(source: Path, classes: Sequence[str] | None) -> Iterator[Corrected]:
    """Read Label Studio's JSON export: the brushes of the newest annotation of each task.

    Args:
        source: The file.
        classes: Names of the mask values 1, 2, ...

    Raises:
        FormatError: It is no such file, or nothing says the order of the classes.
    """
    if classes is None:
        raise FormatError(f"{source}: nothing in it says the mask values of the classes", "give --masks or --classes")
    tasks: dict[str, list[Mapping[str, Any]]] = {}
    untouched = []
    for task in _tasks(source):
        name = _name(task, source)
        chosen = [each for each in _list(task.get("annotations")) if not each.get("was_cancelled")]
        if chosen:
            newest = max(chosen, key=lambda each: str(each.get("updated_at") or each.get("created_at") or ""))
            tasks[name] = _list(newest.get("result"))
        else:
            untouched.append(name)
    known = tuple(classes)

    def mask_of(name: str) -> NDArray[np.uint8]:
        try:
            return _mask(tasks[name], known, source)
        except PixaffError as error:
            raise FormatError(f"{source}, {shortened(name)}: {error.message}", error.hint) from None
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise FormatError(f"{source}, {shortened(name)}: no readable brush: {shortened(error)}", _HINT) from None

    yield Corrected(known, tuple(sorted(tasks)), mask_of, tuple(untouched))


def _tasks(source: Path) -> list[Mapping[str, Any]]:
    check_regular(source, FormatError)
    try:
        if source.stat().st_size > MOST_BYTES:
            raise FormatError(f"{source}: found more than {MOST_BYTES >> 20} MiB", "export fewer tasks at a time")
        found = parse_json(source.read_bytes())
    except OSError as error:
        raise FormatError(f"{source}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise FormatError(f"{source}: no valid JSON ({shortened(error)}), expected tasks of Label Studio") from None
    tasks = [each for each in _list(found) if "data" in each]
    if not tasks:
        raise FormatError(f"{source}: found no tasks in it, expected an export from Label Studio", _HINT)
    return tasks


def _list(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _name(task: Mapping[str, Any], source: Path) -> str:
    """The name of the photo of a task, from its address."""
    data = task.get("data")
    texts = [text for text in (data.values() if isinstance(data, dict) else ()) if isinstance(text, str)]
    address = data["image"] if isinstance(data, dict) and isinstance(data.get("image"), str) else "".join(texts[:1])
    parts = urlsplit(address)
    local = parse_qs(parts.query, errors="surrogateescape").get("d")
    if local:
        return image_name(local[0], source)
    return image_name(_UPLOADED.sub("", unquote(parts.path, errors="surrogateescape").rpartition("/")[2]), source)


def _mask(results: Sequence[Mapping[str, Any]], classes: tuple[str, ...], source: Path) -> NDArray[np.uint8]:
    """The mask of an annotation; where brushes overlap, the last one counts."""
    brushes = [each for each in results if each.get("type") == "brushlabels"]
    others = {str(each.get("type")) for each in results} - {"brushlabels"}
    if others:
        raise FormatError(f"found a result of the kind {quoted(min(others))}, expected brushes", "draw with the brush")
    if not brushes:
        raise FormatError("found an annotation without a brush, which has no size", "leave it out, or draw something")
    size = int(brushes[0]["original_height"]), int(brushes[0]["original_width"])
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise FormatError(f"found {size[1]} x {size[0]} pixels, expected at most {MAX_PIXELS // 1_000_000} megapixels")
    mask = np.zeros(size, np.uint8)
    for each in brushes:
        if each.get("image_rotation"):
            raise FormatError("found a turned photo, whose brushes do not fit", "turn it back in Label Studio")
        (label,) = each["value"]["brushlabels"]
        value = class_values([label], classes, source)[label]
        mask[brush_pixels(each["value"]["rle"], size)] = value
    return mask


def brush_pixels(rle: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of `brush_rle`, bool (H, W): those that are not transparent.

    Raises:
        ValueError: It is damaged, or of another size.
    """
    data = bytes(rle)
    total, word = int.from_bytes(data[:4], "big"), (data[4] >> 3) + 1
    if total != 4 * size[0] * size[1]:
        raise ValueError(f"found {total} values, expected {4 * size[0] * size[1]} for {size[1]} x {size[0]} pixels")
    place = 37

    def read(count: int) -> int:
        nonlocal place
        first, end = place >> 3, place + count
        last = (end + 7) >> 3
        if last > len(data):
            raise ValueError("found an end in the middle of a run")
        place = end
        return int.from_bytes(data[first:last], "big") >> (8 * last - end) & (1 << count) - 1

    sizes = [read(4) + 1 for _ in range(4)]
    values, at = np.zeros(total, np.uint8), 0
    while at < total:
        same = read(1)
        end = at + 1 + read(sizes[read(2)])
        if end > total:
            raise ValueError(f"found runs of more than {total} values")
        values[at:end] = read(word) if same else [read(word) for _ in range(end - at)]
        at = end
    opaque: NDArray[np.bool_] = values.reshape(*size, 4)[..., 3] > 0
    return opaque
