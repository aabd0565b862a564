"""What an earlier run in the same folder still counts for, when its options or photos have changed.

The record of a run, ``run.json``, has the options and labels that its outputs were made of, and the state of each
stage. What has to be removed is written down there before anything is removed, so a kill at any moment leaves a folder
that the same command puts right.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pixaff.errors import UsageError, counted
from pixaff.recipe import Recipe
from pixaff.settings import value_words
from pixaff.stages.batch.ledger import NAME as LEDGER
from pixaff.stages.batch.ledger import read_ledger
from pixaff.stages.batch.record import read_record
from pixaff.stages.training.forecast import Pace
from pixaff.stages.training.optimizer import POWER
from pixaff.stages.training.stage import Stage, stale_stages

EARLIER = "earlier.safetensors"
"""Weights from which a training continues when photos have changed."""
SHARE = 0.25
"""Part of the photos that may change for that, and part of its epochs that a training does again."""
DATA = "data"
"""The option that stands for photos and labels."""


@dataclass
class Part:
    """The state of a stage in the record.

    Attributes:
        state: "stale" if its outputs are to be removed, "begun", or "done".
        warm: Whether the training continues from the weights of an earlier run.
        seconds, units: How long so many photos or steps took.
    """

    state: str = "begun"
    warm: bool = False
    seconds: float = 0.0
    units: int = 0

    @property
    def pace(self) -> Pace:
        return Pace(self.seconds, self.units)


@dataclass
class Changes:
    """What a run does about an earlier one in its folder.

    Attributes:
        parts: The state of each stage, by name.
        words: What has changed and what is done again; "" if nothing has.
        gone: Names of photos that the earlier run had and this one has not.
    """

    parts: dict[str, Part]
    words: str = ""
    gone: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """The same for the record."""
        return {"stages": {name: asdict(part) for name, part in self.parts.items()}, "gone": list(self.gone)}


def changes_since(
    out: Path,
    command: str,
    stages: Sequence[Stage],
    options: Mapping[str, Any],
    photos: Mapping[str, Sequence[int]],
    recipes: Mapping[str, Recipe],
) -> Changes:
    """Compare a run with the record of an earlier one in the same folder.

    Args:
        out: The folder.
        command: Name of the command.
        stages: The stages of the run.
        options: Its options, plain for JSON.
        photos: Its photos by name, with their classes.
        recipes: Hyper-parameters of its trainings, for the words.

    Raises:
        UsageError: The folder holds outputs of another command, or the first stage would have to start from scratch:
            its options or too many photos have changed.
    """
    record = read_record(out)
    if record is None:
        return Changes({stage.name: Part() for stage in stages})
    before = record["settings"]
    if record.get("command") != command:
        raise UsageError(f"{out} contains outputs of pixaff {record.get('command')}", "choose another folder")
    gone = record.get("gone")
    changes = Changes(
        {stage.name: _part(record, stage) for stage in stages}, gone=tuple(gone) if isinstance(gone, list) else ()
    )
    changed = [name for name, value in options.items() if before.get(name) != value]
    others = [name for name in changed if name != DATA]
    deciding = {name for stage in stages for name in stage.options}
    words = [
        f"{name} {value_words(before.get(name))} -> {value_words(options[name])}" for name in others if name in deciding
    ]
    then = record.get("photos")
    differ = _differences(then if isinstance(then, dict) else {}, photos) if DATA in changed else []
    many = len(differ) > SHARE * len(photos)
    if not set(others).isdisjoint(stages[0].options) or many:
        if many:
            words.append(f"{counted(len(differ), 'photo')} added, removed or with other labels, of {len(photos)}")
        raise UsageError(
            f"{out} contains a run with other options or photos: {', '.join(words)}",
            "the classifier would have to start from scratch: --overwrite does that, or choose another folder",
        )
    stale = stale_stages(stages, others)
    for stage in stale:
        changes.parts[stage.name] = Part("stale")
    told = [stage.words for stage in stale]
    if differ:
        removed = [name for name in differ if name not in photos]
        changes.gone = tuple(dict.fromkeys((*changes.gone, *removed)))
        for stage in [stage for stage in stages if stage not in stale]:
            part = changes.parts[stage.name]
            if not stage.recipe:
                part.state = "begun"
                continue
            # One that was not finished has no weights to continue from, unless it continued itself.
            changes.parts[stage.name] = Part("stale", part.state == "done" or part.warm, part.seconds, part.units)
        words.insert(0, _data_words(then or {}, photos, differ))
        told = [
            f"{stage.words} for {counted(shorter(recipes[stage.recipe]).epochs, 'more epoch')}"
            for stage in stages
            if changes.parts[stage.name].warm and changes.parts[stage.name].state == "stale"
        ] + [*told, f"masks of {counted(len(differ) - len(removed), 'photo')}"]
    if words and told:
        changes.words = f"{', '.join(words)}: {', '.join(told)}"
    return changes


def clear_stale(out: Path, stages: Iterable[Stage], changes: Changes, written: Sequence[str]) -> None:
    """Remove the outputs of stages that are stale, and those of photos that are gone.

    Doing it twice does no harm. A training that will continue keeps its weights under another name.

    Args:
        out: Folder of the run.
        stages: Its stages.
        changes: Their parts become "begun".
        written: Names of further files that stages write into their folders.
    """
    for stage in stages:
        part, folder = changes.parts[stage.name], out / stage.name
        if part.state == "stale":
            if part.warm:
                with suppress(FileNotFoundError):
                    os.replace(folder / stage.weights, folder / EARLIER)
                part.warm = (folder / EARLIER).is_file()
            else:
                (folder / EARLIER).unlink(missing_ok=True)
            clear_folder(folder, [*written, stage.weights] if stage.weights else written)
            part.state = "begun"
        elif changes.gone:
            remove_photos(folder, changes.gone)
    changes.gone = ()


def clear_folder(folder: Path, written: Collection[str]) -> None:
    """Remove what a stage wrote into its folder and the folders in it, and nothing else."""
    ledger = read_ledger(folder)
    _remove(folder, (*ledger.images, *ledger.begun), written)


def remove_photos(folder: Path, names: Collection[str]) -> None:
    """Remove the outputs of photos from the folder of a stage, and their lines from what its ledger says."""
    ledger = read_ledger(folder)
    known = [name for name in names if name in ledger.images or name in ledger.begun]
    if known:
        _remove(folder, known)
        for name in known:
            ledger.append({"image": name, "status": "removed"})


def shorter(recipe: Recipe) -> Recipe:
    """The last quarter of a training: its epochs, with the learning rate that the schedule has by then."""
    epochs = math.ceil(SHARE * recipe.epochs)
    least = math.ceil(SHARE * recipe.min_steps)
    return recipe.replace(epochs=epochs, min_steps=least, lr=recipe.lr * (epochs / recipe.epochs) ** POWER)


def _part(record: Mapping[str, Any], stage: Stage) -> Part:
    """What a record says of a stage; one of an older version says nothing."""
    found = record.get("stages")
    facts = found.get(stage.name) if isinstance(found, dict) else None
    try:
        return Part(**facts) if isinstance(facts, dict) else Part()
    except TypeError:
        return Part()


def _differences(then: Mapping[str, Any], now: Mapping[str, Sequence[int]]) -> list[str]:
    """Names of the photos that were added or removed, or that have other labels."""
    return [name for name in dict.fromkeys((*now, *then)) if then.get(name) != _plain(now.get(name))]


def _data_words(then: Mapping[str, Any], now: Mapping[str, Sequence[int]], differ: Sequence[str]) -> str:
    relabelled = sum(name in then and name in now for name in differ)
    words = [f"{len(then)} -> {len(now)} photos"] if set(then) != set(now) else []
    if relabelled:
        words.append(f"other labels of {counted(relabelled, 'photo')}")
    return ", ".join(words)


def _plain(labels: Sequence[int] | None) -> list[int] | None:
    return None if labels is None else list(labels)


def _remove(folder: Path, names: Iterable[str], written: Collection[str] = ()) -> None:
    """Remove outputs of photos, and files of certain names, from a folder and those in it; empty ones then go, too.

    Args:
        folder: Folder of a stage. Outputs are in it, or in one of its folders, by what the photos are called.
        names: What the photos are called, with their suffix.
        written: Names of further files, directly in either.
    """
    keys = {PurePosixPath(name).with_suffix("") for name in names}

    def is_output(file: Path) -> bool:
        key = PurePosixPath(file.relative_to(folder).as_posix()).with_suffix("")
        within = PurePosixPath(*key.parts[1:])
        return key in keys or within in keys or (file.name in written and len(key.parts) <= 2)

    for place, _, files in os.walk(folder, topdown=False):
        # The ledger last: it says whose the other files are, should a kill come between.
        for file in sorted((Path(place, name) for name in files), key=lambda path: path.name == LEDGER):
            if is_output(file):
                file.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            Path(place).rmdir()
