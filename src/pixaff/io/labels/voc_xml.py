"""A folder of Pascal VOC XML files, one per image: the labels are the names of its objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pixaff.errors import LabelsError
from pixaff.io.labels.entry import Entries
from pixaff.io.labels.safe_xml import parse_xml
from pixaff.io.labels.text import files_in, read_bytes
from pixaff.io.labels.wanted import Wanted
from pixaff.io.regular import check_regular

NAME = "Pascal VOC XML, a file an image"
_EXPECTED = "expected a Pascal VOC annotation: <annotation><object><name>cat</name></object></annotation>"


def detect(path: Path) -> bool:
    """Any folder; `read` says what is missing in it."""
    return path.is_dir()


def read(path: Path, wanted: Wanted | None = None) -> Entries:
    """The entries of a folder, each named by its file; files of images that are not wanted are not opened.

    Raises:
        LabelsError: The folder cannot be read or holds no XML.
    """
    files = files_in(path, ".xml")
    if wanted is not None and wanted.nested:
        files += [file for file in sorted(path.rglob("*.[xX][mM][lL]")) if file.parent != path and file.name[0] != "."]
    if not files:
        inner = path / "Annotations"
        hint = f"did you mean {inner}?" if inner.is_dir() else "expected Pascal VOC annotations"
        raise LabelsError(f"{path}: found no .xml file", hint)
    entries = Entries(wanted)
    for file in files:
        image = file.relative_to(path).with_suffix("").as_posix()
        if not entries.wants(image):
            continue
        try:
            check_regular(file, LabelsError)
            entries.add(image, object_names(read_bytes(file)), str(file))
        except LabelsError as error:  # it cannot be opened, or would be waited for
            entries.add(image, (), str(file), str(error))
        except (ValueError, LookupError) as error:
            entries.add(image, (), str(file), f"{file}: {error} ({_EXPECTED})")
    return entries


def object_names(data: bytes) -> list[str]:
    """The names of the objects of an annotation, in any encoding that Python knows; without those of their parts.

    Raises:
        ValueError: It is damaged, no annotation, has an object without a name, or declares entities: annotations need
            none, and a few nested ones can fill the memory.
        LookupError: Its encoding is unknown.
    """
    path: list[str] = []
    names: list[str] = []
    root: list[str] = []

    def start(tag: str, _: Mapping[str, str]) -> None:
        if not path:
            root.append(tag)
        path.append(tag)
        if path[1:] == ["object"]:
            names.append("")

    def characters(words: str) -> None:
        if path[1:] == ["object", "name"]:
            names[-1] += words

    parse_xml(data, start=start, end=lambda _: path.pop(), characters=characters)
    names = [name.strip() for name in names]
    if not names and root != ["annotation"]:
        raise ValueError(f"found <{root[0][:40]}>")
    if not all(names):
        raise ValueError("found an object without a name")
    return names
