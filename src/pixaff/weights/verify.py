"""What came is looked at before it counts: no web page, the hash of before, weights that run no code; then moved."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pixaff.errors import CheckpointError, DownloadError
from pixaff.io.atomic import output_errors, write_text
from pixaff.io.heads import is_page, page_words
from pixaff.weights.archives import LIMITS, Limits, archive_kind, extract
from pixaff.weights.cache import RECORD, UNPACKED, expected, label, mismatch
from pixaff.weights.catalogue import Entry, Expected
from pixaff.weights.disk import digest, remove

WEIGHTS_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")


def is_weights_name(name: str) -> bool:
    """Whether a file's name is one that weights have; a README beside them has not."""
    return name.lower().removesuffix(".tar").endswith(WEIGHTS_SUFFIXES)


def check(candidate: Path, root: Path, entry: Entry, file: str) -> Expected:
    """Look at a file that is to be ``file`` of an entry.

    Returns:
        Its hash and size.

    Raises:
        DownloadError: It is empty or a web page, differs from what it must be, or is no archive.
        CheckpointError: It is to be weights, and is damaged, holds something else or wants to run code.
    """
    what = label(entry, file)
    with output_errors(candidate), open(candidate, "rb") as opened:
        head = opened.read(1 << 12)
    if not head:
        raise DownloadError(f"{what}: found an empty file")
    if is_page(head):
        raise DownloadError(f"{what}: {page_words(head)}, expected a file")
    sha256, size = digest(candidate)
    wanted, found = expected(root, entry, file), Expected(sha256, size)
    if wanted.sha256 not in (None, sha256) or wanted.size not in (None, size):
        raise mismatch(root, entry, file, found)
    with _called(what, candidate):
        if entry.kind == "archive":
            archive_kind(candidate)
        else:
            from pixaff.io.checkpoints import read_state_dict  # imports torch, which cached weights do not need

            read_state_dict(candidate)
    return found


def move(candidate: Path, place: Path) -> None:
    """Give a verified file its name, atomically.

    Raises:
        OutputError: It cannot be moved.
    """
    with output_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(candidate, place)


def unpack(archive: Path, folder: Path, what: str, limits: Limits = LIMITS) -> None:
    """Unpack a verified archive, called ``what`` in words, into ``folder/files``, which appears when it is whole.

    ``folder/record.json`` lists the files with their sizes and hashes.

    Raises:
        DownloadError: The archive is refused; nothing of it is kept.
        OutputError: The disk is full.
    """
    draft = folder / ".unpack"
    with output_errors(folder):
        remove(draft)
        draft.mkdir(parents=True)
    try:
        with _called(what, archive):
            files = extract(archive, draft, limits)
        list_unpacked(folder, draft, files)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def list_unpacked(folder: Path, draft: Path, files: Mapping[str, tuple[int, str]]) -> None:
    """Write ``folder/record.json``, a size and a hash for each unpacked file, and move them to ``folder/files``.

    Raises:
        OutputError: The cache cannot be written.
    """
    old = folder / ".old"
    lines = [f"  {json.dumps(name)}: {json.dumps(facts)}" for name, facts in sorted(files.items())]
    with output_errors(folder):
        remove(old)
        if (folder / UNPACKED).exists():
            os.replace(folder / UNPACKED, old)
        write_text(folder / RECORD, "{\n" + ",\n".join(lines) + "\n}\n")
        os.replace(draft, folder / UNPACKED)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _called(what: str, path: Path) -> Iterator[None]:
    """Call a file by its name in errors, in place of the hidden path at which it lies for the moment."""
    try:
        yield
    except (DownloadError, CheckpointError) as error:
        message = error.message.removeprefix(str(path)).removeprefix(path.name)
        raise type(error)(what + message, error.hint) from None
