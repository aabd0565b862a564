"""`run.jsonl`: what each output was made of, one line per image, so that a later run knows which outputs still fit.

The file is beside the outputs and only ever appended to, one whole line at a time: processes and shards may share it,
and the last line about an image counts. There are three kinds of lines:

- ``{"made": ID, "request": ID, "settings": {...}, ...}``: the model's weights and the settings of a run;
- ``{"image": NAME, "status": "done", "failed" or "removed", "made": ID, "photo": ..., "cams": ..., "labels": ...}``;
- ``{"begun": [NAME, ...]}``: images that a run is about to do: their outputs may be newer than their last line.

NAME is what `pixaff.stages.batch.naming` calls an image: its file's name or, with ``--recursive``, its path.

Files are compared by size, time and content: one that was only copied or touched still fits.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pixaff.io.atomic import output_errors

NAME = "run.jsonl"

Stamp = tuple[int, int, str]
"""Size in bytes, time of the last change in nanoseconds, and digest of the content."""


@dataclass
class Ledger:
    """The lines of `run.jsonl`.

    Attributes:
        path: The file; None keeps the lines in memory only.
        images: The last line about each image, by name.
        runs: The lines about runs, by the digest of what decides their outputs.
        requests: These digests, by what was asked of the run.
        begun: Images that a run began and that no later line is about.
    """

    path: Path | None
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: dict[str, str] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)

    def append(self, line: Mapping[str, Any]) -> None:
        """Write a line, and remember it.

        Raises:
            OutputError: It cannot be written.
        """
        self._take(dict(line))
        if self.path is None:
            return
        data = json.dumps(dict(line), default=str, ensure_ascii=True).encode() + b"\n"
        with output_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                end = os.lseek(file, 0, os.SEEK_END)
                if end and os.pread(file, 1, end - 1) != b"\n":  # a line that a kill cut short
                    data = b"\n" + data
                written = os.write(file, data)
                if written != len(data):
                    os.write(file, data[written:])
            finally:
                os.close(file)

    def _take(self, line: dict[str, Any]) -> None:
        if isinstance(line.get("image"), str) and line.get("status") == "removed":
            self.images.pop(line["image"], None)
            self.begun.discard(line["image"])
        elif isinstance(line.get("image"), str):
            self.images[line["image"]] = line
            self.begun.discard(line["image"])
        elif isinstance(line.get("begun"), list):
            self.begun.update(name for name in line["begun"] if isinstance(name, str))
        elif isinstance(line.get("made"), str):
            self.runs[line["made"]] = line
            self.requests[str(line.get("request"))] = line["made"]


def read_ledger(out: Path) -> Ledger:
    """The ledger of an output folder; lines that are not records, such as half a line, are ignored."""
    path = out / NAME
    ledger = Ledger(path)
    if not path.is_file():
        return ledger
    try:
        data = path.read_bytes()
    except OSError:
        return ledger
    for raw in data.splitlines():
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            ledger._take(line)
    return ledger


def digest(values: Any) -> str:
    """Short digest of plain values."""
    text = json.dumps(values, sort_keys=True, default=str, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def content_digest(path: Path) -> str:
    """Short digest of a file's content."""
    whole = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            whole.update(block)
    return whole.hexdigest()


def stamp(path: Path) -> Stamp | None:
    """The stamp of a file; None if it cannot be read."""
    try:
        there = path.stat()
        return there.st_size, there.st_mtime_ns, content_digest(path)
    except OSError:
        return None


def same_file(path: Path, before: Any) -> bool:
    """Whether a file matches a stamp; its content is only read if size or time differ."""
    if not isinstance(before, Sequence) or len(before) != 3:
        return False
    try:
        there = path.stat()
        if there.st_size != before[0]:
            return False
        return there.st_mtime_ns == before[1] or content_digest(path) == before[2]
    except OSError:
        return False


def quick_stamps(paths: Sequence[Path]) -> list[list[Any]]:
    """Size and time of files: they tell whether weights are those of an earlier run without reading them."""
    found: list[list[Any]] = []
    for path in paths:
        try:
            there = path.stat()
            found.append([str(path), there.st_size, there.st_mtime_ns])
        except OSError:
            found.append([str(path), None, None])
    return found
