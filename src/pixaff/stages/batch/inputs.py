"""Which photos a command works on, and where its output goes when nobody said."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pixaff.errors import LabelsError, UsageError
from pixaff.io.images import IMAGE_SUFFIXES
from pixaff.io.labels import nfc, read_list

# What pixaff itself reads or writes beside photos: passed over in a folder. Any other file is tried, so that a
# damaged or foreign one is named instead of being missed in silence.
OWN_SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".npy", ".npz", ".safetensors", ".xml"})
OWN_NAMES = frozenset({"classes.txt"})


def find_images(inputs: str | Path | Sequence[str | Path], listing: Path | None = None) -> list[Path]:
    """The photos behind a command's inputs.

    Args:
        inputs: Each a folder (its files in order of name, subfolders and hidden files left out), a file, or "-" for
            paths on standard input, one a line. A file that does not exist is kept: it fails by name when it is read.
        listing: A list of image names. Only those are taken, in the list's order; a listed name that is not among
            the inputs becomes a path that does not exist, and so fails by name.

    Returns:
        Paths whose stems, which name the outputs, are all different.

    Raises:
        UsageError: No input, or two photos of one stem.
        LabelsError: The list cannot be read.
    """
    if isinstance(inputs, (str, Path)):
        inputs = [inputs]
    found: list[Path] = []
    for entry in inputs:
        if str(entry) == "-":
            found.extend(Path(line.strip()) for line in sys.stdin if line.strip())
        elif Path(entry).is_dir():
            found.extend(_folder(Path(entry)))
        else:
            found.append(Path(entry))
    found = list(dict.fromkeys(found))
    if listing is not None:
        found = _select(found, listing, inputs)
    if not found:
        raise UsageError(
            f"no photos in {', '.join(str(entry) for entry in inputs) or 'the inputs'}",
            f"give a folder, files or '-'; photos end in {', '.join(sorted(IMAGE_SUFFIXES))}",
        )
    _refuse_one_stem_twice(found)
    return found


def default_out(inputs: Sequence[str | Path], ending: str) -> Path:
    """Where outputs go without ``--out``: ``photos/`` -> ``photos-masks``, beside it.

    Raises:
        UsageError: Several inputs or standard input, from which no name follows.
    """
    if len(inputs) != 1 or str(inputs[0]) == "-":
        raise UsageError("where should the outputs go?", "give --out DIR with several inputs or with '-'")
    path = Path(inputs[0])
    if not path.name or path.name == "..":
        path = path.resolve()
    return path.parent / f"{path.name if path.is_dir() else path.stem}-{ending}"


def existing_folder(path: str | Path, hint: str = "") -> Path:
    """A folder that a command reads.

    Raises:
        UsageError: There is none.
    """
    if not Path(path).is_dir():
        raise UsageError(f"{path}: no such folder", hint)
    return Path(path)


def _folder(folder: Path) -> Iterable[Path]:
    for path in sorted(folder.iterdir()):
        foreign = path.suffix.lower() not in OWN_SUFFIXES and path.name not in OWN_NAMES
        if foreign and not path.name.startswith(".") and path.is_file():
            yield path


def _select(found: Sequence[Path], listing: Path, inputs: Sequence[str | Path]) -> list[Path]:
    by_stem: dict[str, Path] = {}
    for path in sorted(found, key=_is_photo, reverse=True):
        by_stem.setdefault(nfc(path.stem), path)
    stems = read_list(listing)
    if not any(nfc(stem) in by_stem for stem in stems):
        raise LabelsError(
            f"{listing} names {len(stems)} images and none of them is among the inputs",
            "is it the list of another data set?",
        )
    folder = next((Path(entry) for entry in inputs if Path(entry).is_dir()), Path())
    return [by_stem.get(nfc(stem), folder / stem) for stem in stems]


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _refuse_one_stem_twice(paths: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in filter(_is_photo, paths):
        other = seen.setdefault(path.stem, path)
        if other is not path:
            raise UsageError(
                f"{other} and {path} would both write {path.stem}",
                "rename one of them, or run them into different folders",
            )
