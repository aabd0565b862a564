"""Where outputs go: a folder on the disk, or one behind an address.

Every writer writes a file. Behind an address, files are made in a scratch folder and sent one by one, each under its
final name and in one piece; what is sent is removed from the scratch folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pixaff.errors import PixaffError, UsageError
from pixaff.io.addresses import address_of, fetch, is_address, listed, local_path, put, read_address
from pixaff.io.atomic import scratch_folder, write_bytes
from pixaff.io.records import parse_json

_RECORDS = ("run.json", "run.jsonl", "run-")


class Destination:
    """A folder for outputs.

    Args:
        out: Its path or address.

    Attributes:
        address: The address; "" of a folder on the disk.
        folder: The folder on the disk, or the scratch folder.

    Raises:
        PixaffError: The address cannot be listed.
    """

    def __init__(self, out: str | Path) -> None:
        self.address = address_of(out).rstrip("/") if is_address(out) else ""
        self._sent: dict[str, int] = {}
        self.folder = self._scratch() if self.address else Path(local_path(out))
        if self.address:
            self._sent = {name: stamp[0] for name, stamp in listed(self.address, recursive=True).items()}

    def _scratch(self) -> Path:
        self._keeps = scratch_folder()
        return Path(self._keeps.name)

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self.address, "folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become that of a worker, perhaps on another machine, where outputs are made in another scratch folder."""
        self.address, self._sent = state["address"], {}
        self.folder = self._scratch() if self.address else state["folder"]

    def path(self, name: str) -> Path:
        """The path of an output for messages; it may hold an address."""
        return Path(self.address, name) if self.address else self.folder / name

    def shown(self, file: Path) -> Path:
        """The same for a file in the folder."""
        return self.path(file.relative_to(self.folder).as_posix()) if self.address else file

    def size(self, name: str) -> int | None:
        """Bytes of an output that is there; None if it is not."""
        if self.address:
            return self._sent.get(name)
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def has(self, file: Path) -> int | None:
        """Bytes of what was sent of a file in the folder; None if it was not."""
        return self._sent.get(file.relative_to(self.folder).as_posix())

    def send(self, *files: Path) -> None:
        """Send files of the scratch folder, and remove them there; files that are where they belong stay.

        Raises:
            OutputError: One cannot be sent.
        """
        for file in files if self.address else ():
            self.take(file, file.relative_to(self.folder).as_posix())
            file.unlink()

    def take(self, file: Path, name: str) -> None:
        """Put a copy of a file where outputs go.

        Raises:
            OutputError: It cannot be written.
        """
        if self.address:
            put(f"{self.address}/{name}", file)
            self._sent[name] = file.stat().st_size
        else:
            write_bytes(self.folder / name, file.read_bytes())

    @contextmanager
    def delivered(self, name: str, temporary: Path) -> Iterator[Path]:
        """Yield a path to write to, which is sent when the block ends well.

        Raises:
            OutputError: It cannot be sent.
        """
        yield temporary
        self.take(temporary, name)
        temporary.unlink()

    def record(self, name: str) -> dict[str, Any] | None:
        """A JSON object that is there, or None."""
        if self.size(name) is None:
            return None
        try:
            data = read_address(f"{self.address}/{name}") if self.address else (self.folder / name).read_bytes()
            found = parse_json(data)
        except (ValueError, OSError):
            return None
        return found if isinstance(found, dict) else None

    def write_record(self, name: str, facts: Mapping[str, Any]) -> Path:
        """Write a JSON object; returns its path, as `path` does.

        Raises:
            OutputError: It cannot be written.
        """
        data = json.dumps(facts, indent=2, default=str).encode() + b"\n"
        write_bytes(self.folder / name, data)
        if self.address:
            self.send(self.folder / name)
        return self.path(name)

    def pull_records(self) -> None:
        """Have the records that are behind the address in the scratch folder.

        Raises:
            PixaffError: One cannot be read.
        """
        for name in self._sent:
            if name.startswith(_RECORDS) and "/" not in name and name.endswith((".json", ".jsonl")):
                fetch(f"{self.address}/{name}", self.folder / name)

    def push_record(self, name: str) -> None:
        """Send a record, which stays in the scratch folder.

        Raises:
            OutputError: It cannot be sent.
        """
        if self.address and (self.folder / name).is_file():
            self.take(self.folder / name, name)


def destination(out: str | Path) -> Destination:
    """Where outputs go.

    Raises:
        UsageError: The address names no folder.
        PixaffError: It cannot be listed.
    """
    if is_address(out) and str(out).lower().endswith(".png"):
        raise UsageError(f"found {address_of(out)} for the outputs, expected the address of a folder", "drop its end")
    return Destination(out)


def records_behind(address: str, scratch: Path, wanted: tuple[str, ...] = (".json", ".jsonl")) -> int:
    """Copy the records behind an address to a folder: of runs, and of shards; returns how many.

    Raises:
        PixaffError: The address cannot be read.
    """
    names = [name for name in listed(address, recursive=True) if name.endswith(wanted) and _is_record(name)]
    for name in names:
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        fetch(f"{address_of(address).rstrip('/')}/{name}", scratch / name)
    if not names:
        raise PixaffError(f"{address_of(address)}: found no records of pixaff", "check the address")
    return len(names)


def _is_record(name: str) -> bool:
    return not name.startswith(("instances/", "scores/")) and name != "instances.json"
