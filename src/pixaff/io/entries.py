"""The entries of a folder of photos: photos, files that are plainly no photos, and files that cannot be opened."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pixaff.io.images import IMAGE_SUFFIXES
from pixaff.io.picture_files import HEIF_SUFFIXES, RAW_SUFFIXES
from pixaff.io.regular import FOLDER, irregular

# What pixaff itself reads or writes beside photos.
# fmt: off
OWN_SUFFIXES = frozenset((
    ".csv", ".html", ".js", ".json", ".jsonl", ".npy", ".npz", ".parquet", ".safetensors", ".xml", ".yaml", ".yml",
))
# fmt: on
_OWN_NAMES = frozenset({"classes.txt", "README.md"})
# What file managers leave in every folder, in lower case.
_SYSTEM_NAMES = frozenset({".ds_store", "desktop.ini", "ehthumbs.db", "icon\r", "picasa.ini", "thumbs.db"})


@dataclass(frozen=True)
class Kind:
    """What an entry of a folder is treated as.

    Attributes:
        kind: "photo", which is tried; "ignored", plainly no photo: counted, but not a failure; "failed": named as
            failed, and not opened; "ours": hidden files, subfolders and what pixaff itself reads or writes, which is
            not mentioned.
        why: The reason for "ignored" and "failed": "a named pipe (FIFO)", "beside the photo sheep.jpg".
    """

    kind: Literal["photo", "ignored", "failed", "ours"]
    why: str = ""


def sort_folder(folder: str | os.PathLike[str]) -> list[tuple[Path, Kind]]:
    """The entries of a folder in order of name, each with its kind; nothing is opened.

    Raises:
        OSError: The folder cannot be listed.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    photos = photo_names(names)
    return [(Path(folder, name), kind_of(Path(folder, name), photos)) for name in names]


def photo_names(names: Collection[str]) -> dict[str, str]:
    """The names in a folder that are those of photos, by the stem with which companions of the photo begin."""
    photos = [name for name in names if _named_like_a_photo(name)]
    photos.sort(key=lambda name: os.path.splitext(name)[1].lower() not in HEIF_SUFFIXES)  # others take its place
    return {os.path.splitext(name)[0].casefold(): name for name in photos}


def kind_of(path: str | os.PathLike[str], photos: dict[str, str] | None = None) -> Kind:
    """What an entry of a folder is treated as, by its name and what the file system says; it is not opened.

    A file that is not named like a photo may still be one: it is tried, and named if it cannot be read. But if there is
    a photo with the same stem, it belongs to that (`sheep.jpg_original`, `sheep.txt`, `DSC_0001.NEF` or `DSC_0001.HEIC`
    beside `DSC_0001.JPG`) and is ignored.

    Args:
        path: The entry.
        photos: The photos of its folder, from `photo_names`; None if they are not known, as for a file that was given
            individually.
    """
    path = Path(path)
    name, suffix = path.name, path.suffix.lower()
    if photos is not None:
        if name.lower() in _SYSTEM_NAMES:
            return Kind("ignored", "of a file manager")
        if name.startswith(".") or suffix in OWN_SUFFIXES or name in _OWN_NAMES:
            return Kind("ours")
        companion = not _named_like_a_photo(name) or suffix in HEIF_SUFFIXES
        if companion and (photo := _photo_beside(name, photos)) and photo != name:
            return Kind("ignored", f"beside the photo {photo}")
    found = irregular(path)
    if photos is not None and found == FOLDER:
        return Kind("ours")
    if found:
        return Kind("failed", f"found {found}, expected a file")
    if suffix in RAW_SUFFIXES:
        return Kind("failed", "found a camera's raw file, of which only a thumbnail can be read")
    return Kind("photo")


def _named_like_a_photo(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def _photo_beside(name: str, photos: dict[str, str]) -> str:
    """The photo to which a file of this name belongs: sheep.jpg for `sheep`, `sheep.txt` and `sheep.jpg.bak`; or ""."""
    stem = os.path.splitext(name)[0]
    stems = (name, stem, os.path.splitext(stem)[0] if _named_like_a_photo(stem) else stem)
    return next((photos[known.casefold()] for known in stems if known.casefold() in photos), "")
