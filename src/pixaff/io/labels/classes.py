"""Class lists: the names of the mask values 1, 2, ..., and their colours if the list has any."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pixaff.errors import LabelsError, quoted
from pixaff.io.labels.image_list import nfc
from pixaff.io.labels.text import read_text

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
MAX_CLASSES = 254  # mask values 1..254; 0 is background and 255 void
VOID = 255

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


def _form(pattern: str, between: str = "[,;\\t]") -> re.Pattern[str]:
    """A pattern in which RGB stands for a colour, its numbers parted by `between`, and SEP for a separator."""
    colour = rf"\s*{between}\s*".join(rf"(?P<{part}>\d{{1,3}})" for part in "rgb")
    return re.compile(pattern.replace("RGB", colour).replace("SEP", r"\s*[,;\t]\s*"))


# Lists with more than a name in a line: all lines have one of these forms, but for a header.
_FORMS = (
    _form(r"(?P<name>[^:]+):(?:RGB)?:[^:]*:[^:]*", ","),  # labelmap.txt of CVAT: name:r,g,b:parts:actions
    _form(r"(?P<name>[^:]+):RGB(?::[^:]*)?", ","),
    _form(r"(?P<number>\d{1,3})SEP(?P<name>[^,;\t]+?)SEPRGB"),
    _form(r"(?P<name>[^,;\t]+?)SEPRGB"),  # class_dict.csv: name,r,g,b
    _form(r"(?P<name>\D+?)\s+RGB", " "),
    _form(r"RGB[ ,;\t]+(?P<name>.+)", "[ ,;\t]"),  # label_colors.txt of CamVid: r g b name
    _form(r"(?P<number>\d{1,3})\s*[,;:\t]\s*(?P<name>.+)"),  # _classes.csv of Roboflow: number, name
    _form(r"(?P<name>.+?)\s*[,;:\t]\s*(?P<number>\d{1,3})"),
)
_COUNTED = re.compile(r"(?P<number>\d{1,3})\s+(?P<name>.+)")
_BACKGROUND = {"background", "_background_", "__background__"}
_IGNORED = {"__ignore__", "_ignore_", "__void__", "_void_", "void", "ignore", "ignored"}
_HEADERS = {"classes", "class names", "class_names", "class_name", "class name", "names", "labels", "categories"}
# fmt: off
_HEADER_WORDS = {"name", "names", "class", "classes", "label", "labels", "category", "value", "values", "pixel", "id",
                 "index", "number", "no", "r", "g", "b", "red", "green", "blue", "rgb", "color", "colour"}
# fmt: on
_MAX_LINE, _MAX_LINES = 1000, 10_000  # characters, lines: no class list has as many
# Pieces of JSON and YAML.
_OTHER_FILE = re.compile(r"""[{}\[\]]|^\w+\s*:\s*$|^["'-]""")
_EXAMPLE = "expected a name a line, such as cat, the first for mask value 1; or lines such as 1,cat or cat:128,0,0"


@dataclass(frozen=True)
class ClassList:
    """What a class list says.

    Attributes:
        names: Class names of the mask values 1, 2, ...
        colours: Mask value by colour, with 0 for background and 255 for void where the list has colours for them;
            None where it has no colours.
    """

    names: tuple[str, ...]
    colours: dict[Colour, int] | None = None


@dataclass(frozen=True)
class _Line:
    number: int
    name: str
    value: int | None = None
    colour: Colour | None = None


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read class names, one per line; the first is mask value 1. See `read_class_list` for what else is understood.

    Raises:
        LabelsError: As for `read_class_list`.
    """
    return read_class_list(path).names


def read_class_list(path: str | os.PathLike[str]) -> ClassList:
    """Read class names, and their mask values and colours if a labelling tool has written any.

    Lines are `name`, `name:r,g,b:...`, `name,r,g,b`, `r g b name`, `number,name` or `name,number`, all of one kind,
    with a header or not. Lines that begin with # are comments. Background may stand first, as `background`,
    `_background_` or `__background__`, and `__ignore__` before it; numbered, they are 0 and 255.

    Raises:
        LabelsError: Unreadable, empty, a blank line between names, a name or colour twice, background or void in
            another place, numbers other than 1, 2, ..., ";" in a name, more than 254 names, or another kind of file.
    """
    lines = _numbered(path, _lines(path))
    colours: dict[Colour, int] = {}
    names: dict[str, int] = {}
    for line in lines:
        where = f"{path}, line {line.number}"
        value = line.value
        assert value is not None
        if 0 < value < VOID:
            if ";" in line.name:
                found = f'found ";" in {quoted(line.name)}'
                raise LabelsError(f"{where}: {found}", "rename the class: label files join names by ;")
            if line.name in names:
                raise LabelsError(
                    f"{where}: found {quoted(line.name)} again, first in line {names[line.name]}", "remove one of them"
                )
            names[line.name] = line.number
        if line.colour is not None and colours.setdefault(line.colour, value) != value:
            raise LabelsError(f"{where}: found the colour {line.colour} again", "give every class its own")
    if not names:
        raise LabelsError(f"{path}: found no class name", "write one per line, without background")
    return ClassList(tuple(names), colours or None)


def near_name(name: str, classes: Sequence[str]) -> str:
    """A hint about an unknown class name: the nearest class, or some of the classes."""
    if name.lower() in _BACKGROUND:
        return "leave it out: background needs no label"
    parts = [part.strip() for part in re.split(r"[,|/]", name)]
    if len(parts) > 1 and all(part in classes for part in parts):
        return f"join several labels by ;, as in {';'.join(parts)}"
    folded = {known.lower(): known for known in classes}
    near = difflib.get_close_matches(name.lower()[:200], folded, n=1, cutoff=0.6)
    return f"did you mean {quoted(folded[near[0]])}?" if near else f"expected one of: {_some(list(folded.values()))}"


def _lines(path: str | os.PathLike[str]) -> list[_Line]:
    """The lines taken apart: names, and numbers and colours where all lines have some."""
    text = [(number, line.strip()) for number, line in enumerate(read_text(path).rstrip().splitlines(), 1)]
    text = [(number, line) for number, line in text if not line.startswith("#")]
    while text and not text[0][1]:
        del text[0]
    if not text:
        raise LabelsError(f"{path}: found no class name", "write one per line, without background")
    if len(text) > _MAX_LINES:
        raise LabelsError(f"{path}: found {len(text):,} lines, expected a class list", _EXAMPLE)
    for number, line in text:
        if not line:
            raise LabelsError(f"{path}, line {number}: blank line", "remove it: the line numbers are the mask values")
        if len(line) > _MAX_LINE or _OTHER_FILE.search(line):
            raise LabelsError(f"{path}, line {number}: found {quoted(line)}", _EXAMPLE)
    for form in _FORMS:
        matches = [form.fullmatch(line) for _, line in text]
        if all(matches[1:]) and (matches[0] or (len(text) > 1 and _is_header(text[0][1]))):
            found = [(text[at][0], match) for at, match in enumerate(matches) if match]
            return [_taken_apart(path, number, match) for number, match in found]
    counted = [_COUNTED.fullmatch(line) for _, line in text]
    if all(counted) and [int(match["number"]) for match in counted if match] in (
        list(range(len(text))), list(range(1, len(text) + 1))
    ):  # fmt: skip
        return [_taken_apart(path, number, match) for (number, _), match in zip(text, counted, strict=True) if match]
    for number, line in text:
        odd = any(form.fullmatch(line) for form in _FORMS)
        if odd or (number == text[0][0] and line.lower() in _HEADERS) or (len(text) == 1 and "," in line):
            raise LabelsError(f"{path}, line {number}: found {quoted(line)} among plain names", _EXAMPLE)
    return [_Line(number, nfc(line)) for number, line in text]


def _is_header(line: str) -> bool:
    return set(re.split(r"[\s,;:_-]+", line.lower().strip())) <= _HEADER_WORDS


def _taken_apart(path: str | os.PathLike[str], number: int, match: re.Match[str]) -> _Line:
    parts = match.groupdict()
    name = nfc(parts["name"].strip().strip('"').strip())
    colour = None
    if parts.get("r") is not None:
        colour = (int(parts["r"]), int(parts["g"]), int(parts["b"]))
        if max(colour) > 255:
            raise LabelsError(f"{path}, line {number}: found the colour {colour}, expected 0 to 255")
    if not name:
        raise LabelsError(f"{path}, line {number}: found no name", _EXAMPLE)
    return _Line(number, name, int(parts["number"]) if parts.get("number") else None, colour)


def _numbered(path: str | os.PathLike[str], lines: Sequence[_Line]) -> list[_Line]:
    """The lines with their mask values, background (0) and void (255) among them, in ascending order.

    Raises:
        LabelsError: Background or void in a place that leaves the others' values in doubt, or numbers with gaps.
    """
    values = _counted(path, lines) if lines[0].value is None else [line.value or 0 for line in lines]
    result = sorted(
        (_Line(line.number, line.name, value, line.colour) for line, value in zip(lines, values, strict=True)),
        key=lambda line: line.value or 0,
    )
    expected = 0 if result[0].value == 0 else 1
    for line in result:
        where = f"{path}, line {line.number}: found"
        if _is(line, _BACKGROUND) and line.value != 0:
            raise LabelsError(f"{where} {quoted(line.name)}", "remove it: background is mask value 0, always")
        if _is(line, _IGNORED) and line.value != VOID:
            raise LabelsError(f"{where} {quoted(line.name)}", "remove it: void is mask value 255, always")
        if line.value == 0 and not _is(line, _BACKGROUND):
            raise LabelsError(
                f"{where} number 0 for {quoted(line.name)}",
                "mask value 0 is background, always: number the classes from 1, or write only the names, one per line",
            )
        if line.value != VOID:
            if line.value != expected:
                raise LabelsError(
                    f"{where} number {line.value}, expected {expected}", "number the classes 1, 2, 3, ..."
                )
            expected += 1
    return result


def _counted(path: str | os.PathLike[str], lines: Sequence[_Line]) -> list[int]:
    """Mask values by place: `__ignore__` and background may stand before the classes, and void behind them."""
    start = 0
    while start < len(lines) and _is(lines[start], _IGNORED):
        start += 1
    background = start < len(lines) and _is(lines[start], _BACKGROUND)
    if start and not background:
        raise LabelsError(
            f"{path}, line {lines[0].number}: found {quoted(lines[0].name)} without _background_ after it",
            "remove it, or write _background_ in the next line",
        )
    rest = lines[start + background :]
    if len(rest) > MAX_CLASSES:
        raise LabelsError(f"{path}: found {len(rest)} classes, expected at most {MAX_CLASSES}: masks are 8-bit")
    values = [VOID if _is(line, _IGNORED) and line.colour is not None else n for n, line in enumerate(rest, 1)]
    return [VOID] * start + [0] * background + values


def _is(line: _Line, names: set[str]) -> bool:
    return line.name.lower() in names


def _some(names: list[str]) -> str:
    listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return listed if len(listed) < 500 else f"{listed[:500]}..."
