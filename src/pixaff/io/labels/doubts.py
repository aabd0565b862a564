"""Questions before a training of hours: labels that can be read, but probably not as they were meant."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pixaff.errors import counted, quoted
from pixaff.io.images import IMAGE_SUFFIXES
from pixaff.io.labels.given import Labels
from pixaff.io.labels.table import LABEL_WORDS

_NO_CLASS = {"", "0", "-", "none", "no", "nothing", "null", "nan", "na", "n/a", "empty", "background", "_background_",
             "unlabeled", "unlabelled", "negative", "normal", "good", "ok", "false"}  # fmt: skip
_MOST_PROBLEMS = 0.1
"""Share of unusable entries that raises no question: a few photos are left out, a tenth is a mistake."""
_JOINED = re.compile(r"[,|/&+]|\s{2,}|\t")


def doubts(labels: Labels, classes: Sequence[str], *, listed: bool = False) -> list[str]:
    """Questions about labels, each in one line; none if nothing is odd.

    Args:
        labels: Of the photos that are to be trained on.
        classes: Class names in mask order.
        listed: Whether there is a class list; if not, the names were gathered from the labels, and each of them is
            checked.

    Returns:
        Questions about names that differ only in case, spaces or a plural; names that look like several joined, like
        "none", a header, a number or a photo; classes that every photo shows; and unusable entries, if there are many.
    """
    found = [_spelling(names, labels, classes) for names in _alike(classes)]
    if not listed:
        found += [question for index, name in enumerate(classes) if (question := _name(index, name, labels))]
    shown = Counter(index for present in labels.values() for index in present)
    everywhere = [quoted(classes[index]) for index, count in sorted(shown.items()) if count == len(labels)]
    if everywhere:
        found.append(
            f"all of {counted(len(labels), 'photo')} show {', '.join(everywhere)}, so that nothing tells it from the "
            "background: are there photos without it to add, their labels left empty?"
        )
    count = len(labels.problems)
    if count > _MOST_PROBLEMS * (count + len(labels)):
        share = f"{count:,} of {counted(count + len(labels), 'entry', 'entries')}"
        found.append(
            f"{share} cannot be used: is it the right class list? The first: {next(iter(labels.problems.values()))}"
        )
    return found


def _alike(classes: Sequence[str]) -> list[list[int]]:
    """Groups of classes whose names differ only in case, spaces, hyphens or a plural."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(classes):
        groups.setdefault(re.sub(r"[\s_-]+", "", name.casefold()).removesuffix("s"), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _spelling(group: Sequence[int], labels: Labels, classes: Sequence[str]) -> str:
    return f"{' and '.join(_place(index, classes[index], labels) for index in group)}: one class, spelled differently?"


def _name(index: int, name: str, labels: Labels) -> str:
    place = _place(index, name, labels)
    if name.lower() in _NO_CLASS:
        return f"{place}: a class, or a photo that shows none? Its labels are left empty"
    if name.lower() in LABEL_WORDS:
        return f"{place}: a class, or the header of a table?"
    if name.lower().endswith(tuple(IMAGE_SUFFIXES)):
        return f"{place}: a class, or a photo?"
    if re.fullmatch(r"[\d.]+", name):
        return f"{place}: a class of that name, or a number? Labels are names; --classes names them in order"
    if _JOINED.search(name):
        return f"{place}: one class, or several? Several are joined by ;"
    return ""


def _place(index: int, name: str, labels: Labels) -> str:
    return f"{quoted(name)} ({labels.named[index]})" if index in labels.named else quoted(name)
