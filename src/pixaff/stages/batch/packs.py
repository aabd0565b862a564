"""Runs over shards: tar or Parquet files, each a pack of photos, each worked through as a whole.

The outputs of the photos in SHARD.tar are packed in ``out/SHARD.tar``, which appears when it is complete. After it
comes ``out/SHARD.json``, which says how many photos there were, which failed, and how long the pack is: a shard with
that record is finished. A run that is killed repeats the shards that it was working on, and no others.
"""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pixaff._version import __version__
from pixaff.errors import FormatError, ImageError, LabelsError, UsageError, counted, shortened
from pixaff.events import Event
from pixaff.io.addresses import address_of, fetch, is_address, local_path, matching, stamp_of
from pixaff.io.atomic import atomic_path, scratch_folder
from pixaff.io.images import IMAGE_SUFFIXES
from pixaff.io.records import read_json
from pixaff.io.sources import INSIDE, Output, Packed, ShardFormat, format_of
from pixaff.run_options import BatchOptions
from pixaff.shard import Shard
from pixaff.stages.batch.destination import Destination, destination
from pixaff.stages.batch.image_labels import PREDICT
from pixaff.stages.batch.ledger import content_digest, digest
from pixaff.stages.batch.naming import Names, Photos
from pixaff.stages.batch.record import NAME as RECORD
from pixaff.stages.batch.record import read_record, write_record
from pixaff.stages.batch.report import Report

KEY = "packs"
"""In ``run.json`` of a run over shards: their names."""
_MOST = 100_000
"""Shards that one pattern may mean."""
_BRACES = re.compile(r"\{([^{}]*)\}")

Make = Callable[[Photos, Path, BatchOptions], Report]
"""Work through photos of a shard: outputs go to the folder."""


@dataclass(frozen=True)
class Pack:
    """A shard of the input.

    Attributes:
        name: What its outputs are called.
        place: Its path or address.
        format: How it is read, and its outputs are packed.
    """

    name: str
    place: str
    format: ShardFormat


def find_packs(inputs: str | Path | Sequence[str | Path], listing: str | Path | None = None) -> list[Pack]:
    """The shards behind a command's inputs; none if they are photos.

    Args:
        listing: Image list, which shards do not take.
        inputs: Shards, patterns such as ``shards/{000..099}.tar`` or ``s3://bucket/*.parquet``, or folders with shards.

    Raises:
        UsageError: There are shards and photos, shards of two formats, or two of one name; or a pattern means nothing.
    """
    entries = [inputs] if isinstance(inputs, (str, Path)) else inputs
    if isinstance(entries, Photos):
        return []
    found, others = dict[str, ShardFormat](), ""
    for entry in entries:
        text = address_of(local_path(entry))
        places = [] if text == "-" else _places(text)
        kinds = [format_of(place) for place in places]
        if not places or None in kinds:
            others = others or text  # of photos
        found |= {place: kind for place, kind in zip(places, kinds, strict=True) if kind is not None}
    if not found:
        return []
    if others or len(set(map(id, found.values()))) > 1:
        first, kind = next(iter(found.items()))
        second = others or next(place for place in found if found[place] is not kind)
        raise UsageError(
            f"found the shard {shortened(first)} and {shortened(second)}", "give shards of one format alone, or photos"
        )
    if listing is not None:
        raise UsageError(f"found the image list {shortened(listing)} and shards", "give --list with photos in folders")
    stems = [os.path.splitext(place)[0] for place in found]
    names = [os.path.basename(stem) for stem in stems]
    if len(set(names)) < len(names):
        folder = os.path.commonpath([os.path.dirname(stem) for stem in stems])
        names = [os.path.relpath(stem, folder).replace(os.sep, "/") for stem in stems]
    return [Pack(name, place, kind) for name, (place, kind) in zip(names, found.items(), strict=True)]


def over_packs(
    packs: Sequence[Pack], out: Path, run: BatchOptions, make: Make, *, command: str, labels: str | Path, asked: Any
) -> Report:
    """Work through the shards one after the other, and write a pack of outputs and a record of each.

    Args:
        packs: The shards of the input.
        out: Folder or address of the outputs.
        run: How the run computes; of the shards, ``--shard`` keeps a share, by the hash of their names.
        make: Makes the outputs of a shard's photos in a scratch folder.
        command: Name of the command.
        labels: As for the command.
        asked: What decides the outputs, as plain values; a finished shard with other values is reported.

    Returns:
        Shards that are done or skipped, and what failed: photos, each as SHARD/NAME, and shards that cannot be read.

    Raises:
        LabelsError: There is no file of labels.
        OutputError: A pack cannot be written.
    """
    if run.cluster is not None:
        raise UsageError("found --cluster and shards", "give it photos in folders; --shard I/N divides shards")
    started, result = time.monotonic(), Report()
    if str(labels) not in (PREDICT, INSIDE) and not Path(labels).exists():
        raise LabelsError(f"{labels}: no such file or folder", "check --labels")  # or each shard would fail by itself
    place, share = destination(out), None if run.shard is None else Shard.of(run.shard)
    mine = [pack for pack in packs if share is None or share.has(pack.name)]
    if share is not None:
        run.report(Event("note", command, f"shard {share}: {len(mine):,} of {counted(len(packs), 'file')}"))
    request, told, stale = digest([command, asked]), _Once(run, command), list[str]()
    described = _describe(place, command, place.record(RECORD), packs)
    try:
        for pack in mine:
            before = place.record(f"{pack.name}.json")
            if before is not None and not run.overwrite and _is_finished(before, pack, place):
                changed = before.get("asked") != request or before.get("input") != _stamp(pack)
                if not (changed and run.renew):
                    stale += [pack.name] * changed
                    result.skipped.append(pack.name)
                    result.failed += _failures(before, pack)
                    continue
            made = _one(pack, place, run, make, told, command=command, labels=labels, request=request, result=result)
            described = described or _describe(place, command, made, packs)
    except KeyboardInterrupt:
        run.report(
            Event("note", command, f"stopped after {counted(len(result.done), 'shard')}; the same command goes on")
        )
        raise
    finally:
        result.seconds = time.monotonic() - started
    if stale and not run.keep:
        named = ", ".join(shortened(name) for name in stale[:3]) + (", ..." if len(stale) > 3 else "")
        words = f"{counted(len(stale), 'shard was', 'shards were')} made with other options or of another file: {named}"
        run.report(Event("warning", command, f"{words} (--overwrite makes them again)"))
    run.report(Event("end", command, data=result.counts()))
    return result


def asked_of(options: Mapping[str, Any], weights: Sequence[Path], files: Sequence[str | Path | None]) -> list[Any]:
    """What decides the outputs of a shard: options, and the content of weights and of other files."""
    read = [content_digest(Path(file)) if Path(file).is_file() else str(file) for file in files if file is not None]
    return [dict(options), sorted(content_digest(path) for path in weights if path.is_file()), read]


def add_up_packs(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """What is done, failed and missing of the shards that ``run.json`` names."""
    names = [name for name in record.get(KEY) or () if isinstance(name, str)]
    done, images, missing, failed = 0, 0, list[str](), dict[str, str]()
    for name in names:
        try:
            facts = read_json(folder / f"{name}.json", "the record of a shard")
        except (FileNotFoundError, FormatError):
            missing.append(name)
            continue
        if isinstance(facts.get("error"), str):
            failed[name] = facts["error"]
            continue
        done += int(facts.get("done") or 0)
        images += int(facts.get("images") or 0)
        reasons = facts.get("failed")
        failed |= {f"{name}/{photo}": str(why) for photo, why in (reasons if isinstance(reasons, dict) else {}).items()}
    return {
        "shards": len(names),
        "photos_in_finished_shards": images,
        "done": done,
        "failed": failed,
        "missing_shards": {"count": len(missing), "first": missing[:100]},
    }


def _one(
    pack: Pack,
    place: Destination,
    run: BatchOptions,
    make: Make,
    told: _Once,
    *,
    command: str,
    labels: str | Path,
    request: str,
    result: Report,
) -> dict[str, Any] | None:
    """Work through a shard; returns the record of the run over its photos, None if the shard cannot be used."""
    shown = address_of(pack.place)
    with scratch_folder() as folder:
        scratch, outputs = Path(folder), Path(folder) / "out"
        facts: dict[str, Any] = {"shard": pack.name, "input": _stamp(pack), "asked": request}
        told.begin()
        try:
            packed = pack.format.read(_local(pack, scratch), shown, scratch)
            photos = Photos(packed.photos(), Names((packed.root,)), packed)
            if packed.values and str(labels) != INSIDE:
                told.note("labels", f"the shards hold labels: --labels {INSIDE} uses them")
            made = Report() if not photos else make(photos, outputs, replace(run, shard=None, report=told))
        except (ImageError, LabelsError, FileNotFoundError) as error:
            words = f"{shown}: no such file" if isinstance(error, FileNotFoundError) else str(error)
            _fail(run, command, pack, pack.name, words, result)
            place.write_record(f"{pack.name}.json", {**facts, "error": words, "written": _now()})
            return None
        for name, reason in packed.problems.items():
            run.report(Event("failed", command, reason, photo=Path(shown, name)))
        failed = {**dict(made.failed), **packed.problems}
        with _packing(place, f"{pack.name}{pack.format.SUFFIX}", scratch) as path:
            pack.format.write(path, _outputs(packed, outputs, told), packed)
            facts |= {"bytes": path.stat().st_size, "digest": content_digest(path)}
        record = read_record(outputs) or {}
        about: dict[str, Any] = {key: record[key] for key in ("settings", "classes", "device") if key in record}
        counts = {"images": len(photos) + len(packed.problems), "done": len(made.done), "failed": failed}
        where = place.write_record(
            f"{pack.name}.json",
            {**facts, **counts, "command": command, **about, "version": __version__, "written": _now()},
        )
        result.done.append(pack.name)
        result.failed += [(f"{pack.name}/{name}", reason) for name, reason in failed.items()]
        files = (place.path(f"{pack.name}{pack.format.SUFFIX}"), where)
        run.report(Event("done", command, photo=Path(shown), outputs=files, data=counts))
        return about


class _Once:
    """A callback for the runs over single shards: it passes on what they say of photos, and the rest once."""

    def __init__(self, run: BatchOptions, command: str) -> None:
        self.report, self.command = run.report, command
        self.said: set[str] = set()
        self.done: dict[Path, Event] = {}

    def begin(self) -> None:
        self.done.clear()

    def note(self, key: str, words: str) -> None:
        if key not in self.said:
            self.said.add(key)
            self.report(Event("note", self.command, words))

    def __call__(self, event: Event) -> None:
        if event.kind == "done" and event.photo is not None:
            self.done[event.photo] = event
            event = replace(event, outputs=())  # which are in a scratch folder
        elif event.kind in ("settings", "note"):
            key = event.kind if event.kind == "settings" else event.text
            if key in self.said or key.startswith("stopped after"):
                return
            self.said.add(key)
        self.report(event)


def _outputs(packed: Packed, folder: Path, told: _Once) -> Iterator[Output]:
    for photo in packed.photos():
        if (event := told.done.get(photo)) is not None:
            files = {path.relative_to(folder).as_posix(): path for path in event.outputs}
            facts = {name: value for name, value in event.data.items() if name != "warning"}
            yield Output(photo.relative_to(packed.root).as_posix(), files, facts)


def _packing(place: Destination, name: str, scratch: Path) -> Any:
    """A path to write a pack to, which appears at its place when the block ends well."""
    return place.delivered(name, scratch / "packed") if place.address else atomic_path(place.folder / name)


def _is_finished(record: Mapping[str, Any], pack: Pack, place: Destination) -> bool:
    return "error" not in record and place.size(f"{pack.name}{pack.format.SUFFIX}") == record.get("bytes")


def _failures(record: Mapping[str, Any], pack: Pack) -> list[tuple[str, str]]:
    failed = record.get("failed")
    return [(f"{pack.name}/{name}", str(why)) for name, why in (failed if isinstance(failed, dict) else {}).items()]


def _fail(run: BatchOptions, command: str, pack: Pack, name: str, words: str, result: Report) -> None:
    result.failed.append((name, words))
    run.report(Event("failed", command, words, photo=Path(pack.place)))


def _describe(place: Destination, command: str, like: Mapping[str, Any] | None, packs: Sequence[Pack]) -> bool:
    """Have ``run.json`` say how the packs are made and which there are; False as long as nobody knows how.

    Args:
        place: Where it is.
        command: Name of the command.
        like: An earlier ``run.json``, or the record of a run over a shard.
        packs: The shards of this run, which are added to those that it names already.
    """
    if like is None:
        return False
    before = place.record(RECORD) or {}
    known = {name for name in before.get(KEY) or () if isinstance(name, str)}
    names = sorted(known | {pack.name for pack in packs})
    if before.get(KEY) == names:
        return True
    facts = {name: like[name] for name in ("device", "classes") if name in like}
    with scratch_folder() as folder:
        write_record(Path(folder), command, like.get("settings") or {}, **facts, **{KEY: names})
        place.take(Path(folder) / RECORD, RECORD)
    return True


def _stamp(pack: Pack) -> list[Any] | None:
    """What tells a shard from another version of it."""
    if is_address(pack.place):
        found = stamp_of(pack.place)
        return None if found is None else list(found)
    try:
        there = os.stat(pack.place)
        return [there.st_size, int(there.st_mtime)]
    except OSError:
        return None


def _local(pack: Pack, scratch: Path) -> Path:
    """The file of a shard, copied if it is elsewhere."""
    if not is_address(pack.place):
        if not os.path.isfile(pack.place):
            raise FileNotFoundError
        return Path(pack.place)
    if stamp_of(pack.place) is None:
        raise FileNotFoundError
    fetch(pack.place, scratch / "shard")
    return scratch / "shard"


def _places(text: str) -> list[str]:
    """The shards that an input means: itself, those of a folder, or those of a pattern."""
    if not is_address(text) and os.path.isdir(text):
        return _inside(text)
    if not is_address(text) and os.path.lexists(text):
        return [text]
    found: list[str] = []
    for one in _braces(text):
        if re.search(r"[*?\[]", one) and format_of(one) is not None:
            matched = matching(one) if is_address(one) else sorted(glob.glob(one))
            if not matched:
                raise UsageError(f"{shortened(one)}: no such file", "check the pattern, and put it in quotes")
            found += matched
        else:
            found.append(one)
    return found


def _inside(folder: str) -> list[str]:
    """The shards in a folder without photos, or in its folder ``data``, as Hugging Face lays them out."""
    for place in (folder, os.path.join(folder, "data")):
        if os.path.isdir(place):
            with os.scandir(place) as entries:
                names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
            if any(os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES for name in names):
                return []
            shards = [os.path.join(place, name) for name in names if format_of(name) is not None]
            kinds = {format_of(name) for name in shards}
            if shards and (len(kinds) == 1):
                return shards
    return []


def _braces(text: str) -> list[str]:
    """A pattern without braces: ``{000..002}`` counts, ``{train,val}`` lists."""
    waiting, found = [text], list[str]()
    while waiting:
        one = waiting.pop(0)
        match = next((each for each in _BRACES.finditer(one) if re.search(r",|\.\.", each[1])), None)
        if match is None:
            found.append(one)
            continue
        span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
        if span is not None and abs(int(span[2]) - int(span[1])) >= _MOST:
            raise UsageError(f"{shortened(text)}: found over {_MOST:,} files", "give several patterns")
        parts = match[1].split(",")
        if span is not None:
            width = (
                max(map(len, span.groups()))
                if any(end.startswith("0") and len(end) > 1 for end in span.groups())
                else 0
            )
            low, high = int(span[1]), int(span[2])
            parts = [str(number).zfill(width) for number in range(low, high + 1)]
        waiting += [one[: match.start()] + part + one[match.end() :] for part in parts]
        if len(waiting) + len(found) > _MOST:
            raise UsageError(f"{shortened(text)}: found over {_MOST:,} files", "give several patterns")
    return found


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
