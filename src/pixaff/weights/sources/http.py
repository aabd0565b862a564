"""Any web server: an address of one file, or one that ends in "/" and has files behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from pixaff.errors import DownloadError
from pixaff.weights.sources import resuming, web
from pixaff.weights.sources.base import Found, Source
from pixaff.weights.sources.connection import Connection


class Http(Source):
    """A file, or a folder of files whose names are known, on a web server."""

    kind: ClassVar[str] = "http"

    @classmethod
    def parse(cls, value: str) -> Source:
        return cls(value)

    @classmethod
    def recognise(cls, address: str) -> Source | None:
        return cls(address)

    def download(self, folder: Path, file: str, connection: Connection, *, label: str, size: int | None = None) -> Path:
        return resuming.download(self._of(file), folder, file, connection, label=label, size=size)

    def ways(self, file: str, connection: Connection) -> Iterator[tuple[str, Found | DownloadError]]:
        yield "", web.probe(self._of(file), connection)

    def list_files(self, known: Sequence[str], connection: Connection) -> list[tuple[str, Source]]:
        if not known:
            raise DownloadError(f"{self}: the names of its files are not known", "pin them in a catalogue of your own")
        return [(path, Http(self.value + quote(path))) for path in known]

    @property
    def is_folder(self) -> bool:
        return self.value.endswith("/")

    @property
    def spelled(self) -> str:
        return self.value

    def __str__(self) -> str:
        return web.shown(self.value)

    def _of(self, file: str) -> str:
        """The address of a file."""
        return self.value + quote(file) if self.is_folder else self.value
