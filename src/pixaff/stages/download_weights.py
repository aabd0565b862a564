"""Download published weights into the cache, and manage it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pixaff.errors import DownloadError, OutputError, PixaffError, UsageError
from pixaff.events import Callback, Event, silent
from pixaff.published import COMMAND, catalogue_of, reporting
from pixaff.stages.batch.run import describe
from pixaff.weights import manage
from pixaff.weights.cache import cache_folder, cached, expected, offline
from pixaff.weights.catalogue import Entry, check_fits, find, parse_source
from pixaff.weights.disk import size_words
from pixaff.weights.local import import_file, import_folder
from pixaff.weights.obtain import fetch
from pixaff.weights.sources import Connection, Found


@dataclass(frozen=True)
class Item:
    """The result for one name, or for one way to download it.

    Attributes:
        name: The name.
        status: "cached", "missing", "unfinished" or "changed"; "done", "skipped" or "failed"; "would" for a dry run;
            "verified"; "answers" for a way that was tried; "removed".
        text: In words: where it is, how large, or why it failed.
        data: The same as plain values.
    """

    name: str
    status: str
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.status not in ("failed", "changed")


def download_weights(
    names: Sequence[str],
    *,
    mirror: str | None = None,
    from_file: str | Path | None = None,
    from_dir: str | Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    cache: str | Path | None = None,
    catalogue: str | Path | None = None,
    connection: Connection | None = None,
    report: Callback = silent,
) -> list[Item]:
    """Download published weights into the cache, or copy them from this machine.

    Args:
        names: Names in the catalogue.
        mirror: Where to download from instead of the catalogue's sources; for several names an address ending in "/".
        from_file: A file on this machine to copy, for one name.
        from_dir: A folder on this machine from which to copy files.
        force: Download again what is already cached.
        dry_run: Only say what would be downloaded, from where, and how large it is.
        cache: Folder of the cache; default: PIXAFF_CACHE, or else the system's folder for caches.
        catalogue: A TOML file with further entries; default: PIXAFF_CATALOGUE.
        connection: How sources are reached; default: with progress and messages sent to ``report``.
        report: Receives the progress, and every failure when it happens.

    Returns:
        One item per name; a name that fails does not stop the others.

    Raises:
        UsageError: A name is unknown, or options contradict each other.
        OutputError: The cache cannot be written, or the disk is full.
    """
    entries = _entries(names, catalogue)
    root, connection = cache_folder(cache), connection or reporting(COMMAND, report)
    if not entries:
        raise UsageError("no name is given", "pixaff download-weights --list shows the names")
    if sum(given is not None for given in (mirror, from_file, from_dir)) > 1:
        raise UsageError("found several of --mirror, --from-file and --from-dir, expected one")
    if from_file is not None and len(entries) > 1:
        raise UsageError(f"--from-file is for one name, found {len(entries)}", "use --from-dir for several")
    if mirror is not None:
        for entry in entries:
            check_fits(parse_source(mirror), entry.kind)
        if len(entries) > 1 and not mirror.endswith("/"):
            raise UsageError(f"--mirror is one file, found {len(entries)} names", "end the address of a folder with /")

    def work(entry: Entry) -> Item:
        if dry_run and from_file is None and from_dir is None:
            return _planned(entry, root, mirror, force, connection)
        if dry_run:
            text = f"would copy {from_file or from_dir} to {root / entry.name}"
            return Item(entry.name, "would", text, {"source": str(from_file or from_dir)})
        if from_file is not None:
            path = import_file(entry, from_file, cache=cache, connection=connection)
        elif from_dir is not None:
            path = import_folder(entry, from_dir, alone=len(entries) == 1, cache=cache, connection=connection)
        else:
            there = None if force else cached(root, entry)
            if there is not None:
                return _made(entry, root, there, "skipped")
            path = fetch(entry, cache=cache, mirror=mirror, force=force, connection=connection)
        report(Event("end", COMMAND))
        return _made(entry, root, path, "done")

    return [_named(entry, work, report) for entry in entries]


def list_weights(
    names: Sequence[str] = (), *, cache: str | Path | None = None, catalogue: str | Path | None = None
) -> list[Item]:
    """What can be downloaded, from where, and which of it is cached; no names means all."""
    root = cache_folder(cache)
    items = []
    for entry in _entries(names or None, catalogue):
        found = manage.state(root, entry)
        facts = {
            "what": entry.what,
            "kind": entry.kind,
            "sources": [str(source) for source in entry.sources],
            "path": str(found.path),
            "bytes": found.size,
            "files": {file: {"sha256": each.sha256, "size": each.size} for file, each in found.files.items()},
        }
        items.append(Item(entry.name, found.status, entry.what, facts))
    return items


def verify_weights(
    names: Sequence[str] = (),
    *,
    cache: str | Path | None = None,
    catalogue: str | Path | None = None,
    report: Callback = silent,
) -> list[Item]:
    """Compare the hashes of cached files; no names means everything that is cached."""
    root = cache_folder(cache)
    entries = _entries(names or None, catalogue)
    if not names:
        entries = [entry for entry in entries if manage.state(root, entry).status in ("cached", "changed")]

    def work(entry: Entry) -> Item:
        wrong = manage.verify(root, entry)
        if wrong:
            again = f"download it again: pixaff download-weights {entry.name} --force"
            shown = wrong if len(wrong) < 4 else [*wrong[:3], f"and {len(wrong) - 3} more"]
            report(Event("failed", COMMAND, f"{entry.name}: {'; '.join(shown)} ({again})"))
            return Item(entry.name, "failed", "; ".join(shown), {"error": "; ".join(wrong)})
        return Item(entry.name, "verified", str(cached(root, entry)), {"path": str(cached(root, entry))})

    return [_named(entry, work, report) for entry in entries]


def prune_weights(
    names: Sequence[str] = (),
    *,
    dry_run: bool = False,
    cache: str | Path | None = None,
    catalogue: str | Path | None = None,
    report: Callback = silent,
) -> list[Item]:
    """Remove unfinished downloads, and names that are in no catalogue any more; with names, all their files."""
    known, root = catalogue_of(catalogue), cache_folder(cache)
    chosen = [find(known, name).name for name in names]
    gone = manage.prune(root, known, chosen, dry_run, reporting(COMMAND, report).say)
    status = "would" if dry_run else "removed"
    return [
        Item(path.relative_to(root).parts[0], status, f"{path}, {size_words(size)}", {"path": str(path), "bytes": size})
        for path, size in gone.items()
    ]


def check_sources(
    names: Sequence[str] = (),
    *,
    mirror: str | None = None,
    catalogue: str | Path | None = None,
    connection: Connection | None = None,
    report: Callback = silent,
) -> Iterator[Item]:
    """Try every way to reach every source, mirrors included, by its first bytes; nothing is stored. No names means all.

    Raises:
        DownloadError: PIXAFF_OFFLINE is set.
    """
    if offline():
        raise DownloadError("PIXAFF_OFFLINE is set, so no source can be tried", "unset it")
    connection = connection or reporting(COMMAND, report)
    for entry in _entries(names or None, catalogue):
        for source in entry.sources if mirror is None else (parse_source(mirror),):
            for way, found in source.probe(entry.file, connection):
                facts: dict[str, Any] = {"source": str(source), **({"way": way} if way else {})}
                where = f"{source}{f', {way}' if way else ''}"
                if isinstance(found, Found):
                    facts |= {"bytes": found.size}
                    yield Item(entry.name, "answers", f"{where}: {size_words(found.size)}", facts)
                else:
                    yield Item(entry.name, "failed", f"{where}: {found}", {**facts, "error": str(found)})


def _entries(names: Sequence[str] | None, catalogue: str | Path | None) -> list[Entry]:
    known = catalogue_of(catalogue)
    return list(known.values()) if names is None else [find(known, name) for name in dict.fromkeys(names)]


def _named(entry: Entry, work: Callable[[Entry], Item], report: Callback) -> Item:
    """Do the work for one entry; a failure is named, and the next entry follows."""
    try:
        return work(entry)
    except (UsageError, OutputError):
        raise
    except PixaffError as error:
        report(Event("failed", COMMAND, describe(error)))
        return Item(entry.name, "failed", describe(error), {"error": describe(error)})


def _made(entry: Entry, root: Path, path: Path, status: str) -> Item:
    found = manage.state(root, entry)
    files = {file: {"sha256": each.sha256, "size": each.size} for file, each in found.files.items()}
    return Item(entry.name, status, f"{path}, {manage.content_words(path)}", {"path": str(path), "files": files})


def _planned(entry: Entry, root: Path, mirror: str | None, force: bool, connection: Connection) -> Item:
    """What a run would do for an entry. If its size is not known, the source is asked."""
    there = None if force else cached(root, entry)
    if there is not None:
        return Item(entry.name, "skipped", f"{there} is already cached", {"path": str(there)})
    place, words = root / entry.name / entry.file, [] if not offline() else ["PIXAFF_OFFLINE is set"]
    for source in entry.sources if mirror is None else (parse_source(mirror),):
        size = expected(root, entry, entry.file).size
        answers = [] if offline() else list(source.probe(entry.file, replace(connection, retries=0)))
        sizes = [found.size for _, found in answers if isinstance(found, Found)]
        words += [f"{way}: {found}" if way else str(found) for way, found in answers if isinstance(found, PixaffError)]
        if sizes or offline():
            known = [each for each in sizes if each is not None]
            size = size or (sum(known) if entry.kind == "folder" and known else max(known, default=None))
            text = f"would download {size_words(size)} from {source} to {place}"
            return Item(entry.name, "would", text, {"source": str(source), "bytes": size, "path": str(place)})
    raise DownloadError(f"{entry.name}: no source answers: {'; '.join(words)}", "pixaff download-weights --check")
