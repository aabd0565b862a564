"""What the cache holds: its state, whether it is still what was verified, and what can go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pixaff.errors import DownloadError, PixaffError
from pixaff.io.atomic import output_errors
from pixaff.io.records import read_json
from pixaff.weights.archives import content_folder, safe_path
from pixaff.weights.cache import RECORD, UNPACKED, cached, locked, read_lock, recorded_files
from pixaff.weights.catalogue import Entry, Expected
from pixaff.weights.disk import bytes_in, digest, remove, size_words
from pixaff.weights.obtain import unfinished
from pixaff.weights.sources.connection import Say


@dataclass(frozen=True)
class State:
    """What the cache has of an entry.

    Attributes:
        status: "cached", "missing", "unfinished" (a download can be resumed), "changed" (a file is not what was
            verified).
        path: What `pixaff.weights.fetch` gives, or the folder where it will be.
        size: Bytes on the disk, unfinished ones included.
        files: What was verified, by file name.
    """

    status: str
    path: Path
    size: int
    files: Mapping[str, Expected]


def state(root: Path, entry: Entry) -> State:
    """The state of an entry, told from names and sizes; `verify` reads the files."""
    folder = root / entry.name
    try:
        path = cached(root, entry)
        status = "missing" if path is None else "cached"
    except DownloadError:
        path, status = None, "changed"
    if status == "missing" and unfinished(folder):
        status = "unfinished"
    return State(status, path or folder, bytes_in(folder), recorded_files(root, entry.name))


def verify(root: Path, entry: Entry) -> list[str]:
    """Read every file of an entry; what is wrong, in words. Empty where all is as it was verified.

    Raises:
        DownloadError: The entry is not in the cache, or a file differs in size.
    """
    folder = root / entry.name
    if cached(root, entry) is None:
        raise DownloadError(f"{entry.name} is not in the cache", f"fetch it: pixaff download-weights {entry.name}")
    if entry.kind != "archive":
        return list(_compare(folder, recorded_files(root, entry.name)))
    try:
        listed = read_json(folder / RECORD, "the list of the unpacked files")
        files = {safe_path(name, RECORD).as_posix(): Expected(sha256, size) for name, (size, sha256) in listed.items()}
    except (FileNotFoundError, PixaffError, ValueError, TypeError):
        return [f"{folder / RECORD}: cannot be read, expected the list of the unpacked files"]
    base = folder / UNPACKED
    there = {path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file()}
    found = [f"{base / name}: was not there when it was verified" for name in sorted(there - files.keys())]
    # An archive that came as a folder has this list for its hash.
    own = recorded_files(root, entry.name).get(RECORD)
    return [*_compare(base, files), *found, *(_compare(folder, {RECORD: own}) if own else ())]


def prune(root: Path, catalogue: Mapping[str, Entry], names: list[str], dry_run: bool, say: Say) -> dict[Path, int]:
    """Remove what unfinished downloads left, and what no catalogue names any more; of ``names``, all files.

    The lock file keeps the hashes. Folders that pixaff has no record of are left alone.

    Returns:
        What was removed, or would be with ``dry_run``, and its bytes.
    """
    gone: dict[Path, int] = {}
    for name in sorted({*read_lock(root), *catalogue, *names}):
        folder = root / name
        if not folder.is_dir() and not folder.is_symlink():
            continue
        with locked(root, name, say), output_errors(folder):
            whole = name in names or name not in catalogue
            for path in [folder] if whole or folder.is_symlink() else unfinished(folder):
                gone[path] = bytes_in(path)
                if not dry_run:
                    remove(path)
    return gone


def content_words(path: Path) -> str:
    """What a path of the cache holds: "420.1 MB", "10582 files, 18.3 GB"."""
    if path.is_file():
        return size_words(path.stat().st_size)
    count = sum(1 for each in content_folder(path).rglob("*") if each.is_file())
    return f"{count} files, {size_words(bytes_in(path))}"


def _compare(folder: Path, files: Mapping[str, Expected]) -> Iterator[str]:
    for name, known in files.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: missing"
            continue
        found = Expected(*digest(path))
        if found != known:
            yield (
                f"{path}: found sha256 {found.sha256} ({found.size} bytes), "
                f"expected {known.sha256} ({known.size} bytes)"
            )
