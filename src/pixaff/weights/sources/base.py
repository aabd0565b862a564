"""What every source of weights promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pixaff.errors import DownloadError, UsageError, quoted
from pixaff.weights.sources.connection import Connection


@dataclass(frozen=True)
class Found:
    """What a source answered to a short question.

    Attributes:
        size: Bytes in all, where the source tells.
        head: The first bytes.
    """

    size: int | None
    head: bytes = b""


@dataclass(frozen=True)
class Source(ABC):
    """Where something lies, and how it is fetched from there.

    A new source is a subclass in a file of its own, and its name in `pixaff.weights.sources.SOURCES`.

    Attributes:
        kind: The word for sources of this class; "KIND:VALUE" names one in a catalogue and after ``--mirror``.
        value: An address, or the id that the service uses. It may hold a secret, so it is not shown: str() is.
    """

    kind: ClassVar[str]
    value: str = field(repr=False)

    @classmethod
    @abstractmethod
    def parse(cls, value: str) -> Source:
        """The source that "KIND:VALUE" names.

        Raises:
            UsageError: ``value`` is none for this kind.
        """

    @classmethod
    @abstractmethod
    def recognise(cls, address: str) -> Source | None:
        """The source behind an http(s) address as a browser shows it, or None where another class is to be asked.

        Raises:
            UsageError: It belongs to this class, but names no file or folder.
        """

    @abstractmethod
    def download(self, folder: Path, file: str, connection: Connection, *, label: str, size: int | None = None) -> Path:
        """Fetch one file, or the rest of it where an earlier run was cut.

        Args:
            folder: Where it goes, under a hidden name.
            file: Its name to be; of a folder's source, also the name that it has there.
            connection: Patience, and who is told.
            label: What it is called in words.
            size: Bytes that it must have, where known.

        Returns:
            The whole file under its hidden name, not looked at yet.

        Raises:
            DownloadError: The source does not give it. What came of it stays for the next run.
            OutputError: The disk is full.
        """

    @abstractmethod
    def ways(self, file: str, connection: Connection) -> Iterator[tuple[str, Found | DownloadError]]:
        """Try each way to the source by its first bytes; see `probe`."""

    def probe(self, file: str, connection: Connection) -> Iterator[tuple[str, Found | DownloadError]]:
        """Try each way to the source without fetching it.

        Yields:
            The way's name ("" where there is only one), and what it found or what is wrong.
        """
        try:
            yield from self.ways(file, connection)
        except DownloadError as error:
            yield "", error

    def list_files(self, known: Sequence[str], connection: Connection) -> list[tuple[str, Source]]:
        """The files of a folder: pairs of the path inside the folder, as "a/b.pth", and where it lies.

        Args:
            known: Paths from the catalogue or from an earlier download, for folders that cannot be listed.
            connection: Patience, and who is told.

        Raises:
            DownloadError: It cannot be listed.
        """
        raise DownloadError(f"{self} is one file, expected a folder")

    @property
    def is_folder(self) -> bool:
        """Whether it may hold several files."""
        return False

    @property
    def browser(self) -> str:
        """The address at which a person sees it, without secrets."""
        return str(self)

    @property
    def spelled(self) -> str:
        """The source as a catalogue names it, with all that it may hold of secrets."""
        return f"{self.kind}:{self.value}"

    def __str__(self) -> str:
        """The source as it may be shown and recorded."""
        return self.spelled

    @classmethod
    def unknown(cls, found: str, expected: str) -> UsageError:
        """The error about a text that names no such source."""
        return UsageError(f"found {quoted(found)}, expected {expected}")
