"""Class names, image-level labels and image lists."""

from __future__ import annotations

import csv
import difflib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from pixaff.errors import LabelsError
from pixaff.io.atomic import write_text
from pixaff.io.images import IMAGE_SUFFIXES

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
MAX_CLASSES = 254  # mask values 1..254; 0 is background and 255 void


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read class names, one a line; the first is mask value 1.

    Raises:
        LabelsError: Unreadable, empty, a blank line between names, a name twice, "background", ";" in a name, or more
            than 254 names.
    """
    lines = [line.strip() for line in _text(path).rstrip().splitlines()]
    if not lines:
        raise LabelsError(f"{path}: found no class name", "write one a line, without background")
    first: dict[str, int] = {}
    for number, name in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if not name:
            raise LabelsError(f"{where}: blank line", "remove it: the line numbers are the mask values")
        if name.lower() == "background":
            raise LabelsError(f'{where}: found "{name}"', "remove it: background is mask value 0, always")
        if ";" in name:
            raise LabelsError(f'{where}: found ";" in "{name}"', "rename the class: label files join names by ;")
        if name in first:
            raise LabelsError(f'{where}: found "{name}" again, first in line {first[name]}', "remove one of them")
        first[name] = number
    if len(lines) > MAX_CLASSES:
        raise LabelsError(f"{path}: found {len(lines)} classes, expected at most {MAX_CLASSES}: masks are 8-bit")
    return tuple(lines)


def read_labels(path: str | os.PathLike[str], classes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read image-level labels from a CSV file or a folder of PASCAL VOC XML files.

    CSV: `image,labels` with the class names joined by ";"; the header may be missing, the image may carry a folder and
    a suffix. XML: the names of the objects; the image is the XML file's own name.

    Args:
        path: `labels.csv`, or a folder such as VOC's `Annotations`.
        classes: Class names in mask order.

    Returns:
        Sorted 0-based class indices, at least one, by image stem, in the order of the file.

    Raises:
        LabelsError: Names the line or file: an unknown class (with the nearest name), no label, an image twice.
    """
    path = Path(path)
    return _read_voc(path, classes) if path.is_dir() else _read_csv(path, classes)


def write_labels(path: str | os.PathLike[str], labels: Mapping[str, Iterable[int]], classes: Sequence[str]) -> None:
    """Write image-level labels (0-based indices by image stem) as `image,labels` CSV, atomically.

    Raises:
        ValueError: An image without a label, which `read_labels` would refuse.
        OutputError: The file cannot be written.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("image", "labels"))
    for stem, indices in labels.items():
        names = [classes[index] for index in indices]
        if not names:
            raise ValueError(f"labels of {stem}: found none, expected one or more")
        writer.writerow((stem, ";".join(names)))
    write_text(path, buffer.getvalue())


def read_list(path: str | os.PathLike[str]) -> list[str]:
    """Read image stems, one a line; folders and suffixes are dropped.

    VOC lists with an image path and a mask path a line are understood too.

    Raises:
        LabelsError: Unreadable, empty, or an image twice.
    """
    first: dict[str, int] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        fields = line.split()
        pair = len(fields) == 2 and image_stem(fields[0]) == image_stem(fields[1])
        stem = image_stem(fields[0] if pair else line.strip())
        if stem in first:
            raise LabelsError(
                f'{path}, line {number}: found "{stem}" again, first in line {first[stem]}', "remove one of them"
            )
        first[stem] = number
    if not first:
        raise LabelsError(f"{path}: found no image name", "write one a line")
    return list(first)


def image_stem(name: str) -> str:
    """The stem by which an image goes: without folders (/ or backslash) and without an image's suffix."""
    name = name.strip().replace("\\", "/").rsplit("/", 1)[-1]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem and f".{suffix.lower()}" in IMAGE_SUFFIXES else name


def _read_csv(path: Path, classes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    numbers = {name: index for index, name in enumerate(classes)}
    labels: dict[str, tuple[int, ...]] = {}
    lines: dict[str, int] = {}
    reader = csv.reader(io.StringIO(_text(path), newline=""), skipinitialspace=True)
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            cells = [cell.strip() for cell in row]
            if not any(cells) or (not lines and [cell.lower() for cell in cells] == ["image", "labels"]):
                continue
            if len(cells) != 2:
                raise LabelsError(
                    f"{where}: expected 2 columns (image,labels), found {len(cells)}", "join several labels by ;"
                )
            stem = image_stem(cells[0])
            if not stem:
                raise LabelsError(f"{where}: found no image name", "the columns are image,labels")
            if stem in lines:
                raise LabelsError(
                    f'{where}: found image "{stem}" again, first in line {lines[stem]}', "join the labels in one row"
                )
            names = [name for name in map(str.strip, cells[1].split(";")) if name]
            labels[stem] = _indices(names, numbers, where, f'image "{stem}"')
            lines[stem] = reader.line_num
    except csv.Error as error:
        raise LabelsError(f"{path}, line {reader.line_num}: {error}", "expected CSV: image,labels") from None
    if not labels:
        raise LabelsError(f"{path}: found no labels", "expected rows like: photo1,cat;person")
    return labels


def _read_voc(folder: Path, classes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    numbers = {name: index for index, name in enumerate(classes)}
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".xml" and file.name[0] != ".")
    except OSError as error:
        raise LabelsError(f"{folder}: cannot be read: {error.strerror}") from None
    if not files:
        inner = folder / "Annotations"
        hint = f"did you mean {inner}?" if inner.is_dir() else "expected PASCAL VOC annotations"
        raise LabelsError(f"{folder}: found no .xml file", hint)
    labels = {}
    for file in files:
        data = _bytes(file)
        try:
            if b"<!ENTITY" in data:  # annotations need none; a few nested ones can fill the memory
                raise ElementTree.ParseError("entity declarations are not allowed")
            root = ElementTree.fromstring(data)
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            raise LabelsError(f"{file}: damaged XML: {error}", "expected a PASCAL VOC annotation") from None
        # Only the objects' own names: their parts (head, hand, ...) have names too.
        names = [(name.text or "").strip() for name in root.findall("object/name")]
        labels[file.stem] = _indices(names, numbers, str(file), "the image")
    return labels


def _indices(names: list[str], numbers: Mapping[str, int], where: str, image: str) -> tuple[int, ...]:
    if not names:
        raise LabelsError(f"{where}: found no label for {image}", "give it one or more, or leave the image out")
    for name in names:
        if name not in numbers:
            raise LabelsError(f'{where}: found unknown class "{name}"', _suggestion(name, numbers))
    return tuple(sorted({numbers[name] for name in names}))


def _suggestion(name: str, classes: Iterable[str]) -> str:
    if name.lower() == "background":
        return "leave it out: background needs no label"
    folded = {known.lower(): known for known in classes}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    return f'did you mean "{folded[near[0]]}"?' if near else f"expected one of: {_some(list(folded.values()))}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise LabelsError(f"{path}: no such file", "check the path") from None
    except OSError as error:
        raise LabelsError(f"{path}: cannot be read: {error.strerror}") from None


def _text(path: str | os.PathLike[str]) -> str:
    try:
        return _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelsError(f"{path}: not UTF-8 text (byte {error.start})", "save the file as UTF-8 text") from None
