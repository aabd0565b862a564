"""Published weights for the stages: fetched when they are first needed, with progress as events."""

from __future__ import annotations

import os
from pathlib import Path

import pixaff.weights
from pixaff.stages.runner import Callback, Event
from pixaff.weights.network import Network


def fetch_weights(name: str, command: str, report: Callback) -> Path:
    """The path of published weights; see `pixaff.weights.fetch`.

    Args:
        name: A name of the catalogue, with or without a leading "@".
        command: The stage that needs them, for its events.
        report: Receives "download" events, and notes.
    """
    path = pixaff.weights.fetch(name, network=reporting(command, report))
    report(Event("end", command))
    return path


def posterior_folder(folder: str | Path, command: str, report: Callback) -> Path:
    """A folder of posteriors; "@crf-low" means the published ones of that name, fetched when they are missing."""
    text = os.fspath(folder)
    return fetch_weights(text, command, report) if text.startswith("@") else Path(folder)


def reporting(command: str, report: Callback) -> Network:
    """The network with its services, whose progress and words become events."""

    def progress(name: str, done: int, total: int | None) -> None:
        report(Event("download", command, name, data={"done": done, "total": total}))

    def say(words: str) -> None:
        report(Event("note", command, words))

    return Network(progress=progress, say=say)
