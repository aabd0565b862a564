"""Files over HTTP: fetched whole, or resumed where an earlier run was cut, never joining two states of a file."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pixaff.errors import DownloadError
from pixaff.io.atomic import output_errors, write_text
from pixaff.io.heads import is_page, page_words
from pixaff.io.records import parse_json
from pixaff.weights.disk import ensure_space, size_words, writable
from pixaff.weights.sources.connection import Connection
from pixaff.weights.sources.web import (
    Passing,
    body_length,
    content_range,
    judge,
    patiently,
    pieces,
    request,
)

if TYPE_CHECKING:
    import requests

MOST_BYTES = 100 << 30
"""A length beyond is a mistake of the server's, not a lack of disk space: the largest published file has 20 GB."""


def download(
    address: str,
    folder: Path,
    file: str,
    connection: Connection,
    *,
    label: str,
    origin: str = "",
    size: int | None = None,
) -> Path:
    """Fetch a file, or the rest of it.

    What an earlier run left is resumed only if the server confirms by its validator (a strong ETag, or the date) that
    the file is still the same one; else it is fetched anew.

    Args:
        address: http or https.
        folder: Where the unfinished file lies.
        file: Its name to be.
        connection: Patience, and the progress callback.
        label: What it is called in words.
        origin: What the file is, for addresses that change each time; default the address.
        size: Bytes it must have, where known.

    Returns:
        The whole file, still under its hidden name.

    Raises:
        DownloadError: The server does not give it; what came of it stays for the next run.
        OutputError: The disk is full.
    """
    partial = Partial(folder, file, origin or address)
    begun = partial.state()[0]
    patiently(lambda: _once(address, partial, connection, label, size), connection, label, begun)
    return partial.path


def _once(address: str, partial: Partial, connection: Connection, label: str, size: int | None) -> None:
    offset, validator, known = partial.state()
    headers = {"Range": f"bytes={offset}-", "If-Range": validator} if offset else {}
    with request(address, connection, headers=headers) as response:
        if offset and response.status_code == 416:
            if known == offset:
                return
            partial.discard()
            raise Passing("the server cannot resume from there", 0.0)
        judge(response, label)
        start, total = content_range(response)
        if offset and response.status_code == 206:
            # A careless server sends the part of whatever the file is today, and no validator with it.
            same = validator_of(response.headers) == validator and (None in (known, total) or known == total)
            if start != offset or not same:
                partial.discard()
                raise Passing("the file has changed since the download began", 0.0)
            total = known if total is None else total
        elif response.status_code == 206:
            raise DownloadError(f"{label}: the server gives a part of the file when asked for the whole")
        else:
            if offset:
                connection.say(f"{label}: cannot be resumed here, or has changed: fetched anew")
            offset, total = 0, body_length(response)
        if size is not None and total is not None and size != total:
            raise DownloadError(f"{label}: found {total} bytes, expected {size}")
        if total is not None and total > MOST_BYTES:
            raise DownloadError(f"{label}: the server claims {size_words(total)}, more than {size_words(MOST_BYTES)}")
        body = _body(response, offset, total)
        first = next(body, b"")
        if not offset and is_page(first):
            raise DownloadError(f"{label}: {page_words(first)}, expected a file")
        ensure_space(partial.path.parent, (total or offset) - offset)
        if not offset:
            partial.begin(validator_of(response.headers), total)
        done = checked = offset
        with partial.append() as write:
            for piece in itertools.chain([first], body):
                write(piece)
                done += len(piece)
                if done > (MOST_BYTES if size is None else size):
                    partial.discard()
                    raise DownloadError(f"{label}: found more than {size_words(size or MOST_BYTES)}")
                if total is None and done - checked > 1 << 26:
                    ensure_space(partial.path.parent, 0)
                    checked = done
                connection.progress(label, done, total)


def _body(response: requests.Response, offset: int, total: int | None) -> Iterator[bytes]:
    """The body as it comes; of a known length, no more and no less.

    Raises:
        Passing: It ends before the end.
    """
    done, reason = offset, ""
    try:
        for piece in pieces(response):
            if total is not None:
                piece = piece[: total - done]
            done += len(piece)
            yield piece
            if done == total:
                return
    except Passing as fault:
        reason = f" ({fault.words})"
    if reason or (total is not None and done < total):
        where = f"{done} bytes" if total is None else f"{done} of {total} bytes"
        raise Passing(f"cut at {where}{reason}", reached=done)


def validator_of(headers: Mapping[str, str]) -> str:
    """What tells one state of a file from another, fit for If-Range; "" where the server gives nothing."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


class Partial:
    """The unfinished file of a download, and beside it a note of what it is a part of.

    Args:
        folder: Where both lie, under hidden names.
        file: Name that the file is to get.
        origin: Where the file comes from. It is hashed, as addresses may hold secrets.
    """

    def __init__(self, folder: Path, file: str, origin: str) -> None:
        self.path, self.note = folder / f".{file}.part", folder / f".{file}.part.json"
        self.origin = hashlib.sha256(origin.encode()).hexdigest()

    def state(self) -> tuple[int, str, int | None]:
        """Bytes that are there, the server's validator, and the bytes in all; (0, "", None) to begin anew."""
        try:
            note = parse_json(self.note.read_bytes())
            total = note["total"]
            if note["origin"] == self.origin and note["validator"] and isinstance(total, int | None):
                return self.path.stat().st_size, str(note["validator"]), total
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0, "", None

    def begin(self, validator: str, total: int | None) -> None:
        """Empty the file, then note what it is going to be: in this order, no note ever speaks of older bytes."""
        with output_errors(self.path), writable(self.path, "wb"):
            pass
        write_text(self.note, json.dumps({"origin": self.origin, "validator": validator, "total": total}))

    @contextlib.contextmanager
    def append(self) -> Iterator[Callable[[bytes], object]]:
        """Yields the function that adds bytes."""
        with output_errors(self.path), writable(self.path, "ab") as file:
            yield file.write

    def discard(self) -> None:
        """Forget it."""
        for path in (self.path, self.note):
            path.unlink(missing_ok=True)
