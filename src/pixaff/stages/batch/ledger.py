"""`run.jsonl`: what each output was made of, one line per image, so that a later run knows which outputs still fit.

The file is beside the outputs and only ever appended to, one whole line at a time: processes may share it. A shard has
a file of its own, ``run-I-of-N.jsonl``, because appending from several machines loses lines on network file systems.
The last line about an image counts, whichever file it is in. There are three kinds of lines:

- ``{"made": ID, "request": ID, "settings": {...}, ...}``: the model's weights and the settings of a run;
- ``{"image": NAME, "status": "done", "failed" or "removed", "made": ID, "photo": ..., "cams": ..., "labels": ...}``;
- ``{"begun": [NAME, ...]}``: images that a run is about to do: their outputs may be newer than their last line.

Each has the time at which it was written, "at", in seconds since 1970.

NAME is what `pixaff.stages.batch.naming` calls an image: its file's name or, with ``--recursive``, its path.

Files are compared by size, time and content: one that was only copied or touched still fits.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pixaff.io.atomic import output_errors
from pixaff.shard import Shard

NAME = "run.jsonl"
SHARDS = "run-*-of-*.jsonl"

Stamp = tuple[int, int, str]
"""Size in bytes, time of the last change in nanoseconds, and digest of the content."""


@dataclass
class Ledger:
    """The lines of `run.jsonl`, and of the shards beside it.

    Attributes:
        path: The file that new lines go to; None keeps them in memory only.
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
        timed = {**line, "at": round(time.time(), 3)}
        data = json.dumps(timed, default=str, ensure_ascii=True).encode() + b"\n"
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


def read_ledger(out: Path, shard: Shard | None = None) -> Ledger:
    """The ledger of an output folder; lines that are not records, such as half a line, are ignored.

    Args:
        out: The folder.
        shard: Only remember its images, and append to its own file.
    """
    ledger = Ledger(out / (NAME if shard is None else f"{shard.stem}.jsonl"))
    files = [out / NAME, *sorted(out.glob(SHARDS))]
    for line in heapq.merge(*(_lines(path, shard) for path in files), key=_time):
        ledger._take(line)
    return ledger


def _lines(path: Path, shard: Shard | None) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    try:
        with open(path, "rb") as file:
            for raw in file:
                try:
                    line = json.loads(raw)
                except (ValueError, RecursionError):
                    continue
                if isinstance(line, dict) and (shard is None or _concerns(line, shard)):
                    yield line
    except OSError:
        return


def _concerns(line: dict[str, Any], shard: Shard) -> bool:
    """Whether a line is about a run or about images of a shard; the names of other images are taken out."""
    if isinstance(line.get("begun"), list):
        line["begun"] = [name for name in line["begun"] if isinstance(name, str) and shard.has(name)]
    image = line.get("image")
    return not isinstance(image, str) or shard.has(image)


def _time(line: Mapping[str, Any]) -> float:
    at = line.get("at")
    return float(at) if isinstance(at, (int, float)) and 0 <= at < 1e12 else 0.0


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
