"""Shards of webdataset: tar files in which members of the same stem belong together, lawn.jpg and lawn.cls."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from pixaff.errors import ImageError, counted, shortened
from pixaff.io.images import IMAGE_SUFFIXES
from pixaff.io.sources.packed import Output, Packed, labels_of_text, safe_name

SUFFIX = ".tar"
_LABELS = (".cls", ".json", ".txt")
"""Members with labels, the first of which counts."""
_MOST_AT_ONCE = 16 << 20
"""Bytes that a header may have, and a member with labels."""


class _Bounded(io.FileIO):
    """A file for tarfile, which reads long names and their like at once, however long they say that they are."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > _MOST_AT_ONCE:
            raise tarfile.ReadError(f"found a header of over {_MOST_AT_ONCE >> 20} MiB")
        return super().read(size) or b""


def read(file: Path, shown: str, scratch: Path) -> Packed:
    """Find the photos and labels of a shard. Nothing is unpacked.

    A photo is a member with the suffix of an image. Beside ``lawn.jpg``, ``lawn.seg.png`` is no photo.

    Raises:
        ImageError: No tar file, or one that is truncated.
    """
    packed = Packed(file, shown)
    others: dict[str, str] = {}
    stems: dict[str, str] = {}
    try:
        with _Bounded(file) as raw, tarfile.open(fileobj=raw, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # or all of them stay in memory
                if member.offset_data + member.size > os.fstat(raw.fileno()).st_size and member.isreg():
                    raise tarfile.ReadError("unexpected end of data")
                _take(packed, member, others, stems, raw)
    except (tarfile.TarError, EOFError, ValueError) as error:
        with open(file, "rb") as again:
            begin = again.read(6)
        if begin.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
            raise ImageError(f"{shown}: found a compressed tar file", "decompress it: photos do not shrink") from None
        words = f"after {counted(len(packed.members), 'photo')}: {shortened(error)}"
        raise ImageError(f"{shown}: damaged or truncated tar file, {words}", "copy or download it again") from None
    for name in list(packed.members):
        group = _group(name)
        if group != os.path.splitext(name)[0] and stems.get(group):
            del packed.members[name]  # another member of that sample
    _give_groups(packed)
    return packed


def write(path: Path, photos: Iterable[Output], packed: Packed) -> None:
    """Pack outputs in the order of the shard: the files of a run without shards, and NAME.json with its facts.

    The same outputs give the same bytes.
    """
    with open(path, "wb") as raw, tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for photo in photos:
            for name, file in photo.files.items():
                _add(archive, name, file.read_bytes())
            facts = json.dumps({"image": photo.name, **photo.facts}, default=str).encode() + b"\n"
            _add(archive, f"{os.path.splitext(photo.name)[0]}.json", facts)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _take(
    packed: Packed, member: tarfile.TarInfo, others: dict[str, str], stems: dict[str, str], raw: BinaryIO
) -> None:
    stem, suffix = os.path.splitext(member.name)
    suffix = suffix.lower()
    if os.path.basename(member.name).startswith(".") or member.isdir():
        return
    if suffix not in IMAGE_SUFFIXES and suffix not in _LABELS:
        return
    shown = shortened(member.name)
    try:
        name = safe_name(member.name)
    except ValueError as error:
        if suffix in IMAGE_SUFFIXES:
            packed.problems[shown] = f"{packed.shown}/{shown}: {error}"
        return
    stem = os.path.splitext(name)[0]
    where = f"{packed.shown}/{shown}"
    if suffix in _LABELS:
        if member.isreg() and _is_first(suffix, others.get(stem)):
            others[stem] = suffix
            packed.values[stem] = _labels(member, suffix, where, raw), where
    elif not member.isreg() or member.sparse is not None:
        packed.problems[name] = f"{where}: found a link or a sparse file, expected a photo"
    elif stem in stems:
        packed.problems[f"{name} (again)" if name == stems[stem] else name] = (
            f"{where}: found a second photo called {shortened(stem)}, after {shortened(stems[stem])} "
            "(give each its own name)"
        )
    else:
        stems[stem] = name
        packed.members[name] = member.offset_data, member.size


def _is_first(suffix: str, before: str | None) -> bool:
    return before is None or _LABELS.index(suffix) < _LABELS.index(before)


def _labels(member: tarfile.TarInfo, suffix: str, where: str, raw: BinaryIO) -> Any:
    if member.size > _MOST_AT_ONCE:
        return _Unreadable(f"found {member.size:,} bytes, expected labels")
    place = raw.tell()
    raw.seek(member.offset_data)
    data = raw.read(member.size)
    raw.seek(place)
    try:
        return labels_of_text(data.decode("utf-8-sig"), suffix)
    except (ValueError, RecursionError) as error:
        return _Unreadable(shortened(error))


class _Unreadable(dict[str, Any]):
    """In place of labels: `labels_in` refuses it, and the words say why."""

    def __init__(self, words: str) -> None:
        super().__init__({words: None})


def _group(name: str) -> str:
    """What webdataset calls the sample of a member: its name up to the first dot."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.split('.')[0]}"


def _give_groups(packed: Packed) -> None:
    """Labels of a sample are those of its photo, if it has one only: lawn.cls of lawn.small.jpg."""
    photos: dict[str, list[str]] = {}
    for name in packed.members:
        photos.setdefault(_group(name), []).append(os.path.splitext(name)[0])
    for group, stems in photos.items():
        if len(stems) == 1 and stems[0] not in packed.values and group in packed.values:
            packed.values[stems[0]] = packed.values.pop(group)
