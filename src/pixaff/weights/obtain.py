"""An entry of the catalogue: from the cache, or from the first source that gives it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pixaff.errors import CheckpointError, DownloadError, OutputError, shortened
from pixaff.io.atomic import output_errors
from pixaff.weights.archives import UntrustedError, content_folder, safe_path
from pixaff.weights.cache import (
    OFFLINE,
    UNPACKED,
    cache_folder,
    cached,
    expected,
    label,
    locked,
    offline,
    recorded_files,
    write_record,
)
from pixaff.weights.catalogue import Entry, Expected, Source, check_fits, parse_source
from pixaff.weights.disk import bytes_in, digest, remove
from pixaff.weights.sources import Connection
from pixaff.weights.verify import check, is_weights_name, move, unpack

INCOMING = ".incoming"


def fetch(
    entry: Entry,
    *,
    cache: str | os.PathLike[str] | None = None,
    mirror: str | None = None,
    force: bool = False,
    connection: Connection | None = None,
) -> Path:
    """The path of published weights, fetched first where the cache does not have them.

    Args:
        entry: What to fetch, from `load_catalogue` or `published`.
        cache: The cache; default PIXAFF_CACHE, else the system's place for caches.
        mirror: A source to take in place of the catalogue's, see `parse_source`; one that ends in "/" is a folder with
            the file in it.
        force: Fetch again what is there; it stays until the new is verified.
        connection: How sources are reached, and who is told of progress; default in silence.

    Returns:
        The file; for several files or an archive the folder that holds them. Hidden files there are not weights.

    Raises:
        UsageError: A wrong mirror.
        DownloadError: It is not in the cache and PIXAFF_OFFLINE is set; no source gives it; or what came is not what
            it was at the first download or what the catalogue pins.
        OutputError: The cache cannot be written, or the disk is full.
    """
    root, connection = cache_folder(cache), connection or Connection()
    ways = entry.sources if mirror is None else (parse_source(mirror),)
    for source in ways:
        check_fits(source, entry.kind)
    path = None if force else cached(root, entry)
    if path is not None:
        return path
    with locked(root, entry.name, connection.say):
        path = None if force else cached(root, entry) or adopt(root, entry, connection)
        if path is not None:
            return path
        if offline():
            raise DownloadError(
                f"{entry.name} is not in the cache, {root / entry.name}, and {OFFLINE} forbids to fetch it",
                f"unset {OFFLINE}, or bring the file: pixaff download-weights {entry.name} --from-file FILE",
            )
        if force:
            remove_unfinished(root / entry.name)
        own_folder(root, entry)
        failures = []
        for number, source in enumerate(ways, 1):
            try:
                return _obtain(root, entry, source, connection)
            except (DownloadError, CheckpointError) as error:
                failures.append((source, error))
                if number < len(ways):
                    connection.say(f"{source}: {error}")
    raise _all_failed(root, entry, failures)


def adopt(root: Path, entry: Entry, connection: Connection) -> Path | None:
    """Take files that a person has put at their place in the cache, where there are any.

    Raises:
        DownloadError: They are not what they should be; they stay where they are.
    """
    folder = root / entry.name
    if entry.kind == "folder":
        known = recorded_files(root, entry.name)
        there = {path.relative_to(folder).as_posix() for path in weights_in(folder)}
        files = sorted(known.keys() & there if known else there)
        if known.keys() - there:
            return None
    else:
        files = [entry.file] if (folder / entry.file).is_file() else []
    if not files:
        return None
    found = {}
    for file in files:
        try:
            found[file] = check(folder / file, root, entry, file)
        except (DownloadError, CheckpointError) as error:
            raise DownloadError(
                f"{folder / file}: {error.message}",
                f"put the right file there, or fetch it: pixaff download-weights {entry.name} --force",
            ) from None
    connection.say(f"{entry.name}: taking what lies in {folder}")
    return take(root, entry, {file: (folder / file, known) for file, known in found.items()}, "put there by hand")


def take(root: Path, entry: Entry, found: dict[str, tuple[Path, Expected]], source: str) -> Path:
    """Record verified files and give them their names, or unpack the archive; the path at which the entry now is.

    Files are recorded before they get their names, so that a run which is killed in between finds them wanting and
    goes on; an archive is recorded when it has been unpacked, and then removed.

    Raises:
        DownloadError: The archive is refused.
        OutputError: The disk is full.
    """
    folder = root / entry.name
    facts = {file: known for file, (_, known) in found.items()}
    archive = found[entry.file][0] if entry.kind == "archive" else None
    if archive is not None:
        unpack(archive, folder, entry.name)
    if facts != recorded_files(root, entry.name):
        write_record(root, entry.name, facts, source)
    if archive is not None:
        archive.unlink()
    else:
        for file, (candidate, _) in found.items():
            if candidate != folder / file:
                move(candidate, folder / file)
    remove_unfinished(folder)
    if archive is not None:
        return content_folder(folder / UNPACKED)
    return folder / entry.file if entry.kind == "weights" else folder


def own_folder(root: Path, entry: Entry) -> Path:
    """The folder of an entry in the cache, made where it is missing, and no link out of it.

    Raises:
        OutputError: It cannot be made, or is a link.
    """
    folder = root / entry.name
    with output_errors(folder):
        if folder.is_symlink():
            raise OutputError(
                f"{folder}: found a link, expected a folder of the cache",
                "remove it; for a cache on another disk: --cache-dir or PIXAFF_CACHE",
            )
        folder.mkdir(parents=True, exist_ok=True)
        for path in unfinished(folder):
            if path.is_symlink():
                path.unlink()
    return folder


def remove_unfinished(folder: Path) -> int:
    """Remove what unfinished downloads left in a folder of the cache; returns the bytes."""
    freed = 0
    for path in unfinished(folder):
        freed += bytes_in(path)
        remove(path)
    return freed


def unfinished(folder: Path) -> list[Path]:
    """Hidden files and folders of the cache: nothing verified has such a name."""
    return [path for path in folder.iterdir() if path.name.startswith(".")] if folder.is_dir() else []


def weights_in(folder: Path) -> list[Path]:
    """The files in a folder, and in folders in it, whose names are those of weights."""
    found = [path for path in folder.rglob("*") if path.is_file() and is_weights_name(path.name)]
    return sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(folder).parts))


def _obtain(root: Path, entry: Entry, source: Source, connection: Connection) -> Path:
    if entry.kind == "folder":
        return _obtain_folder(root, entry, source, connection)
    found = _one(root, entry, entry.file, source, connection)
    try:
        return take(root, entry, {entry.file: found}, str(source))
    except DownloadError:
        _discard(root / entry.name, entry.file)
        raise


def _one(root: Path, entry: Entry, file: str, source: Source, connection: Connection) -> tuple[Path, Expected]:
    """Fetch and check one file; where it lies, and what it is."""
    what, wanted = label(entry, file), expected(root, entry, file)
    hidden = file.replace("/", "_")
    candidate = source.download(root / entry.name, hidden, connection, label=what, size=wanted.size)
    try:
        return candidate, check(candidate, root, entry, file)
    except (DownloadError, CheckpointError):
        _discard(root / entry.name, hidden)
        raise


def _discard(folder: Path, hidden: str) -> None:
    """Remove a download that was refused: resumed, it would be refused for ever."""
    for path in unfinished(folder):
        if path.name.startswith(f".{hidden}."):
            path.unlink()


def _obtain_folder(root: Path, entry: Entry, source: Source, connection: Connection) -> Path:
    folder = root / entry.name
    known = recorded_files(root, entry.name)
    listed = source.list_files(sorted({*known, *entry.files}), connection)
    found: dict[str, tuple[Path, Expected]] = {}
    refused: list[str] = []
    for file, each in listed:
        safe_path(file, str(source))
        if not is_weights_name(file):
            connection.say(f"{entry.name}: {file} is left out: no name that weights have")
            continue
        waiting = folder / INCOMING / file
        there = _verified(folder / file, known.get(file)) or _verified(waiting, None)
        if there is not None:
            found[file] = there
            continue
        try:
            candidate, facts = _one(root, entry, file, each, connection)
        except CheckpointError as error:
            refused.append(str(error))
            connection.say(f"{entry.name}: {file} is left out: {error}")
            continue
        move(candidate, waiting)
        found[file] = waiting, facts
    missing = sorted({*known, *entry.files} - found.keys())
    if not found or missing:
        lacks = f"without {', '.join(missing)}" if missing else "without weights"
        raise DownloadError("; ".join([f"found a folder {lacks}", *refused]))
    return take(root, entry, found, str(source))


def _verified(path: Path, known: Expected | None) -> tuple[Path, Expected] | None:
    """A file that an earlier run has verified: it waits for its name, or is the one that is known."""
    if not path.is_file() or (known is None and INCOMING not in path.parts):
        return None
    found = Expected(*digest(path))
    return (path, found) if known in (None, found) else None


def _all_failed(
    root: Path, entry: Entry, failures: Sequence[tuple[Source, DownloadError | CheckpointError]]
) -> DownloadError:
    reasons = [
        f"{source}: {shortened(error.message.removeprefix(f'{source}: ').removeprefix(f'{entry.name}: '), 200)}"
        for source, error in failures
    ]
    hints = list(dict.fromkeys(error.hint for _, error in failures if error.hint))
    # A file that must not be trusted is none to fetch by hand.
    if not any(isinstance(error, (UntrustedError, CheckpointError)) for _, error in failures):
        browser = failures[0][0].browser
        save = "save its files in" if entry.kind == "folder" else "save the file as"
        place = root / entry.name / entry.file
        hints.append(f"by hand: open {browser} in a browser and {save} {place}, or give --mirror or --from-file")
    return DownloadError(f"{entry.name} cannot be fetched: {'; '.join(reasons)}", "; ".join(hints))
