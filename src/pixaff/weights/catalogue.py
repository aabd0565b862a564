"""What can be fetched, and from where: the package's TOML file, extended by the user's own."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pixaff.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VARIABLE = "PIXAFF_CATALOGUE"
KINDS = ("weights", "folder", "archive")
_KEYS = ("what", "kind", "source", "mirrors", "file", "sha256", "size", "files")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,99}")
_DRIVE_ID = re.compile(r"[-\w]{10,}")
_DRIVE_HOSTS = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")
_ONEDRIVE_HOSTS = ("1drv.ms", "onedrive.live.com")


@dataclass(frozen=True)
class Source:
    """Where something lies.

    Attributes:
        kind: "drive-file", "drive-folder", "onedrive" or "http".
        value: Id of a file or folder on Google Drive, else an address.
    """

    kind: str
    value: str

    def __str__(self) -> str:
        return self.value if self.kind == "http" else f"{self.kind}:{self.value}"

    @property
    def browser(self) -> str:
        """The address at which a person sees it."""
        if self.kind == "drive-file":
            return f"https://drive.google.com/file/d/{self.value}/view"
        if self.kind == "drive-folder":
            return f"https://drive.google.com/drive/folders/{self.value}"
        return self.value


@dataclass(frozen=True)
class Expected:
    """What a file must be; None where it is not known."""

    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Entry:
    """Something that can be fetched by name.

    Attributes:
        name: Its name, and that of its folder in the cache.
        what: A few words about it.
        kind: "weights", one file; "folder", several; "archive", a packed folder of maps.
        file: Name of the file in the cache; of a folder, "".
        sources: The publisher's address, then the mirrors.
        files: What is pinned, by file name.
    """

    name: str
    what: str
    kind: str
    file: str
    sources: tuple[Source, ...]
    files: Mapping[str, Expected]


def parse_source(text: str) -> Source:
    """A source as it is written in the catalogue or after ``--mirror``.

    Args:
        text: "drive-file:ID", "drive-folder:ID", "onedrive:ADDRESS", or an http(s) address; addresses of Google Drive
            and OneDrive are recognised.

    Raises:
        UsageError: It is none of these.
    """
    kind, _, value = text.partition(":")
    if kind in ("drive-file", "drive-folder"):
        if not _DRIVE_ID.fullmatch(value):
            raise UsageError(f"found {text!r}, expected the id of a file or folder on Google Drive after {kind}:")
        return Source(kind, value)
    address = value if kind == "onedrive" else text
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"found the source {text!r}, expected an http or https address",
            "or drive-file:ID, drive-folder:ID, onedrive:ADDRESS",
        )
    if kind == "onedrive" or parts.hostname in _ONEDRIVE_HOSTS:
        return Source("onedrive", address)
    if parts.hostname in _DRIVE_HOSTS:
        folder = re.search(r"/folders/([-\w]{10,})", parts.path)
        file = re.search(r"/d/([-\w]{10,})", parts.path)
        ids = parse_qs(parts.query).get("id", [])
        if folder:
            return Source("drive-folder", folder[1])
        if file or (len(ids) == 1 and _DRIVE_ID.fullmatch(ids[0])):
            return Source("drive-file", file[1] if file else ids[0])
        raise UsageError(f"found {text}, expected the address of one file or folder on Google Drive")
    return Source("http", address)


def load_catalogue(own: str | os.PathLike[str] | None = None) -> dict[str, Entry]:
    """The entries by name: those of the package, extended by ``own`` or by the file that PIXAFF_CATALOGUE names.

    A new name adds an entry; a known one replaces the fields that it gives.

    Raises:
        UsageError: The file cannot be read, or a field is wrong; names file, entry and field.
    """
    package = Path(__file__).with_name("catalogue.toml")
    tables = _read(package)
    where = dict.fromkeys(tables, package)
    own = own or os.environ.get(VARIABLE)
    if own:
        for name, fields in _read(Path(own)).items():
            known = tables.get(name, {})
            tables[name] = {**known, **fields} if isinstance(fields, dict) else fields
            where[name] = Path(own)
    return {name: _entry(name, fields, where[name]) for name, fields in tables.items()}


def find(catalogue: Mapping[str, Entry], name: str) -> Entry:
    """The entry of a name; "@name" is the same.

    Raises:
        UsageError: There is none; suggests the nearest.
    """
    name = name.removeprefix("@")
    if name in catalogue:
        return catalogue[name]
    near = difflib.get_close_matches(name, catalogue, 1)
    hint = f"did you mean {near[0]}?" if near else f"names: {', '.join(catalogue)}"
    raise UsageError(f"no weights are called {name!r}", hint)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", "see --catalogue and PIXAFF_CATALOGUE") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise UsageError(f"{path}: not TOML: {error}") from None


def _entry(name: str, fields: Any, path: Path) -> Entry:
    where = f"{path}: [{name}]"
    # The name becomes a folder and must be one on every system; "nul" and the like are none on Windows.
    if not _NAME.fullmatch(name) or name.endswith(".") or re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name):
        raise UsageError(f"{where}: expected a name of small letters, digits, - and _")
    if not isinstance(fields, dict):
        raise UsageError(f"{where}: found {fields!r}, expected a table of fields")
    for key in fields:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            raise UsageError(f"{where}: unknown field {key}", f"did you mean {near[0]}?" if near else "")
    kind = fields.get("kind", "weights")
    if kind not in KINDS:
        raise UsageError(f"{where}: found the kind {kind!r}, expected one of {', '.join(KINDS)}")
    mirrors = fields.get("mirrors", [])
    addresses = [fields.get("source"), *(mirrors if isinstance(mirrors, list) else [None])]
    if not all(isinstance(address, str) for address in addresses):
        raise UsageError(f"{where}: expected source, a string, and mirrors, a list of strings")
    try:
        sources = tuple(parse_source(str(address)) for address in addresses)
        for source in sources:
            check_fits(source, kind)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from None
    if kind == "folder":
        pinned = fields.get("files", {})
        if not isinstance(pinned, dict) or {"file", "sha256", "size"} & fields.keys():
            raise UsageError(f"{where}: a folder pins its files in the table files, by name")
        file = ""
    else:
        file = fields.get("file", f"{name}.pth" if kind == "weights" else f"{name}.archive")
        pinned = {file: {key: fields[key] for key in ("sha256", "size") if key in fields}}
        if "files" in fields:
            raise UsageError(f"{where}: files is for the kind folder, expected sha256 and size")
    for each in pinned:
        if not isinstance(each, str) or not _FILE.fullmatch(each) or each in ("record.json", "files"):
            raise UsageError(f"{where}: found the file name {each!r}, expected a plain one")
    files = {each: _expected(values, f"{where} {each}") for each, values in pinned.items()}
    return Entry(name, str(fields.get("what", "")), kind, file, sources, files)


def check_fits(source: Source, kind: str) -> None:
    """Whether something of this kind can come from such a source.

    Raises:
        UsageError: A folder cannot come from the address of one file.
    """
    if kind == "folder" and source.kind != "drive-folder" and not (source.kind == "http" and source.value[-1] == "/"):
        raise UsageError(
            f"found the source {source} for a folder", "expected drive-folder:ID, or an address ending in /"
        )


def _expected(values: Any, where: str) -> Expected:
    sha256, size = (values.get("sha256"), values.get("size")) if isinstance(values, dict) else (0, 0)
    if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch(r"[0-9a-fA-F]{64}", sha256)):
        raise UsageError(f"{where}: expected sha256, a string of 64 hex digits")
    if size is not None and not (isinstance(size, int) and size > 0):
        raise UsageError(f"{where}: expected size, a number of bytes")
    return Expected(sha256.lower() if sha256 else None, size)
