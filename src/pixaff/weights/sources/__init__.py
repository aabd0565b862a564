"""The services from which weights come, a class each, and how a text names one of them."""

from __future__ import annotations

from pixaff.errors import UsageError, quoted
from pixaff.weights.sources import web
from pixaff.weights.sources.base import Found, Source
from pixaff.weights.sources.connection import Connection
from pixaff.weights.sources.drive import DriveFile, DriveFolder
from pixaff.weights.sources.http import Http
from pixaff.weights.sources.onedrive import OneDrive

__all__ = ["SOURCES", "Connection", "Found", "Source", "parse_source"]

SOURCES: tuple[type[Source], ...] = (DriveFile, DriveFolder, OneDrive, Http)
"""In the order in which they are asked whether an address is theirs; `Http` takes any."""


def parse_source(text: str) -> Source:
    """A source as it is written in a catalogue or after ``--mirror``.

    Args:
        text: "KIND:VALUE", such as "drive-file:ID", or an http(s) address; those of Google Drive and OneDrive are
            recognised.

    Raises:
        UsageError: It is none of these.
    """
    kind, _, value = text.partition(":")
    for source in SOURCES:
        if kind == source.kind and source is not Http:
            return source.parse(value)
    if web.is_address(text):
        for source in SOURCES:
            if (found := source.recognise(text)) is not None:
                return found
    raise UsageError(
        f"found the source {quoted(web.shown(text))}, expected an http or https address",
        f"or {', '.join(f'{source.kind}:...' for source in SOURCES if source is not Http)}",
    )
