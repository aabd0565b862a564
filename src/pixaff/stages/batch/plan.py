"""Which images a run still has to do: outputs that exist and still fit are skipped, and no output replaces an input.

A plan needs neither torch nor the model, so a run with nothing to do ends as soon as the folder has been read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pixaff._version import __version__
from pixaff.errors import UsageError, first_few, shortened
from pixaff.events import Event
from pixaff.io.labels import nfc
from pixaff.io.whole import looks_whole
from pixaff.run_options import RunOptions
from pixaff.settings import value_words
from pixaff.shard import Shard
from pixaff.stages.batch.destination import Destination
from pixaff.stages.batch.ledger import Ledger, digest, quick_stamps, read_ledger, same_file, stamp
from pixaff.stages.batch.naming import Photos, naming_of, source_of

EMBEDDED = Path(__file__).parents[2] / "models" / "embedded"
"""Folder of the model inside the package; `pixaff.models.bundle` has it too, but imports torch."""
LITE = "lite"
"""Its name."""


@dataclass
class Plan:
    """What a run has to do.

    Args:
        out: Folder of the outputs.
        command: Name of the command.
        photos: All images of the run; those of `find_images` know what they are called. Of these, a run with
            ``--shard`` keeps its share.
        outputs: The files that an image leads to.
        run: How the run computes; ``overwrite``, ``keep`` and ``renew`` decide here.
        labels: Given labels, by what images are called; None if they are predicted.
        cams: Folder of CAMs that are read, as a function from the image to its file.
        request: All other options of the run, as plain values.
        weights: Weights files that the request leads to, as far as they are known without loading them.
        reads: Further files that the run reads, none of which may be an output.
        recorded: Whether the folder gets a ledger and a run record; a single output file does not.
        place: Where the outputs go from ``out``, if that is behind an address.

    Attributes:
        todo: Images to do.
        skipped: Images whose outputs exist.
        names: What the images are called.
        shard: Which share of the images this is; None for all.
        total: Number of images of all shards.

    Raises:
        UsageError: An output would replace an input, or the output of another image.
    """

    out: Path
    command: str
    photos: Sequence[Path]
    outputs: Callable[[Path], tuple[Path, ...]]
    run: RunOptions
    labels: Mapping[str, tuple[str | int, ...]] | None = None
    cams: Callable[[Path], Path | None] | None = None
    request: Mapping[str, Any] = field(default_factory=dict)
    weights: Sequence[Path] = ()
    reads: Sequence[Path] = ()
    recorded: bool = True
    place: Destination | None = None

    def __post_init__(self) -> None:
        every, self.total = self.photos, len(self.photos)
        self.names, self.source = naming_of(every), source_of(every)
        self.shard = None if self.run.shard is None else Shard.of(self.run.shard)
        if (shard := self.shard) is not None:
            kept = (photo for photo in every if shard.has(self.names.name(photo)))
            self.photos = Photos(kept, self.names, self.source)
        # Two photos with one output may be in different shards.
        check_outputs(every, self.places, [*self.reads, *self._cam_files()])
        if self.place is not None and self.place.address:
            self.place.pull_records()
        self.ledger = read_ledger(self.out, shard) if self.recorded else Ledger(None)
        asked = [self.command, __version__, dict(self.request), quick_stamps(self.weights), self.labels is None]
        self.request_id = digest(asked)
        self.todo: list[Path] = []
        self.skipped: list[Path] = []
        self._stale: dict[str, list[str]] = {}
        for photo in self.photos:
            if self.run.overwrite or not self._exists(photo):
                self.todo.append(photo)
                continue
            changes = self._changes(photo)
            if changes and self.run.renew:
                self.todo.append(photo)
                continue
            self.skipped.append(photo)
            for change in changes:
                self._stale.setdefault(change, []).append(self.names.name(photo))

    @property
    def nothing_to_do(self) -> bool:
        """Whether every output exists and was made with the present options, as told without the model."""
        made = self.ledger.requests.get(self.request_id)
        known = [self.ledger.images.get(self.names.name(photo)) for photo in self.skipped]
        return not self.todo and all(line is None or line.get("made") == made for line in known)

    def places(self, photo: Path) -> tuple[Path, ...]:
        """Where the outputs of an image go, as paths that may hold addresses."""
        files = self.outputs(photo)
        return files if self.place is None else tuple(map(self.place.shown, files))

    def share(self, state: str) -> dict[str, Any]:
        """What the record of a shard says of it."""
        return {"shard": str(self.shard), "images": len(self.photos), "of": self.total, "state": state}

    def settle(self, settings: Mapping[str, Any], weights: Mapping[str, str], facts: Mapping[str, Any]) -> str:
        """Record what the outputs are made with, and find existing ones that were made with something else.

        Args:
            settings: Effective settings.
            weights: Digests of the weights' content, by part.
            facts: Further facts about the run for the ledger.

        Returns:
            The digest of what decides the outputs.
        """
        deciding = {name: value for name, value in settings.items() if name not in ("labels", "cams", *_PLACES)}
        made = digest([self.command, deciding, dict(weights)])
        if made not in self.ledger.runs or self.request_id not in self.ledger.requests:
            line = {"made": made, "request": self.request_id, "settings": dict(settings), "weights": dict(weights)}
            self.ledger.append({**line, **facts})
        for photo in self.skipped:
            before = (self.ledger.images.get(self.names.name(photo)) or {}).get("made")
            if before is not None and before != made and (reason := self._difference(before, settings, weights)):
                self._stale.setdefault(reason, []).append(self.names.name(photo))
        return made

    def warn(self) -> None:
        """Warn how many existing outputs no longer fit, and why; with ``keep``, do nothing."""
        if not self._stale or self.run.keep:
            return
        reasons = "; ".join(f"{len(names)} with {reason} ({first_few(names)})" for reason, names in self._stale.items())
        count = len({name for names in self._stale.values() for name in names})
        words = "output no longer fits" if count == 1 else "outputs no longer fit"
        hint = "kept: --overwrite recomputes them, --keep accepts them"
        text = f"{self.out}: {count} existing {words}: {reasons} ({hint})"
        self.run.report(Event("warning", self.command, text))

    def begin(self) -> None:
        """Record in the ledger which images are about to be done, for the next run if this one is killed."""
        if self.todo:
            self.ledger.append({"begun": [self.names.name(photo) for photo in self.todo]})

    def done(self, photo: Path, made: str) -> None:
        """Record in the ledger what the outputs of an image were made of."""
        cams = None if self.cams is None else self.cams(photo)
        self.ledger.append(
            {
                "image": self.names.name(photo),
                "status": "done",
                "made": made,
                "photo": self.source.stamp(photo) or stamp(photo),
                "cams": None if cams is None else stamp(cams),
                "labels": self._labels(photo),
                "outputs": [self._mark(path) for path in self.outputs(photo)],
            }
        )

    def failed(self, photo: Path, reason: str) -> None:
        """Record in the ledger why an image has no output."""
        self.ledger.append({"image": self.names.name(photo), "status": "failed", "error": reason})

    def _exists(self, photo: Path) -> bool:
        """Whether the outputs of an image exist and are as they were written, or at least complete."""
        files = self.outputs(photo)
        before = (self.ledger.images.get(self.names.name(photo)) or {}).get("outputs")
        if isinstance(before, list) and None not in before and before == [self._mark(path) for path in files]:
            return True
        # If a kill came between the output and its line, nobody knows what made it.
        if self.names.name(photo) in self.ledger.begun:
            return False
        return all(self._whole(path) for path in files)

    def _changes(self, photo: Path) -> list[str]:
        """What an image's outputs were made of that is different now, besides weights and settings."""
        line = self.ledger.images.get(self.names.name(photo))
        if line is not None and line.get("status") == "failed":
            return ["a failure when last computed"]
        if line is None or line.get("status") != "done":
            return []
        changes = []
        if not self._same(photo, line.get("photo")):
            changes.append("another photo of that name")
        if line.get("labels") != self._labels(photo):
            changes.append("other labels")
        cams = None if self.cams is None else self.cams(photo)
        made_of = line.get("cams")
        if (cams is None) != (made_of is None) or (cams is not None and not same_file(cams, made_of)):
            changes.append("other CAMs")
        return changes

    def _same(self, photo: Path, before: Any) -> bool:
        now = self.source.stamp(photo)
        if now is not None:
            return before == list(now)
        return not photo.exists() or same_file(photo, before)

    def _mark(self, path: Path) -> list[int] | None:
        """What tells an output from another version of it."""
        if self.place is None or not self.place.address:
            return _quick(path)
        size = self.place.has(path)
        return None if size is None else [size, 0]

    def _whole(self, path: Path) -> bool:
        """Whether an output is there as a whole: behind an address it is, or it is not there."""
        if self.place is None or not self.place.address:
            return looks_whole(path)
        return bool(self.place.has(path))

    def _labels(self, photo: Path) -> list[str | int] | None:
        if self.labels is None:
            return None
        return sorted(self.labels.get(nfc(self.names.key(photo)), ()), key=str)

    def _cam_files(self) -> Iterable[Path]:
        return [] if self.cams is None else [file for photo in self.photos if (file := self.cams(photo)) is not None]

    def _difference(self, before: str, settings: Mapping[str, Any], weights: Mapping[str, str]) -> str:
        line = self.ledger.runs.get(before, {})
        recorded = line.get("settings")
        then: dict[str, Any] = recorded if isinstance(recorded, dict) else {}
        changed = [
            f"{name} {value_words(then.get(name))} -> {value_words(settings.get(name))}"
            for name in dict.fromkeys((*settings, *then))
            if name not in ("labels", "cams", *_PLACES) and _plain(then.get(name)) != _plain(settings.get(name))
        ]
        before_weights = line.get("weights")
        known: dict[str, Any] = before_weights if isinstance(before_weights, dict) else {}
        if any(known[part] != weights[part] for part in known.keys() & weights.keys()):
            changed.append("other weights")
        # Empty if CAMs were given only once: another warning says so.
        return f"other settings: {', '.join(changed)}" if changed else ""


_WEIGHTS = frozenset((".safetensors", ".pth", ".pt", ".bin", ".ckpt"))
_PLACES = ("model", "cam_weights", "affinity_weights", "irn_weights")
"""Settings that say where the weights are; only the content of the weights counts."""


def weights_of(options: Mapping[str, Any]) -> list[Path]:
    """The weights files that model options lead to, as far as they are known without loading them."""
    named = [Path(options[name]) for name in _PLACES[1:] if options.get(name) is not None]
    model = options.get("model")
    if model is None and options.get("preset") is None:
        model = LITE
    folders = [EMBEDDED if str(model) == LITE else Path(model)] if model is not None else []
    if options.get("weights_dir") is not None:
        folders.append(Path(options["weights_dir"]))
    for folder in folders:
        if folder.is_dir():
            named += sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS or path.name == "model.json")
    return named


def check_outputs(
    photos: Sequence[Path], outputs: Callable[[Path], tuple[Path, ...]], reads: Iterable[Path] = ()
) -> None:
    """Refuse a run in which an output would be an input, or the output of two images.

    Paths are resolved before they are compared: links, ``.`` and ``..`` are followed, names take Unicode's composed
    form, and case is ignored if the file system ignores it.

    Raises:
        UsageError: Names both paths.
    """
    places = _Places()
    inputs = {places.of(path): path for path in (*reads, *photos)}
    # A link and its target are both inputs.
    inputs |= {places.of(Path(os.path.realpath(path))): path for path in (*reads, *photos) if os.path.islink(path)}
    written: dict[tuple[str, str], Path] = {}
    for photo in photos:
        for path in outputs(photo):
            key = places.of(path)
            if key in inputs:
                raise UsageError(
                    f"the output {shortened(path)} is the input {shortened(inputs[key])}",
                    "choose another -o DIR",
                )
            other = written.setdefault(key, photo)
            if other is not photo:
                raise UsageError(
                    f"{shortened(other)} and {shortened(photo)} would both write {shortened(path)}",
                    "rename one of them, or use different output folders",
                )


def check_files(written: Iterable[Path], reads: Iterable[Path | str | None]) -> None:
    """Refuse a run that would write to one of the files that it reads; None stands for a file that is not given.

    Raises:
        UsageError: Names both paths.
    """
    places = _Places()
    inputs = {places.of(Path(path)): path for path in reads if path is not None}
    for path in written:
        if places.of(path) in inputs:
            raise UsageError(
                f"the output {shortened(path)} is the input {shortened(inputs[places.of(path)])}",
                "choose another -o DIR, or copy the input elsewhere",
            )


class _Places:
    """Resolved paths: a key for the folder, which is looked up once, and the name in it."""

    def __init__(self) -> None:
        self._folders: dict[str, tuple[str, bool]] = {}

    def of(self, path: Path) -> tuple[str, str]:
        parent, name = os.path.split(os.path.abspath(path))
        if parent not in self._folders:
            real = os.path.realpath(parent)
            self._folders[parent] = real, _ignores_case(real)
        real, ignores_case = self._folders[parent]
        name = nfc(name)
        real = nfc(real)
        return (real.casefold(), name.casefold()) if ignores_case else (real, name)


def _ignores_case(folder: str) -> bool:
    """Whether names that differ only in case are the same file there; the nearest existing folder decides."""
    while not os.path.isdir(folder):
        above = os.path.dirname(folder)
        if above == folder:
            return False
        folder = above
    other = folder.swapcase()
    try:
        return other != folder and os.path.samefile(folder, other)
    except OSError:
        return False


def _quick(path: Path) -> list[int] | None:
    try:
        there = path.stat()
        return [there.st_size, there.st_mtime_ns]
    except OSError:
        return None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
