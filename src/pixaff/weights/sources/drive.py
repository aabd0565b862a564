"""Google Drive, through gdown: confirmation pages, folder listings, and pages that come in place of a file.

gdown neither waits nor tries again of itself, so both are passed. What it raises is worded for its own command line;
here it becomes one line.
"""

from __future__ import annotations

import io
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from pixaff.errors import DownloadError, OutputError, PixaffError
from pixaff.io.heads import is_page, page_words
from pixaff.weights.disk import ensure_space
from pixaff.weights.sources.base import Found, Source
from pixaff.weights.sources.connection import Connection
from pixaff.weights.sources.web import Passing, fault_words, patiently, shown

SAME_START = 1 << 20
"""Bytes compared before an earlier download is resumed: gdown checks no validator between two runs."""

PIECE = 1 << 19
"""Bytes between two of gdown's calls of the progress callback."""

_ID = re.compile(r"[-\w]{10,100}", re.ASCII)
_HOSTS = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")


class _Drive(Source):
    @classmethod
    def parse(cls, value: str) -> Source:
        if not _ID.fullmatch(value):
            raise cls.unknown(f"{cls.kind}:{value}", "the id of a file or folder on Google Drive after the colon")
        return cls(value)

    @classmethod
    def recognise(cls, address: str) -> Source | None:
        parts = urlsplit(address)
        if parts.hostname not in _HOSTS:
            return None
        folder = re.search(rf"/folders/({_ID.pattern})", parts.path)
        file = re.search(rf"/d/({_ID.pattern})", parts.path)
        ids = parse_qs(parts.query).get("id", [])
        if folder:
            return DriveFolder(folder[1])
        if file or (len(ids) == 1 and _ID.fullmatch(ids[0])):
            return DriveFile(file[1] if file else ids[0])
        raise cls.unknown(shown(address), "the address of one file or folder on Google Drive")


class DriveFile(_Drive):
    """A file on Google Drive that anybody may read, by its id."""

    kind: ClassVar[str] = "drive-file"

    def download(self, folder: Path, file: str, connection: Connection, *, label: str, size: int | None = None) -> Path:
        output = folder / f".{file}.drive"
        patiently(lambda: _once(self.value, output, connection, label, size), connection, label)
        with open(output, "rb") as begun:
            head = begun.read(1 << 12)
        if is_page(head):
            output.unlink()
            raise DownloadError(f"{label}: {page_words(head)} from Google Drive, expected a file")
        return output

    def ways(self, file: str, connection: Connection) -> Iterator[tuple[str, Found | DownloadError]]:
        yield "", probe(self.value, connection)

    @property
    def browser(self) -> str:
        return f"https://drive.google.com/file/d/{self.value}/view"


class DriveFolder(_Drive):
    """A folder on Google Drive that anybody may read, by its id."""

    kind: ClassVar[str] = "drive-folder"

    def download(self, folder: Path, file: str, connection: Connection, *, label: str, size: int | None = None) -> Path:
        for path, source in self.list_files((), connection):
            if path.rpartition("/")[2] == file:
                return source.download(folder, file, connection, label=label, size=size)
        raise DownloadError(f"{self}: found no file called {file} in it")

    def ways(self, file: str, connection: Connection) -> Iterator[tuple[str, Found | DownloadError]]:
        for path, source in self.list_files((), connection):
            yield from ((path, found) for _, found in source.probe(file, connection))

    def list_files(self, known: Sequence[str], connection: Connection) -> list[tuple[str, Source]]:
        return [(path, DriveFile(key)) for key, path in list_folder(self.value, connection)]

    @property
    def is_folder(self) -> bool:
        return True

    @property
    def browser(self) -> str:
        return f"https://drive.google.com/drive/folders/{self.value}"


class _Enough(Exception):
    """Raised out of gdown's progress callback when the first bytes are there."""


def _once(file_id: str, output: Path, connection: Connection, label: str, size: int | None) -> None:
    if output.exists():  # whole, but the run was killed before it could look at it
        return
    # gdown's own name for an unfinished file: eight random characters and ".part".
    name = re.compile(re.escape(output.name) + r".{8}\.part")
    parts = [path for path in output.parent.iterdir() if name.fullmatch(path.name)]
    begun = max((path.stat().st_size for path in parts), default=0)
    if begun and (len(parts) > 1 or not _same_start(file_id, parts[0], connection)):
        connection.say(f"{label}: what an earlier run left is no part of today's file: fetched anew")
        begun = 0
    if not begun:
        for path in parts:
            path.unlink(missing_ok=True)

    def advance(done: int, total: int | None) -> None:
        if size is not None and total not in (None, size):
            raise DownloadError(f"{label}: found {total} bytes, expected {size}")
        ensure_space(output.parent, max(0, (total or 0) - done))
        connection.progress(label, done, total)

    try:
        _gdown(file_id, connection, advance, output=str(output), resume=True, retries=connection.retries)
    except DownloadError:
        # A server that does not keep to the range asked for never will; without the earlier part it is not asked.
        if begun and all(path.exists() and path.stat().st_size == begun for path in parts):
            for path in parts:
                path.unlink()
            raise Passing("cannot be resumed here", 0.0) from None
        raise


def probe(file_id: str, connection: Connection, most: int = 1) -> Found:
    """The size and the first ``most`` bytes, or a few more, of a file.

    Raises:
        DownloadError: It cannot be had.
    """
    head, totals = io.BytesIO(), [0]

    def stop(done: int, total: int | None) -> None:
        totals[0] = total or 0
        if done >= most:
            raise _Enough

    def once() -> None:
        head.seek(0)
        with suppress(_Enough):
            _gdown(file_id, connection, stop, output=head)

    patiently(once, connection, f"drive-file:{file_id}")
    found = head.getvalue()
    if is_page(found):
        raise DownloadError(f"drive-file:{file_id}: {page_words(found)}, expected a file")
    return Found(totals[0] or None, found)


def list_folder(folder_id: str, connection: Connection) -> list[tuple[str, str]]:
    """The files of a folder and of those in it: pairs of id and path inside the folder, as "a/b.pth".

    Raises:
        DownloadError: It cannot be listed, or is empty, as one that is not public looks.
    """
    import gdown

    what = f"drive-folder:{folder_id}"

    def once() -> list[tuple[str, str]]:
        with _worded():
            found = gdown.download_folder(
                id=folder_id, skip_download=True, quiet=True, use_cookies=False, timeout=connection.timeout
            )
            return [(item.id, Path(item.path).as_posix()) for item in found if not isinstance(item, str)]

    def again() -> list[tuple[str, str]]:
        try:
            return once()
        except DownloadError as error:  # gdown tries a listing once, and does not say whether it may pass
            raise Passing(error.message) from None

    files = patiently(again, connection, what)
    if not files:
        raise DownloadError(f"{what}: found no file; the folder is empty or not public")
    return files


def _same_start(file_id: str, part: Path, connection: Connection) -> bool:
    """Whether a file on Drive begins like the part that an earlier run left."""
    with open(part, "rb") as file:
        known = file.read(SAME_START)
    return probe(file_id, connection, len(known)).head[: len(known)] == known


def _gdown(file_id: str, connection: Connection, progress: Callable[[int, int | None], None], **options: Any) -> None:
    """Call gdown, with an end to its waiting: for pages that lead to each other for ever, and servers that drip."""
    import gdown

    late, over = threading.Event(), threading.Event()
    patience = max(connection.timeout * (connection.retries + 1), PIECE / connection.slowest)
    came = deque([time.monotonic()], 2)

    def watch() -> None:
        while not over.wait(0.1):
            if time.monotonic() - came[-1] > patience:
                late.set()

    def advance(done: int, total: int | None) -> None:
        came.append(time.monotonic())
        progress(done, total)

    threading.Thread(target=watch, daemon=True).start()
    try:
        with _worded():
            gdown.download(
                id=file_id,
                quiet=True,
                use_cookies=False,
                timeout=connection.timeout,
                progress=advance,
                cancel=late,
                **options,
            )
    except DownloadError:
        if late.is_set() and len(came) > 1:
            raise DownloadError("Google Drive is too slow") from None
        raise
    finally:
        over.set()


@contextmanager
def _worded() -> Iterator[None]:
    """Turn what gdown raises into one line each."""
    import gdown
    import requests

    try:
        yield
    except (PixaffError, _Enough):
        raise
    except gdown.FileURLRetrievalError as error:
        # The page's own words are in the error that gdown wraps.
        words = re.sub(r"<[^>]*>|Check FAQ in \S+", "", str(error.__context__ or error))
        raise DownloadError(f"Google Drive gives a page in place of the file: {words[:300]}") from None
    except gdown.DownloadCancelled:
        raise DownloadError("Google Drive does not come to the file, only to further pages or none") from None
    except gdown.DownloadError as error:
        words = str(error).partition("\n")[0].partition(" Check FAQ")[0]
        if isinstance(error.__cause__, requests.RequestException):
            words = f"{words.partition(':')[0]}: {fault_words(error.__cause__)}"
        raise DownloadError(f"Google Drive: {words[:300]}") from None
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status == 429 or status >= 500:
            raise Passing(f"HTTP {status} from Google Drive") from None
        raise DownloadError(f"HTTP {status} from Google Drive") from None
    except requests.RequestException as error:
        raise Passing(f"Google Drive: {fault_words(error)}") from None
    except OSError as error:
        raise OutputError(f"the cache cannot be written: {error.strerror or error}") from None
    except Exception as error:  # an answer that gdown does not foresee, such as one without a content type
        raise DownloadError(f"Google Drive: an answer that gdown cannot read ({type(error).__name__})") from None
