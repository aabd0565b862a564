"""JSON that pixaff wrote, and that a disk may have damaged or a person edited since."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pixaff.errors import FormatError, PixaffError, quoted, shortened
from pixaff.io.regular import check_regular

MOST_BYTES = 64 << 20
DEEPEST = 32
_KINDS = {dict: "an object", list: "a list", str: "a string", int: "a whole number", float: "a number", bool: "a flag"}

T = TypeVar("T")


def parse_json(text: str | bytes) -> Any:
    """The value that a text of JSON holds, nested `DEEPEST` levels at most.

    Raises:
        ValueError: It is none, or nested deeper: whatever shows or writes it again would run out of stack.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("brackets inside brackets without end") from None
    level = [found]
    for _ in range(DEEPEST):
        lists = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list))]
        level = [item for items in lists for item in items]
    if any(isinstance(each, (dict, list)) for each in level):
        raise ValueError(f"brackets inside brackets, more than {DEEPEST} deep")
    return found


def read_json(path: Path, expected: str, error: type[PixaffError] = FormatError, hint: str = "") -> dict[str, Any]:
    """The object in a file of JSON.

    Args:
        path: The file.
        expected: What it holds, in words.
        error: Raised when it does not.
        hint: What to do about it.

    Raises:
        FileNotFoundError: There is no such file.
        PixaffError: An ``error``: it cannot be read, is too large, or holds something else; names the file.
    """
    try:
        check_regular(path, error)
        if path.stat().st_size > MOST_BYTES:
            raise error(f"{path}: found more than {MOST_BYTES >> 20} MiB, expected {expected}", hint)
        found = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}", hint) from None
    except ValueError as problem:
        raise error(f"{path}: no valid JSON ({shortened(problem)}), expected {expected}", hint) from None
    if not isinstance(found, dict):
        raise error(f"{path}: found {_words(found)}, expected {expected}", hint)
    return found


def entry(record: Mapping[str, Any], name: str, kind: type[T], path: Path, error: type[PixaffError] = FormatError) -> T:
    """A value of a record, which must be there and of a type. For ``float`` whole numbers do, too.

    Raises:
        PixaffError: An ``error`` that names file and entry.
    """
    if name not in record:
        raise error(f"{path}: found no {quoted(name)} in it")
    value: Any = record[name]
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 1 << 53 else None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise error(f"{path}: found {_words(record[name])} as {quoted(name)}, expected {_KINDS[kind]}")
    return value


def _words(value: Any) -> str:
    """A value of JSON for a message."""
    if value is None or isinstance(value, (bool, int, float)):
        return shortened(json.dumps(value))
    return quoted(value) if isinstance(value, str) else _KINDS[type(value)]
