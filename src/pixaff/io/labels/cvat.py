"""CVAT for images 1.1: annotations.xml, in which the labels of an image are those of its shapes, masks and tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pixaff.errors import LabelsError, quoted
from pixaff.io.labels.entry import Entries
from pixaff.io.labels.safe_xml import parse_xml
from pixaff.io.labels.text import beginning, read_bytes
from pixaff.io.labels.wanted import Wanted

NAME = "CVAT for images XML"
FILE = "annotations.xml"
_SHAPES = frozenset(("box", "polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton", "tag"))
_EXPECTED = "expected CVAT for images 1.1: <annotations><image name=...><box label=...>"
_ROOT = re.compile(rb"(?:<\?[^>]*>|<!--.*?-->|<!DOCTYPE[^>\[]*>|\s|\xef\xbb\xbf)*<annotations[\s>]", re.DOTALL)


def detect(path: Path) -> bool:
    """A file that begins like annotations.xml, or a folder with one."""
    head = beginning(_file(path), 1 << 14)
    return _ROOT.match(head) is not None or (path.is_file() and head.lstrip(b"\xef\xbb\xbf \r\n").startswith(b"<?xml"))


def read(path: Path, wanted: Wanted | None = None) -> Entries:
    """The entries of the file; an image without shapes and tags shows no class.

    Raises:
        LabelsError: It is damaged, of CVAT for video, or declares entities.
    """
    path = _file(path)
    entries = Entries(wanted)
    depth, root, labels = 0, "", dict[str, None]()
    image, problem, count = "", "", -1

    def start(tag: str, attributes: Mapping[str, str]) -> None:
        nonlocal depth, root, image, problem, count
        depth += 1
        if depth == 1:
            root = tag
        elif depth == 2 and tag == "image":
            image, problem, count = attributes.get("name", "").strip(), "", count + 1
            labels.clear()
        elif depth == 2 and tag == "track":
            raise ValueError("found <track>: CVAT for video")
        elif depth == 3 and count >= 0 and tag in _SHAPES:
            label = attributes.get("label", "").strip()
            if label:
                labels[label] = None
            else:
                problem = problem or f"found a <{tag}> without a label"

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        if depth != 1 or tag != "image":
            return
        where = f"{path}, image {count + 1}"
        if not image:
            entries.strays.append(f"{where}: found no name")
        elif entries.wants(image):
            where = f"{path}, {quoted(image)}"
            entries.add(image, () if problem else labels, where, f"{where}: {problem}" if problem else "")

    try:
        parse_xml(read_bytes(path), start=start, end=end)
    except (ValueError, LookupError) as error:
        raise LabelsError(f"{path}: {error}", _EXPECTED) from None
    if root != "annotations":
        raise LabelsError(f"{path}: found <{root[:40]}>", _EXPECTED)
    return entries


def _file(path: Path) -> Path:
    return path / FILE if path.is_dir() else path
