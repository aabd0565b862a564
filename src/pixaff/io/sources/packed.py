"""Photos that are parts of one file on the disk: where each begins, how long it is, and what the file says of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pixaff.errors import ImageError, shortened
from pixaff.io.addresses import address_of
from pixaff.io.blob import MOST, Blob
from pixaff.io.labels import Entries, Wanted
from pixaff.io.labels.hugging_face import label_keys, labels_in
from pixaff.io.labels.image_list import MAX_NAME, MAX_PATH
from pixaff.io.sources.base import Source

_FILES = frozenset((".png", ".jpg", ".json", ".npz", ".npy"))
_EXTRA = 40  # bytes that an output's name is longer than its photo's


@dataclass(frozen=True)
class Output:
    """The outputs of a photo, to be packed.

    Attributes:
        name: The photo's name in its shard.
        files: The outputs by name, such as "lawn.png" and "overlays/lawn.jpg".
        facts: What the run knows of it: classes, and each one's share of the pixels.
    """

    name: str
    files: Mapping[str, Path]
    facts: Mapping[str, Any]


@dataclass
class Packed(Source):
    """A shard.

    Attributes:
        file: The file with the bytes of the photos.
        shown: What messages call the shard.
        members: First byte and length of each photo, by name, in the order of the shard.
        values: What the shard has as labels of a photo, and where, by the photo's name without suffix.
        names: Names of the classes by number, where the shard has them.
        problems: Members that cannot be used, with the reason.
        rows: The row of each photo, in a table.
    """

    file: Path
    shown: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    values: dict[str, tuple[Any, str]] = field(default_factory=dict)
    names: list[str] | None = None
    problems: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The folder in which the photos seem to be."""
        return Path(self.shown)

    def photos(self) -> list[Path]:
        """The photos, as paths in that folder."""
        return [self.root / name for name in self.members]

    def open(self, photo: Path) -> os.PathLike[str]:
        """As `Source.open`: the content."""
        name = photo.relative_to(self.root).as_posix()
        shown = f"{address_of(self.root)}/{name}"
        if name not in self.members:
            raise ImageError(f"{shown}: no such photo in {self.shown}", "check the image list")
        start, size = self.members[name]
        if size > MOST:
            raise ImageError(f"{shown}: found {size:,} bytes, expected at most {MOST >> 30} GiB", "shrink it first")
        with open(self.file, "rb") as file:
            file.seek(start)
            return Blob(shown, file.read(size))

    def labels(self, wanted: Wanted) -> Entries:
        """As `Source.labels`; a photo of which the shard says nothing has no entry."""
        entries = Entries(wanted)
        for key, (value, where) in self.values.items():
            if not entries.wants(key + ".jpg"):  # names of images are compared without suffix
                continue
            try:
                labels = labels_in(value, self.names)
            except ValueError as error:
                entries.add(key + ".jpg", (), where, f"{where}: {error}")
            else:
                if labels is not None:
                    entries.add(key + ".jpg", labels, where)
        return entries


def safe_name(name: str) -> str:
    """The name of a member as a path below a folder.

    Raises:
        ValueError: It leads out of the folder, or no file can have it.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name):
        raise ValueError("found a path that leads out of its shard, expected one below it")
    if any(os.path.splitext(part)[1].lower() in _FILES for part in parts[:-1]):
        raise ValueError("found a folder that is called like a file")  # whose output it might be in the way of
    if not parts or any(ord(sign) < 32 or 0xD800 <= ord(sign) < 0xE000 for sign in name):
        raise ValueError("found a name that no file can have")
    if len(name) > MAX_PATH or max(len(os.fsencode(part)) for part in parts) > MAX_NAME - _EXTRA:
        raise ValueError(f"found a name of {len(name):,} characters, which is too long for a file")
    return "/".join(parts)


def labels_of_text(text: str, suffix: str) -> Any:
    """What a member beside a photo says of its classes: for `labels_in`.

    Args:
        text: ``lawn.cls`` holds a number or a name, ``lawn.txt`` names with ";", "," or a new line between them, and
            ``lawn.json`` any of these, a list, or an object with label or labels.
        suffix: Which of them.

    Raises:
        ValueError: It is none of these.
    """
    if suffix == ".json":
        value = json.loads(text)
        if isinstance(value, dict):
            keys = label_keys(list(value))
            if not keys:
                raise ValueError(f"found no label or labels among {shortened(', '.join(value)) or 'nothing'}")
            value = value[keys[0]]
        return value
    parts = [part.strip() for part in re.split(r"[;,\n]" if suffix == ".txt" else r"[;\n]", text)]
    return [int(part) if part.isdecimal() and len(part) < 10 else part for part in parts if part]
