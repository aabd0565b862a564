"""Google Drive, through gdown: confirmation pages, folder listings, and pages that come in place of a file.

gdown neither waits nor tries again of itself, so both are passed. What it raises is worded for its own command line;
here it becomes one line.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pixaff.errors import DownloadError, OutputError, PixaffError
from pixaff.weights.disk import ensure_space
from pixaff.weights.http import Passing, fault_words, is_page, page_words, patiently
from pixaff.weights.network import Found, Network

SAME_START = 1 << 20
"""Bytes compared before an earlier download is gone on with: gdown checks no validator between two runs."""


class _Enough(Exception):
    """Raised out of gdown's progress callback when the first bytes are there."""


def download(file_id: str, folder: Path, file: str, network: Network, *, label: str, size: int | None = None) -> Path:
    """Fetch a file, or the rest of it; see `pixaff.weights.resuming.download`.

    Raises:
        DownloadError: It cannot be had: a quota or permission page came in its place, the connection failed.
        OutputError: The disk is full.
    """
    output = folder / f".{file}.drive"
    patiently(lambda: _once(file_id, output, network, label, size), network, label)
    with open(output, "rb") as begun:
        head = begun.read(1 << 12)
    if is_page(head):
        output.unlink()
        raise DownloadError(f"{label}: {page_words(head)} from Google Drive, expected a file")
    return output


def _once(file_id: str, output: Path, network: Network, label: str, size: int | None) -> None:
    if output.exists():  # whole, but the run was killed before it could look at it
        return
    # gdown's own name for an unfinished file: eight random characters and ".part".
    name = re.compile(re.escape(output.name) + r".{8}\.part")
    parts = [path for path in output.parent.iterdir() if name.fullmatch(path.name)]
    begun = max((path.stat().st_size for path in parts), default=0)
    if begun and (len(parts) > 1 or not _same_start(file_id, parts[0], network)):
        network.say(f"{label}: what an earlier run left is no part of today's file: fetched anew")
        begun = 0
    if not begun:
        for path in parts:
            path.unlink(missing_ok=True)

    def advance(done: int, total: int | None) -> None:
        if size is not None and total not in (None, size):
            raise DownloadError(f"{label}: found {total} bytes, expected {size}")
        ensure_space(output.parent, max(0, (total or 0) - done))
        network.progress(label, done, total)

    try:
        _gdown(file_id, network, advance, output=str(output), resume=True, retries=network.retries)
    except DownloadError:
        # A server that does not keep to the range asked for never will; without the earlier part it is not asked.
        if begun and all(path.exists() and path.stat().st_size == begun for path in parts):
            for path in parts:
                path.unlink()
            raise Passing("cannot be resumed here", 0.0) from None
        raise


def probe(file_id: str, network: Network, most: int = 1) -> Found:
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
            _gdown(file_id, network, stop, output=head)

    patiently(once, network, f"drive-file:{file_id}")
    found = head.getvalue()
    if is_page(found):
        raise DownloadError(f"drive-file:{file_id}: {page_words(found)}, expected a file")
    return Found(totals[0] or None, found)


def list_folder(folder_id: str, network: Network) -> list[tuple[str, str]]:
    """The files of a folder and of those in it: pairs of id and path inside the folder, as "a/b.pth".

    Raises:
        DownloadError: It cannot be listed, or is empty, as one that is not public looks.
    """
    import gdown

    what = f"drive-folder:{folder_id}"

    def once() -> list[tuple[str, str]]:
        with _worded():
            found = gdown.download_folder(
                id=folder_id, skip_download=True, quiet=True, use_cookies=False, timeout=network.timeout
            )
            return [(item.id, Path(item.path).as_posix()) for item in found if not isinstance(item, str)]

    def again() -> list[tuple[str, str]]:
        try:
            return once()
        except DownloadError as error:  # gdown tries a listing once, and does not say whether it may pass
            raise Passing(error.message) from None

    files = patiently(again, network, what)
    if not files:
        raise DownloadError(f"{what}: found no file; the folder is empty or not public")
    return files


def _same_start(file_id: str, part: Path, network: Network) -> bool:
    """Whether a file on Drive begins like the part that an earlier run left."""
    with open(part, "rb") as file:
        known = file.read(SAME_START)
    return probe(file_id, network, len(known)).head[: len(known)] == known


def _gdown(file_id: str, network: Network, progress: Callable[[int, int | None], None], **options: Any) -> None:
    """Call gdown, with an end to its waiting: it would follow confirmation pages that lead to each other for ever."""
    import gdown

    late = threading.Event()
    timer = threading.Timer(network.timeout * (network.retries + 1), late.set)
    timer.daemon = True

    def advance(done: int, total: int | None) -> None:
        timer.cancel()
        progress(done, total)

    timer.start()
    try:
        with _worded():
            gdown.download(
                id=file_id,
                quiet=True,
                use_cookies=False,
                timeout=network.timeout,
                progress=advance,
                cancel=late,
                **options,
            )
    finally:
        timer.cancel()


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
