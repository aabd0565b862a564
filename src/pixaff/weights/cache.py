"""The user's cache: one folder for each name, and a lock file with the hashes of what has been verified.

``lock.json`` outlives the files: what was removed and is fetched again must be what it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pixaff.errors import DownloadError, OutputError
from pixaff.io.atomic import output_errors, write_text
from pixaff.io.records import read_json
from pixaff.weights.archives import UntrustedError, content_folder, safe_path
from pixaff.weights.catalogue import Entry, Expected, is_name
from pixaff.weights.sources.connection import Say

VARIABLE, OFFLINE = "PIXAFF_CACHE", "PIXAFF_OFFLINE"
LOCK, UNPACKED, RECORD = "lock.json", "files", "record.json"
FORMAT = 1


def cache_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """The cache: ``given``, or PIXAFF_CACHE, or the system's place for caches."""
    return Path(given or os.environ.get(VARIABLE) or _system_cache()).expanduser().absolute()


def _system_cache() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("pixaff")


def offline() -> bool:
    """Whether PIXAFF_OFFLINE forbids the network: any value but 0, false, no, off and nothing."""
    return os.environ.get(OFFLINE, "").strip().lower() not in ("", "0", "false", "no", "off")


@contextlib.contextmanager
def locked(root: Path, name: str, say: Say) -> Iterator[None]:
    """Hold the lock of a name: other processes wait for it.

    Raises:
        OutputError: The cache cannot be written.
    """
    import filelock

    with output_errors(root):
        if (root / ".locks").is_symlink():
            raise OutputError(f"{root / '.locks'}: found a link, expected a folder of the cache", "remove it")
        (root / ".locks").mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(root / ".locks" / name)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            say(f"{name}: another process is at it; waiting")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def read_lock(root: Path) -> dict[str, Any]:
    """What has been verified, by name.

    Raises:
        DownloadError: The lock file is damaged.
    """
    path = root / LOCK
    hint = "restore it; or remove it, and the hashes are taken anew from what is fetched next"
    if not root.is_dir():
        return {}
    try:
        found = read_json(path, f"a lock file of format {FORMAT}", DownloadError, hint)
        if found["format"] != FORMAT or not all(
            is_name(name)
            and all(
                safe_path(file, name) and type(known["size"]) is int and isinstance(known["sha256"], str)
                for file, known in record["files"].items()
            )
            for name, record in found["weights"].items()
        ):
            raise ValueError
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, UntrustedError):
        raise DownloadError(f"{path}: found no lock file of format {FORMAT}", hint) from None
    return dict(found["weights"])


def write_record(root: Path, name: str, files: Mapping[str, Expected], source: str) -> None:
    """Note in the lock file what has been verified, and where it came from."""
    with locked(root, ".lock", lambda words: None):
        weights = read_lock(root)
        weights[name] = {
            "files": {file: {"sha256": each.sha256, "size": each.size} for file, each in sorted(files.items())},
            "source": source,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        text = json.dumps({"format": FORMAT, "weights": dict(sorted(weights.items()))}, indent=2)
        write_text(root / LOCK, text + "\n")


def recorded_files(root: Path, name: str) -> dict[str, Expected]:
    """What the lock file says of the files of a name; empty where they were never verified."""
    files = read_lock(root).get(name, {}).get("files", {})
    return {file: Expected(each["sha256"], each["size"]) for file, each in files.items()}


def expected(root: Path, entry: Entry, file: str) -> Expected:
    """What a file must be: as the catalogue pins it, else as it was verified before, else anything."""
    pinned, known = entry.files.get(file, Expected()), recorded_files(root, entry.name).get(file, Expected())
    return Expected(pinned.sha256 or known.sha256, pinned.size or (None if pinned.sha256 else known.size))


def cached(root: Path, entry: Entry) -> Path | None:
    """The verified file or folder of an entry, or None where it is not all there. Reads no content.

    Raises:
        DownloadError: A file is there that differs in size, or in the catalogue's hash, from what was verified.
    """
    folder, files = root / entry.name, recorded_files(root, entry.name)
    if not files:
        return None
    for file, known in files.items():
        pinned = entry.files.get(file, Expected())
        if pinned.sha256 not in (None, known.sha256) or pinned.size not in (None, known.size):
            raise mismatch(root, entry, file, known)
    if entry.kind == "archive":
        if (folder / RECORD).is_file() and (folder / UNPACKED).is_dir():
            return content_folder(folder / UNPACKED)
        return None
    for file, known in files.items():
        path = folder / file
        if not path.is_file():
            return None
        if path.stat().st_size != known.size:
            raise DownloadError(
                f"{path}: found {path.stat().st_size} bytes, expected {known.size}",
                f"fetch it again: pixaff download-weights {entry.name} --force",
            )
    if entry.kind == "weights":
        return folder / entry.file if entry.file in files else None
    return folder


def mismatch(root: Path, entry: Entry, file: str, found: Expected) -> UntrustedError:
    """The error about a file that is not what it must be."""
    wanted = expected(root, entry, file)
    pinned = entry.files.get(file, Expected())
    told = "the catalogue pins it" if pinned.sha256 or pinned.size else f"{root / LOCK} has it from the first download"
    return UntrustedError(
        f"{label(entry, file)}: found sha256 {found.sha256} ({found.size} bytes), "
        f"expected {wanted.sha256 or 'any sha256'} ({wanted.size or 'any number of'} bytes)",
        f"{told}; unless its publisher has changed it on purpose, do not trust what was found",
    )


def label(entry: Entry, file: str) -> str:
    """What a file is called in words."""
    return f"{entry.name}/{file}" if entry.kind == "folder" and file else entry.name
