"""Image-level labels given by a person, matched against the photos at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pixaff.errors import LabelsError, UsageError
from pixaff.events import Callback, Event
from pixaff.io.labels import read_classes, read_labels

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
) -> dict[str, tuple[int, ...]] | None:
    """Labels by photo stem, 0-based, or None where ``source`` is "predict".

    A label without a photo is a warning in words, unless a list has chosen among the photos.

    Raises:
        LabelsError: The file cannot be read or names an unknown class, or not one photo has a label.
    """
    if str(source) == PREDICT:
        return None
    labels = read_labels(source, classes)
    stems = {photo.stem for photo in photos}
    if not stems & labels.keys():
        raise LabelsError(
            f"{source} labels {len(labels)} images, none of them among the {len(stems)} photos",
            f"its first is {next(iter(labels), 'missing')}, the first photo {photos[0].stem}",
        )
    without = [stem for stem in labels if stem not in stems]
    if without and not listed:
        text = f"{source} labels {len(without)} images that are not among the photos: {_some(without)}"
        report(Event("warning", command, text))
    return labels


def labels_of(photo: Path, labels: dict[str, tuple[int, ...]] | None, source: str | Path) -> tuple[int, ...] | None:
    """The labels of one photo; None asks for a prediction.

    Raises:
        LabelsError: Labels are given, but none for this photo.
    """
    if labels is None:
        return None
    if not labels.get(photo.stem):
        raise LabelsError(f"{photo}: no label in {source}", f"add {photo.stem} there, or leave it out with --list")
    return labels[photo.stem]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
