"""Weights that are on this machine already: checked like any other, and copied into the cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pixaff.errors import UsageError
from pixaff.io.atomic import output_errors
from pixaff.weights.archives import KEPT, content_folder
from pixaff.weights.cache import RECORD, UNPACKED, cache_folder, locked, recorded_files, write_record
from pixaff.weights.catalogue import Entry, Expected
from pixaff.weights.disk import digest, ensure_space, writable
from pixaff.weights.obtain import own_folder, take, unfinished, weights_in
from pixaff.weights.sources import Connection
from pixaff.weights.verify import check, list_unpacked

_PACKED = (".zip", ".tar", ".tar.gz", ".tgz")


def import_file(
    entry: Entry,
    path: str | os.PathLike[str],
    *,
    cache: str | os.PathLike[str] | None = None,
    connection: Connection | None = None,
) -> Path:
    """Bring a file into the cache: the weights, one file of a folder, or the archive. It may replace what is there.

    Returns:
        See `pixaff.weights.fetch`.

    Raises:
        UsageError: No such file.
        DownloadError, CheckpointError: The file is not what it must be.
        OutputError: The cache cannot be written, or the disk is full.
    """
    root, path = cache_folder(cache), Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file", "check --from-file")
    file = path.name if entry.kind == "folder" else entry.file
    return _bring(root, entry, [(path, file)], connection or Connection())


def import_folder(
    entry: Entry,
    folder: str | os.PathLike[str],
    *,
    alone: bool = True,
    cache: str | os.PathLike[str] | None = None,
    connection: Connection | None = None,
) -> Path:
    """Bring what a folder has of an entry into the cache.

    Args:
        entry: An entry of the catalogue.
        folder: Holds the file under its name in the cache, here or in a folder called as the entry, as a cache has it;
            an archive also as that name with .zip, .tar, .tar.gz or .tgz, or unpacked.
        alone: The folder is for this entry alone: its one file of weights, or its maps, are meant whatever their names.
        cache, connection: See `pixaff.weights.fetch`.

    Returns:
        See `pixaff.weights.fetch`.

    Raises:
        UsageError: The folder has nothing of the entry.
        DownloadError, CheckpointError: A file is not what it must be.
        OutputError: The cache cannot be written, or the disk is full.
    """
    root, folder = cache_folder(cache), Path(folder)
    connection = connection or Connection()
    own = folder / entry.name
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", "check --from-dir")
    if entry.kind == "folder":
        base = own if own.is_dir() else folder
        files = weights_in(base) if alone or base == own else []
        if files:
            return _bring(root, entry, [(path, path.relative_to(base).as_posix()) for path in files], connection)
        raise UsageError(f"{folder}: found no weights for {entry.name}", f"they may lie in {own}")
    names = [entry.file, *(f"{entry.name}{end}" for end in _PACKED if entry.kind == "archive")]
    places = [base / each for base in (own, folder) for each in names]
    if entry.kind == "weights" and alone:
        lone = weights_in(folder)
        places += lone if len(lone) == 1 else []
    path = next((place for place in places if place.is_file()), None)
    if path is not None:
        return _bring(root, entry, [(path, entry.file)], connection)
    if entry.kind == "archive":
        for base in (own / UNPACKED, own, *([folder] if alone else [])):
            maps = [path for path in base.rglob("*") if path.suffix.lower() in KEPT and path.is_file()]
            if maps:
                return _bring_unpacked(root, entry, base, sorted(maps), connection)
    raise UsageError(f"{folder}: found nothing for {entry.name}", f"expected {places[0]} or {folder / entry.file}")


def _bring(root: Path, entry: Entry, files: Sequence[tuple[Path, str]], connection: Connection) -> Path:
    with locked(root, entry.name, connection.say):
        folder = own_folder(root, entry)
        found: dict[str, tuple[Path, Expected]] = {}
        try:
            for path, file in files:
                copy = folder / f".{file.replace('/', '_')}.copy"
                _copy(path, copy, connection, entry.name)
                found[file] = copy, check(copy, root, entry, file)
            if entry.kind == "folder":
                # Files may come one by one; those of before stay.
                for file, known in recorded_files(root, entry.name).items():
                    if file not in found and (folder / file).is_file():
                        found[file] = folder / file, known
            return take(root, entry, found, f"the file {files[0][0].name}")
        except BaseException:
            for path in unfinished(folder):
                if path.name.endswith(".copy"):
                    path.unlink()
            raise


def _bring_unpacked(root: Path, entry: Entry, base: Path, maps: Sequence[Path], connection: Connection) -> Path:
    with locked(root, entry.name, connection.say):
        folder = own_folder(root, entry)
        draft = folder / ".unpack"
        shutil.rmtree(draft, ignore_errors=True)
        try:
            files = {}
            for index, path in enumerate(maps, 1):
                name = path.relative_to(base).as_posix()
                _copy(path, draft / name, Connection(), entry.name)
                sha256, size = digest(draft / name)
                files[name] = size, sha256
                connection.progress(f"{entry.name}, files", index, len(maps))
            list_unpacked(folder, draft, files)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        # There is no archive to hash; the list of the files with their hashes stands for it.
        write_record(root, entry.name, {RECORD: Expected(*digest(folder / RECORD))}, f"the folder {base.name}")
        return content_folder(folder / UNPACKED)


def _copy(path: Path, target: Path, connection: Connection, name: str) -> None:
    total, done = path.stat().st_size, 0
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        ensure_space(target.parent, total)
        with open(path, "rb") as source, writable(target, "wb") as copy:
            while piece := source.read(1 << 20):
                copy.write(piece)
                done += len(piece)
                connection.progress(name, done, total)
