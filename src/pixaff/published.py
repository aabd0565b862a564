"""Published weights by name: downloaded when they are first needed, with progress as events."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pixaff.weights
from pixaff.events import Callback, Event, silent
from pixaff.models.registry import published_entries
from pixaff.weights.catalogue import Entry, find, load_catalogue
from pixaff.weights.sources import Connection

COMMAND = "download-weights"


def catalogue_of(own: str | os.PathLike[str] | None = None) -> dict[str, Entry]:
    """Everything that can be downloaded, by name; see `pixaff.weights.catalogue.load_catalogue`."""
    return load_catalogue(own, published_entries())


def fetch_weights(
    name: str,
    command: str = COMMAND,
    report: Callback = silent,
    *,
    cache: str | os.PathLike[str] | None = None,
    catalogue: str | os.PathLike[str] | None = None,
) -> Path:
    """The path of published weights, which are downloaded first if they are not cached; see `pixaff.weights.fetch`.

    Args:
        name: A name of the catalogue, such as "resnet38-cam"; a leading "@" is ignored.
        command: The stage that needs them, for its events.
        report: Receives "download" events, and notes.
        cache: Folder of the cache; default: PIXAFF_CACHE, or else the system's folder for caches.
        catalogue: A TOML file with further entries; default: PIXAFF_CATALOGUE.

    Raises:
        UsageError: There is no such name.
        DownloadError: They are not cached, and no source provides them.
        OutputError: The cache cannot be written, or the disk is full.
    """
    entry = find(catalogue_of(catalogue), name)
    path = pixaff.weights.fetch(entry, cache=cache, connection=reporting(command, report))
    report(Event("end", command))
    return path


def fetcher(command: str, report: Callback) -> Callable[[str], Path]:
    """`fetch_weights` for a stage that does not know yet which weights it needs."""
    return lambda name: fetch_weights(name, command, report)


def posterior_folder(folder: str | Path, command: str, report: Callback) -> Path:
    """A folder of posteriors; "@crf-low" means the published ones of that name, downloaded if they are not cached."""
    text = os.fspath(folder)
    return fetch_weights(text, command, report) if text.startswith("@") else Path(folder)


def reporting(command: str, report: Callback) -> Connection:
    """A connection whose progress and messages become events."""

    def progress(name: str, done: int, total: int | None) -> None:
        report(Event("download", command, name, data={"done": done, "total": total}))

    def say(words: str) -> None:
        report(Event("note", command, words))

    return Connection(progress=progress, say=say)
