"""What can be fetched by name, and from where.

An entry is stated in code by `published` (a network's file does so), in the package's TOML file (what belongs to no
network), or in a TOML file of the user's, which adds entries and replaces fields of the others.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixaff.errors import UsageError, quoted, shortened
from pixaff.weights.sources import Source, parse_source

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Entry", "Expected", "Source", "check_fits", "find", "load_catalogue", "parse_source", "published"]

VARIABLE = "PIXAFF_CATALOGUE"
KINDS = ("weights", "folder", "archive")
_KEYS = ("what", "kind", "source", "mirrors", "file", "sha256", "size", "files")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,99}")


@dataclass(frozen=True)
class Expected:
    """What a file must be; None where it is not known."""

    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Entry:
    """Something that can be fetched by name; `published` makes one.

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


def published(
    name: str,
    *,
    source: str,
    what: str = "",
    kind: str = "weights",
    mirrors: Sequence[str] = (),
    file: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    files: Mapping[str, Mapping[str, Any]] | None = None,
) -> Entry:
    """An entry of the catalogue.

    Args:
        name: Small letters, digits, "-" and "_".
        source: Where its publisher keeps it: "drive-file:ID", "drive-folder:ID", "onedrive:ADDRESS" or an http(s)
            address; see `parse_source`.
        what: A few words about it.
        kind: "weights", one file; "folder", several; "archive", a packed folder of maps.
        mirrors: Further sources, tried in order when the first one fails.
        file: Name of the file in the cache; default NAME.pth, of an archive NAME.archive.
        sha256, size: What the file must be, where the publisher says so.
        files: The same for the files of a folder, by name.

    Raises:
        UsageError: A value is wrong.
    """
    given = {"file": file, "sha256": sha256, "size": size, "files": files}
    fields = {"what": what, "kind": kind, "source": source, "mirrors": list(mirrors)}
    return _entry(name, fields | {key: value for key, value in given.items() if value is not None}, f"[{name}]")


def load_catalogue(own: str | os.PathLike[str] | None = None, entries: Iterable[Entry] = ()) -> dict[str, Entry]:
    """The entries by name: ``entries`` and those of the package's file, extended by the user's own.

    Args:
        own: A TOML file; default the one that PIXAFF_CATALOGUE names. A new name adds an entry; a known one replaces
            the fields that it gives.
        entries: Those that are stated in code, such as `pixaff.models` has of its networks.

    Raises:
        UsageError: A file cannot be read, or a field is wrong; names file, entry and field.
        ValueError: Two of ``entries`` and the package's file have one name.
    """
    package = Path(__file__).with_name("catalogue.toml")
    found: dict[str, Entry] = {}
    for entry in (*entries, *(_entry(name, fields, f"{package}: [{name}]") for name, fields in _read(package).items())):
        if entry.name in found:
            raise ValueError(f"two entries of the catalogue are called {entry.name}")
        found[entry.name] = entry
    own = own or os.environ.get(VARIABLE)
    if own:
        for name, fields in _read(Path(own)).items():
            where = f"{own}: [{shortened(name)}]"
            if not isinstance(fields, dict):
                raise UsageError(f"{where}: expected a table of fields")
            known = _fields(found[name], fields.get("kind")) if name in found else {}
            found[name] = _entry(name, known | fields, where)
    return found


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
    raise UsageError(f"no weights are called {quoted(name)}", hint)


def is_name(name: str) -> bool:
    """Whether a text can name an entry. It becomes a folder, and must be one on every system."""
    reserved = re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name)  # on Windows
    return bool(_NAME.fullmatch(name)) and not name.endswith(".") and not reserved


def check_fits(source: Source, kind: str) -> None:
    """Check that something of this kind can come from such a source.

    Raises:
        UsageError: A folder cannot come from the address of one file.
    """
    if kind == "folder" and not source.is_folder:
        raise UsageError(
            f"found the source {source} for a folder", "expected drive-folder:ID, or an address ending in /"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", "see --catalogue and PIXAFF_CATALOGUE") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise UsageError(f"{path}: not TOML: {shortened(error)}") from None
    except RecursionError:
        raise UsageError(f"{path}: not TOML: brackets inside brackets without end") from None


def _fields(entry: Entry, kind: Any) -> dict[str, Any]:
    """An entry as its table in TOML, to be extended by one that may give another kind."""
    source, *mirrors = (source.spelled for source in entry.sources)
    fields: dict[str, Any] = {"what": entry.what, "kind": entry.kind, "source": source, "mirrors": mirrors}
    if kind not in (None, entry.kind):
        return fields
    pins = {
        file: {key: value for key, value in (("sha256", each.sha256), ("size", each.size)) if value is not None}
        for file, each in entry.files.items()
    }
    return fields | ({"files": pins} if entry.kind == "folder" else {"file": entry.file, **pins[entry.file]})


def _entry(name: str, fields: Mapping[str, Any], where: str) -> Entry:
    if not is_name(name):
        raise UsageError(f"{where}: expected a name of small letters, digits, - and _")
    for key in fields:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            raise UsageError(f"{where}: unknown field {shortened(key)}", f"did you mean {near[0]}?" if near else "")
    kind = fields.get("kind", "weights")
    if kind not in KINDS:
        raise UsageError(f"{where}: found the kind {shortened(repr(kind))}, expected one of {', '.join(KINDS)}")
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
        if not isinstance(pinned, Mapping) or {"file", "sha256", "size"} & fields.keys():
            raise UsageError(f"{where}: a folder pins its files in the table files, by name")
        file = ""
    else:
        file = fields.get("file", f"{name}.pth" if kind == "weights" else f"{name}.archive")
        if not isinstance(file, str):
            raise UsageError(f"{where}: expected file, a string")
        pinned = {file: {key: fields[key] for key in ("sha256", "size") if key in fields}}
        if "files" in fields:
            raise UsageError(f"{where}: files is for the kind folder, expected sha256 and size")
    for each in pinned:
        if not _FILE.fullmatch(each) or each in ("record.json", "files"):
            raise UsageError(f"{where}: found the file name {quoted(each)}, expected a plain one")
    files = {each: _expected(values, f"{where} {each}") for each, values in pinned.items()}
    return Entry(name, str(fields.get("what", "")), kind, file, sources, files)


def _expected(values: Any, where: str) -> Expected:
    sha256, size = (values.get("sha256"), values.get("size")) if isinstance(values, Mapping) else (0, 0)
    if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch(r"[0-9a-fA-F]{64}", sha256)):
        raise UsageError(f"{where}: expected sha256, a string of 64 hex digits")
    if size is not None and not (type(size) is int and size > 0):
        raise UsageError(f"{where}: expected size, a number of bytes")
    return Expected(sha256.lower() if sha256 else None, size)
