"""Image-level labels given by a person, matched against the photos at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pixaff.errors import UsageError, counted, shortened
from pixaff.events import Callback, Event
from pixaff.io.labels import Labels, doubts, read_classes, read_labels

PREDICT = "predict"


def class_names(path: str | Path | None, known: Sequence[str]) -> tuple[str, ...]:
    """The classes that a run speaks of: the model's, which a ``--classes`` file may confirm but not change.

    Raises:
        LabelsError: The file cannot be read.
        UsageError: The file names other classes than the model knows.
    """
    if path is None:
        return tuple(known)
    names = read_classes(path)
    if names != tuple(known):
        raise UsageError(
            f"{path} names {len(names)} classes ({_some(names)}), the model knows {len(known)} ({_some(known)})",
            "leave --classes out, or train a model for these classes: pixaff fit",
        )
    return names


def read_given_labels(
    source: str | Path, classes: Sequence[str], photos: Sequence[Path], *, command: str, listed: bool, report: Callback
) -> Labels | None:
    """The labels of the photos, or None where ``source`` is "predict".

    A label without a photo is a warning in words, unless a list has chosen among the photos. So is what belongs to no
    image.

    Raises:
        LabelsError: The labels cannot be read, not one photo has any, or none of them can be used.
    """
    if str(source) == PREDICT:
        return None
    labels = read_labels(source, classes, [photo.stem for photo in photos])
    if labels.others and not listed:
        named = _some([shortened(image) for image in labels.others[:4]])
        text = f"{source}: no photo for {counted(len(labels.others), 'labelled image')}: {named}"
        report(Event("warning", command, text))
    if labels.strays:
        more = f"; and {counted(len(labels.strays) - 1, 'more such line')}" if len(labels.strays) > 1 else ""
        report(Event("warning", command, f"{labels.strays[0]}{more}"))
    return labels


def labels_of(photo: Path, labels: Labels | None, source: str | Path) -> tuple[int, ...] | None:
    """The labels of one photo, empty where it shows no class; None asks for a prediction.

    Raises:
        LabelsError: Labels are given, but none for this photo, or none that can be used.
    """
    return None if labels is None else labels.of(photo.stem)


def ask_about(
    labels: Labels | None, classes: Sequence[str], *, listed: bool, yes: bool, command: str, report: Callback
) -> None:
    """Ask about what is odd in labels before they are trained on; with ``yes``, only say it.

    Raises:
        UsageError: Something is odd.
    """
    questions = [] if labels is None else doubts(labels, classes, listed=listed)
    if questions and not yes:
        more = f"; and {counted(len(questions) - 3, 'more question')}" if len(questions) > 3 else ""
        raise UsageError("; ".join(questions[:3]) + more, "--yes trains on the labels as they are")
    for question in questions:
        report(Event("warning", command, question))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
