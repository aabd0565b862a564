"""A folder of PASCAL VOC XML files, one an image: the labels are the names of its objects."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from pixaff.errors import LabelsError
from pixaff.io.labels.entry import Entry
from pixaff.io.labels.text import read_bytes


def detect(path: Path) -> bool:
    """Any folder; `read` says what is missing in it."""
    return path.is_dir()


def read(path: Path) -> dict[str, Entry]:
    """The entries by image stem, in the order of the files' names.

    Raises:
        LabelsError: The folder cannot be read or holds no XML.
    """
    try:
        files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".xml" and file.name[0] != ".")
    except OSError as error:
        raise LabelsError(f"{path}: cannot be read: {error.strerror}") from None
    if not files:
        inner = path / "Annotations"
        hint = f"did you mean {inner}?" if inner.is_dir() else "expected PASCAL VOC annotations"
        raise LabelsError(f"{path}: found no .xml file", hint)
    return {file.stem: _entry(file) for file in files}


def _entry(file: Path) -> Entry:
    try:
        return Entry(_object_names(read_bytes(file)), str(file))
    except LabelsError as error:
        return Entry((), str(file), error)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        damaged = LabelsError(f"{file}: damaged XML: {error}", "expected a PASCAL VOC annotation")
        return Entry((), str(file), damaged)


def _object_names(data: bytes) -> tuple[str, ...]:
    if b"<!ENTITY" in data:  # annotations need none; a few nested ones can fill the memory
        raise ElementTree.ParseError("entity declarations are not allowed")
    # Only the objects' own names: their parts (head, hand, ...) have names too.
    return tuple((name.text or "").strip() for name in ElementTree.fromstring(data).findall("object/name"))
