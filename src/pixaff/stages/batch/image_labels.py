"""Given image-level labels, matched with the photos of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pixaff.errors import UsageError, counted, first_few
from pixaff.events import Callback, Event
from pixaff.io.labels import Entries, Labels, Wanted, doubts, match_labels, read_entries
from pixaff.io.sources import INSIDE, Packed
from pixaff.stages.batch.naming import Names, naming_of, source_of

PREDICT = "predict"


@dataclass(frozen=True, eq=False, repr=False)
class PhotoLabels(Labels):
    """Labels that belong to the photos of a run.

    Attributes:
        names: What the photos are called.
    """

    names: Names = field(default_factory=Names)


def given_entries(source: str | Path, photos: Sequence[Path]) -> Entries | None:
    """What a label file says of the photos, before the classes are known, or None where ``source`` is "predict".

    Where ``source`` is "inside", the labels are those beside the photos in their shard.

    Raises:
        LabelsError: The labels cannot be read, or no photo has any.
    """
    if str(source) == INSIDE:
        return source_of(photos).labels(Wanted(keys_of(photos)))
    return None if str(source) == PREDICT else read_entries(source, keys_of(photos))


def keys_of(photos: Sequence[Path]) -> list[str]:
    """What label files call the photos."""
    names = naming_of(photos)
    return [names.key(photo) for photo in photos]


def names_of(entries: Entries | None) -> dict[str, tuple[str | int, ...]] | None:
    """The labels by image, as the file has them; None if they are predicted."""
    return None if entries is None else {stem: entry.labels for stem, entry in entries.by_image.items()}


def read_given_labels(
    source: str | Path,
    classes: Sequence[str],
    photos: Sequence[Path],
    *,
    command: str,
    listed: bool,
    report: Callback,
    entries: Entries | None = None,
) -> Labels | None:
    """The labels of the photos, or None where ``source`` is "predict".

    A label without a photo gives a warning, unless a list has selected the photos, and so does an entry without an
    image. ``entries`` are those of `given_entries`, if they have been read already.

    Raises:
        LabelsError: The labels cannot be read, no photo has any, or none of them can be used.
    """
    if str(source) == PREDICT:
        return None
    where = source_of(photos).shown if str(source) == INSIDE else source
    matched = match_labels(where, entries or read_entries(source, keys_of(photos)), classes)
    labels = PhotoLabels(**vars(matched), names=naming_of(photos))
    if labels.others and not listed and not isinstance(source_of(photos), Packed):
        text = f"{source}: no photo for {counted(len(labels.others), 'labelled image')}: {first_few(labels.others)}"
        report(Event("warning", command, text))
    if labels.strays:
        more = f"; and {counted(len(labels.strays) - 1, 'more such line')}" if len(labels.strays) > 1 else ""
        report(Event("warning", command, f"{labels.strays[0]}{more}"))
    return labels


def labels_of(photo: Path, labels: Labels | None, source: str | Path) -> tuple[int, ...] | None:
    """The labels of one photo, empty if it shows no class; None means that they are to be predicted.

    Raises:
        LabelsError: Labels are given, but none for this photo, or they cannot be used.
    """
    if labels is None:
        return None
    names = labels.names if isinstance(labels, PhotoLabels) else Names()
    return labels.of(names.key(photo))


def ask_about(
    labels: Labels | None, classes: Sequence[str], *, listed: bool, yes: bool, command: str, report: Callback
) -> None:
    """Ask about odd labels before a training; with ``yes``, only warn.

    Raises:
        UsageError: Something is odd.
    """
    questions = [] if labels is None else doubts(labels, classes, listed=listed)
    if questions and not yes:
        more = f"; and {counted(len(questions) - 3, 'more question')}" if len(questions) > 3 else ""
        raise UsageError("; ".join(questions[:3]) + more, "--yes trains on the labels as they are")
    for question in questions:
        report(Event("warning", command, question))
