"""The photos that a command works on, and the default place of its outputs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pixaff.errors import LabelsError, UsageError, counted, first_few, shortened
from pixaff.events import Callback, Event, silent
from pixaff.io.addresses import Stamp, address_of, is_address, listed, local_path, stamp_of
from pixaff.io.entries import OWN_SUFFIXES, sort_folder
from pixaff.io.images import IMAGE_SUFFIXES
from pixaff.io.labels import class_folders, format_of, nfc, read_list
from pixaff.io.sources import Remote, Source
from pixaff.stages.batch.mask_folders import listed_images
from pixaff.stages.batch.naming import Names, Photos, naming_of
from pixaff.stages.batch.record import holds_outputs

_PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"GIF8", b"RIFF")
"""First bytes of image files."""


def find_images(
    inputs: str | Path | Sequence[str | Path],
    listing: Path | None = None,
    *,
    labels: str | Path = "",
    recursive: bool = False,
    addresses: bool = False,
    command: str = "",
    report: Callback = silent,
) -> Photos:
    """The photos behind a command's inputs.

    Args:
        inputs: Each a folder (its files in alphabetical order, without subfolders and hidden files), a file, the
            address of either, such as ``s3://bucket/photos``, or "-" for paths on standard input, one per line or
            separated by NUL characters. One file among others that does not exist is kept: it fails when it is read.
            `Photos` are taken as they are, with what they are called.
        listing: Image list. Only its images are used, in its order; a listed name that is not among the inputs becomes
            a path that does not exist, and fails when it is read.
        recursive: Also take the photos in subfolders, except hidden ones and outputs of pixaff. Photos are then called
            by their paths from the folder given, in outputs, labels, lists and records.
        addresses: Whether the command reads photos through their `Source`, which may be behind addresses.
        labels: Where the labels come from. If that is one folder per class, photos are taken from its subfolders, too.
        command: Name of the command, for its events.
        report: Receives a note about ignored files that are plainly no photos.

    Returns:
        The paths, and what the photos are called; none if standard input was empty.

    Raises:
        UsageError: There is no photo, or none of the inputs exists.
        LabelsError: The list cannot be read.
    """
    if isinstance(inputs, (str, Path)):
        inputs = [inputs]
    if isinstance(inputs, Photos) and type(inputs.source) is not Source:
        return inputs
    stamps: dict[Path, Stamp] = {}
    behind = next((entry for entry in inputs if is_address(entry)), None)
    if behind is not None and (not addresses or address_of(behind).startswith(("http://", "https://"))):
        found_address = f"found the address {shortened(address_of(behind))}, expected a folder or files"
        raise UsageError(found_address, "download it first")
    if not isinstance(inputs, Photos):
        inputs = [local_path(entry) for entry in inputs]
    names = naming_of(inputs) if isinstance(inputs, Photos) else Names(_roots(inputs) if recursive else ())
    _check_some_exist(inputs)
    found: list[Path] = []
    passed: list[str] = []
    nested = bool(str(labels)) and format_of(Path(labels)) is class_folders
    for entry in inputs:
        if str(entry) == "-":
            found.extend(paths_on_stdin())
        elif nested and not recursive and class_folders.detect(Path(entry)):
            found.extend(class_folders.photos_in(Path(entry)))
        elif is_address(entry):
            stamps |= _behind(address_of(entry), recursive, passed)
            found = list(dict.fromkeys((*found, *stamps)))
        elif Path(entry).is_dir():
            found.extend(_tree(Path(entry), passed) if recursive else _folder(Path(entry), passed))
        else:
            found.append(Path(entry))
    found = list(dict.fromkeys(found))
    if listing is not None and found:
        found = _select(found, listing, inputs, names)
    if passed:
        words = f"ignored {counted(len(passed), 'file')} that are not photos: {first_few(passed)}"
        report(Event("note", command, words))
    if not found and "-" in map(str, inputs):
        report(Event("note", command, "no paths on standard input: nothing to do"))
    elif not found:
        raise UsageError(
            f"no photos in {', '.join(shortened(address_of(entry)) for entry in inputs) or 'the inputs'}",
            f"give a folder, files or '-'; photos end in {', '.join(sorted(IMAGE_SUFFIXES))}"
            + ("" if recursive else "; --recursive looks in subfolders")
            + ("" if behind is None else "; shards: 's3://bucket/*.tar'"),
        )
    return Photos(found, names, Remote(stamps) if stamps else None)


def find_masked_photos(
    photos: str | Path | Sequence[str | Path], *, recursive: bool = False, command: str = ""
) -> Photos:
    """The photos that masks were made of, as `find_images` finds them; also those in a folder per class.

    Raises:
        UsageError: As there.
    """
    entries = [photos] if isinstance(photos, (str, Path)) else photos
    given = not isinstance(photos, Photos)
    folder = next((entry for entry in entries if given and class_folders.detect(Path(entry))), "")
    return find_images(photos, labels=folder, recursive=recursive, command=command)


def paths_on_stdin(null: bool = False) -> list[Path]:
    """Paths on standard input: one per line, or separated by NUL, which is recognised even without ``null``.

    Raises:
        UsageError: Standard input is an image, not a list of paths.
    """
    stream = getattr(sys.stdin, "buffer", None)
    data = stream.read() if stream is not None else sys.stdin.read().encode()
    if data.startswith(_PICTURES):
        raise UsageError("found an image on standard input, expected paths, one per line", "give the name of the file")
    parts = data.split(b"\0") if null or b"\0" in data else [line.strip() for line in data.splitlines()]
    return [Path(os.fsdecode(part)) for part in parts if part]


def default_out(inputs: Sequence[str | Path], ending: str) -> Path:
    """Where outputs go without ``--out``: ``photos/`` -> ``photos-masks``, beside it; of an address, here.

    Of a pattern such as ``shards/*.tar``, beside its folder.

    Raises:
        UsageError: There are several inputs, or standard input, from which no name follows.
    """
    if len(inputs) != 1 or str(inputs[0]) == "-":
        raise UsageError("where should the outputs go?", "give --out DIR with several inputs or with '-'")
    path = Path(local_path(inputs[0]))
    if is_address(path):
        path = Path(address_of(path).split("://")[-1].rstrip("/"))
        path = Path(path.parent.name if re.search(r"[*?{\[]", path.name) else path.name)
    elif re.search(r"[*?{\[]", path.name) and not os.path.lexists(path):
        path = path.parent
    if not path.name or path.name == "..":
        path = path.resolve()
    return path.parent / f"{path.name if path.is_dir() else path.stem}-{ending}"


def given_path(path: str | Path | None) -> Path | None:
    """A path, or None if it is not given."""
    return None if path is None else Path(path)


def single_file(out: Path, photos: Sequence[Path]) -> bool:
    """Whether an output is a file: there is one photo, and the name ends in .png.

    Raises:
        UsageError: Several photos would be written to one file.
    """
    if out.suffix.lower() != ".png" or out.is_dir():
        return False
    if len(photos) != 1:
        raise UsageError(f"found {counted(len(photos), 'photo')} and one output file, {out}", "give a folder: -o DIR")
    return True


def existing_folder(path: str | Path, hint: str = "") -> Path:
    """A folder that a command reads.

    Raises:
        UsageError: There is none.
    """
    if not Path(path).is_dir():
        raise UsageError(f"{path}: no such folder", hint)
    return Path(path)


def _check_some_exist(inputs: Sequence[str | Path]) -> None:
    """Refuse a mistyped name before anything is written."""
    named = [str(entry) for entry in inputs if str(entry) != "-" and not is_address(entry)]
    if named and len(named) == len(inputs) and not any(os.path.lexists(name) for name in named):
        more = f" (and {len(named) - 1} more)" if len(named) > 1 else ""
        raise UsageError(f"{shortened(named[0])}: no such file or folder{more}", "check the path")


def _folder(folder: Path, passed: list[str]) -> Iterable[Path]:
    try:
        entries = sort_folder(folder)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be listed: {error.strerror}") from None
    for path, kind in entries:
        if kind.kind in ("photo", "failed"):  # the latter fails when it is opened
            yield path
        elif kind.kind == "ignored":
            passed.append(shortened(path.name))


def _roots(inputs: Sequence[str | Path]) -> tuple[Path, ...]:
    return tuple(Path(entry) for entry in inputs if str(entry) != "-" and (is_address(entry) or Path(entry).is_dir()))


def _behind(address: str, recursive: bool, passed: list[str]) -> dict[Path, Stamp]:
    """The photos of a folder behind an address, or the one that the address names."""
    if os.path.splitext(address)[1].lower() in IMAGE_SUFFIXES and (one := stamp_of(address)) is not None:
        return {Path(address): one}
    found = {}
    for name, stamp in listed(address, recursive).items():
        if any(part.startswith(".") for part in name.split("/")):
            continue
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
            found[Path(address) / name] = stamp
        elif os.path.splitext(name)[1].lower() not in OWN_SUFFIXES:
            passed.append(shortened(name))
    return found


def _tree(folder: Path, passed: list[str]) -> Iterable[Path]:
    """The photos of a folder and of those in it; links to folders are followed, each folder is visited once."""
    waiting, seen = [folder], set[tuple[int, int]]()
    while waiting:
        place = waiting.pop()
        there = place.stat()
        if (there.st_dev, there.st_ino) in seen or (place != folder and holds_outputs(place)):
            continue
        seen.add((there.st_dev, there.st_ino))
        yield from _folder(place, passed)
        with os.scandir(place) as entries:
            inner = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        waiting.extend(place / name for name in reversed(inner))


def _select(found: Sequence[Path], listing: Path, inputs: Sequence[str | Path], names: Names) -> list[Path]:
    by_key: dict[str, Path] = {}
    for path in sorted(found, key=_is_photo, reverse=True):
        by_key.setdefault(nfc(names.key(path)), path)
    listed = listed_images(read_list(listing, folders=bool(names.roots)), list(by_key), listing)
    if not any(nfc(name) in by_key for name in listed):
        raise LabelsError(
            f"{listing} names {len(listed)} images and none of them is among the inputs",
            "is it the list of another data set?",
        )
    folder = next((Path(entry) for entry in inputs if Path(entry).is_dir()), Path())
    return [by_key.get(nfc(name), folder / name) for name in listed]


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES
