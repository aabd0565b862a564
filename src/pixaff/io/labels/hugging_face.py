"""What the label formats of Hugging Face data sets share: cells as labels, and the names behind numbers.

A label is a name, or a number (ClassLabel); a cell holds one, a list of them, or the `objects` of a detection set. The
names behind the numbers are in the data set's card README.md, in dataset_info.json, or in the Parquet files themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixaff.errors import LabelsError, quoted, shortened
from pixaff.io.labels.safe_yaml import parse_yaml
from pixaff.io.labels.table import LABEL_WORDS, words_of
from pixaff.io.labels.text import beginning
from pixaff.io.records import parse_json

_INFOS = ("dataset_info.json", "dataset_infos.json")
_CARD = "README.md"
_OBJECTS = "objects"
UNKNOWN = -1
"""The number of an image whose label is not known, as in published test sets."""


def label_keys(names: Sequence[str]) -> list[str]:
    """The columns with labels among all columns: the first of the usual names, or else `objects`."""
    words = words_of(names)
    found = [names[words.index(word)] for word in LABEL_WORDS if word in words]
    return found[:1] or [name for name, word in zip(names, words, strict=True) if word == _OBJECTS]


def labels_in(value: Any, names: Sequence[str] | None, numbers_as_text: bool = False) -> list[str | int] | None:
    """The labels of a cell; None where they are not known.

    Args:
        value: A name, a number, a list of them, None, or the objects of an image.
        names: Names by number, where they are known; numbers stay numbers where they are not.
        numbers_as_text: Whether numbers come as text, as in CSV.

    Raises:
        ValueError: It is something else.
    """
    if value is None or value == "":
        return []
    if isinstance(value, dict):
        keys = label_keys(list(value))
        if not keys:
            raise ValueError(f"found no labels among {quoted(shortened(', '.join(map(str, value))))}")
        return labels_in(value[keys[0]], names, numbers_as_text)
    if isinstance(value, list):
        found: list[str | int] = []
        for each in value:
            labels = labels_in(each, names, numbers_as_text)
            if labels is None:
                return None
            found += labels
        return found
    if isinstance(value, str) and not (
        numbers_as_text and re.fullmatch(r"-?\d{1,9}(\.0)?", value) and not (names and value in names)
    ):
        return [value.strip()] if value.strip() else []
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not float(value).is_integer():
        raise ValueError(f"found {quoted(shortened(value))}, expected a name or number of a class")
    number = int(float(value))
    if number == UNKNOWN:
        return None
    if number < 0 or (names is not None and number >= len(names)):
        expected = "0 or more" if names is None else f"0..{len(names) - 1}"
        raise ValueError(f"found the class number {number}, expected {expected}")
    return [number] if names is None else [names[number]]


def card_names(folder: Path, column: str) -> list[str] | None:
    """The names of a column's classes, as the files beside the labels or in the folders above have them, or None.

    Raises:
        LabelsError: Such a file is damaged.
    """
    for place in (folder, folder.parent, folder.parent.parent):
        for file in (*(place / name for name in _INFOS), place / _CARD):
            data = beginning(file, 1 << 20)
            names = _column_names(_infos(file, data), column) if data else None
            if names:
                return names
    return None


def feature_names(feature: Any) -> list[str] | None:
    """The names of a ClassLabel in the description of a column, of lists and of objects; None if there is none."""
    if isinstance(feature, list):
        return next((names for each in feature if (names := feature_names(each))), None)
    if not isinstance(feature, dict):
        return None
    names = feature.get("names")
    if isinstance(names, dict) and all(str(key).isdecimal() for key in names):
        names = [names[key] for key in sorted(names, key=lambda key: int(key))]
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return names
    return next((names for each in feature.values() if (names := feature_names(each))), None)


def _infos(file: Path, data: bytes) -> Any:
    text = data.decode("utf-8", errors="replace")
    try:
        if file.name != _CARD:
            return parse_json(text)
        card = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
        return parse_yaml(card[1]) if card else None
    except ValueError as error:
        raise LabelsError(f"{file}: cannot be read: {shortened(error)}", "mend it, or remove it") from None


def _column_names(info: Any, column: str) -> list[str] | None:
    """The names of a column anywhere in the description of a data set: configurations may lie between."""
    if isinstance(info, list):
        return next((names for each in info if (names := _column_names(each, column))), None)
    if not isinstance(info, dict):
        return None
    features = info.get("features")
    if isinstance(features, Mapping):
        return feature_names(features.get(column))
    if isinstance(features, list):
        return next(
            (
                names
                for each in features
                if isinstance(each, dict) and each.get("name") == column and (names := feature_names(each))
            ),
            None,
        )
    return next((names for each in info.values() if (names := _column_names(each, column))), None)


def json_cell(text: str) -> Any:
    """A cell of a CSV: a list of JSON or Python, several names joined by ";", or one.

    Raises:
        ValueError: It begins like a list and is none.
    """
    if not text.startswith(("[", "{")):
        return [part.strip() for part in text.split(";")]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    quotes = re.sub(r"(?<=[\[,\s])'((?:[^'\\])*)'(?=[\],\s])", lambda match: json.dumps(match[1]), text)
    try:
        return json.loads(quotes)
    except (ValueError, RecursionError):
        raise ValueError(f"found {quoted(shortened(text))}, expected a list") from None
