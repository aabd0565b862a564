"""Runs over shards: tar or Parquet files, each a pack of photos, each worked through as a whole.

The outputs of the photos in SHARD.tar are packed in ``out/SHARD.tar``, which appears when it is complete. After it
comes ``out/SHARD.json``, which says how many photos there were, which failed, and how long the pack is: a shard with
that record is finished. A run that is killed repeats the shards that it was working on, and no others.

On a cluster, a worker takes one shard after the other, reads it where it is, and writes its pack and its record: no
photo passes through the process of the command.
"""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pixaff._version import __version__
from pixaff.errors import FormatError, ImageError, LabelsError, UsageError, counted, first_few, shortened
from pixaff.events import Callback, Event, silent
from pixaff.io.addresses import address_of, fetch, is_address, local_path, matching, stamp_of
from pixaff.io.atomic import atomic_path, scratch_folder
from pixaff.io.images import IMAGE_SUFFIXES
from pixaff.io.instances import FOLDER as INSTANCES
from pixaff.io.instances import WHOLE
from pixaff.io.records import read_json
from pixaff.io.sources import INSIDE, Output, Packed, ShardFormat, format_of
from pixaff.run_options import BatchOptions
from pixaff.shard import Shard
from pixaff.stages.batch.cluster import CPUS, Work, on_cluster, placed
from pixaff.stages.batch.destination import Destination, destination
from pixaff.stages.batch.image_labels import PREDICT
from pixaff.stages.batch.ledger import content_digest, digest
from pixaff.stages.batch.listed import Listed
from pixaff.stages.batch.naming import Names, Photos
from pixaff.stages.batch.record import NAME as RECORD
from pixaff.stages.batch.record import read_record, write_record
from pixaff.stages.batch.report import Report
from pixaff.stages.batch.run import describe

KEY = "packs"
"""In ``run.json`` of a run over shards: their names."""
_MOST = 100_000
"""Shards that one pattern may mean."""
_ABOUT = ("settings", "classes", "device")
"""What the record of a shard has from that of the run over its photos."""
EVERY = 15.0
"""Seconds between two notes of how far a run on a cluster is."""
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


def find_packs(inputs: str | Path | Sequence[str | Path]) -> list[Pack]:
    """The shards behind a command's inputs; none if they are photos.

    Args:
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
    stems = [os.path.splitext(place)[0] for place in found]
    names = [os.path.basename(stem) for stem in stems]
    if len(set(names)) < len(names):
        folder = os.path.commonpath([os.path.dirname(stem) for stem in stems])
        names = [os.path.relpath(stem, folder).replace(os.sep, "/") for stem in stems]
    return [Pack(name, place, kind) for name, (place, kind) in zip(names, found.items(), strict=True)]


def over_packs(
    packs: Sequence[Pack],
    out: Path,
    run: BatchOptions,
    make: Make,
    *,
    command: str,
    labels: str | Path,
    asked: Any,
    listing: str | Path | None = None,
) -> Report:
    """Work through the shards, and write a pack of outputs and a record of each.

    Args:
        packs: The shards of the input.
        out: Folder or address of the outputs.
        run: How the run computes; of the shards, ``--shard`` keeps a share, by the hash of their names. With
            ``--cluster`` workers take one each, otherwise one follows the other.
        make: Makes the outputs of a shard's photos in a scratch folder; on a cluster it is pickled.
        command: Name of the command.
        labels: As for the command.
        asked: What decides the outputs, as plain values; a finished shard with other values is reported.
        listing: Image list; only its photos are used.

    Returns:
        Shards that are done or skipped, and what failed: photos, each as SHARD/NAME, and shards that cannot be read.

    Raises:
        LabelsError: There is no file of labels, or the image list cannot be read.
        OutputError: A pack cannot be written.
    """
    started, result = time.monotonic(), Report()
    if str(labels) not in (PREDICT, INSIDE) and not Path(labels).exists():
        raise LabelsError(f"{labels}: no such file or folder", "check --labels")  # or each shard would fail by itself
    listed = None if listing is None else Listed(listing, [pack.name for pack in packs])
    place, share = destination(out), None if run.shard is None else Shard.of(run.shard)
    mine = [pack for pack in packs if share is None or share.has(pack.name)]
    if share is not None:
        run.report(Event("note", command, f"shard {share}: {len(mine):,} of {counted(len(packs), 'file')}"))
    request, stale, found = digest([command, asked]), list[str](), set[str]()
    todo: list[Pack] = []
    for pack in mine:
        before = place.record(f"{pack.name}.json")
        if before is None or run.overwrite or not _is_finished(before, pack, place):
            todo.append(pack)
            continue
        changed = before.get("asked") != request or before.get("input") != _stamp(pack)
        if changed and run.renew:
            todo.append(pack)
            continue
        stale += [pack.name] * changed
        result.skipped.append(pack.name)
        result.failed += _failures(before, pack)
        found |= _listed(before)
    described = _describe(place, command, place.record(RECORD), packs)
    work = _Work(place, make, listed, command, labels, request)
    try:
        with closing(_through(todo, work, run) if run.cluster is None else _on_cluster(todo, work, run)) as made:
            for pack, facts in made:
                _take(pack, facts, place, run, command, result)
                found |= _listed(facts)
                described = described or ("settings" in facts and _describe(place, command, facts, packs))
    except KeyboardInterrupt:
        run.report(
            Event("note", command, f"stopped after {counted(len(result.done), 'shard')}; the same command goes on")
        )
        raise
    finally:
        result.seconds = time.monotonic() - started
    if stale and not run.keep:
        words = f"{counted(len(stale), 'shard was', 'shards were')} made with other options or of another file"
        words += f": {first_few(stale)}"
        run.report(Event("warning", command, f"{words} (--overwrite makes them again)"))
    if listed is not None and len(result.done) + len(result.skipped) == len(packs):  # or they may be in the others
        for name in listed.names:
            if name not in found:
                words = f"{listed.shown}: found {shortened(name)}, which is in none of the shards"
                result.failed.append((name, words))
                run.report(Event("failed", command, words, photo=Path(name)))
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


@dataclass(frozen=True)
class _Work:
    """What is done with each shard, wherever that is."""

    place: Destination
    make: Make
    listed: Listed | None
    command: str
    labels: str | Path
    request: str

    def __call__(self, pack: Pack, run: BatchOptions, told: _Once) -> dict[str, Any]:
        """Work through a shard; returns its record, with "error" if it cannot be used."""
        shown, place, command = address_of(pack.place), self.place, self.command
        with scratch_folder() as folder:
            scratch, outputs = Path(folder), Path(folder) / "out"
            facts: dict[str, Any] = {"shard": pack.name, "input": _stamp(pack), "asked": self.request}
            told.begin()
            try:
                packed = pack.format.read(_local(pack, scratch), shown, scratch)
                if self.listed is not None:
                    facts["listed"] = _keep_listed(packed, pack, self.listed)
                photos = Photos(packed.photos(), Names((packed.root,)), packed)
                if packed.values and str(self.labels) != INSIDE:
                    told.note("labels", f"the shards hold labels: --labels {INSIDE} uses them")
                made = Report() if not photos else self.make(photos, outputs, replace(run, shard=None, report=told))
            except (ImageError, LabelsError, FileNotFoundError) as error:
                words = f"{shown}: no such file" if isinstance(error, FileNotFoundError) else str(error)
                return _unusable(place, {**facts, "error": words})
            for name, reason in packed.problems.items():
                told(Event("failed", command, reason, photo=Path(shown, name)))
            failed = {**dict(made.failed), **packed.problems}
            if (outputs / WHOLE).is_file():
                place.take(outputs / WHOLE, f"{INSTANCES}/{pack.name}.json")
            with _packing(place, f"{pack.name}{pack.format.SUFFIX}", scratch) as path:
                pack.format.write(path, _outputs(packed, outputs, told), packed)
                facts |= {"bytes": path.stat().st_size, "digest": content_digest(path)}
            record = read_record(outputs) or {}
            facts |= {"images": len(photos) + len(packed.problems), "done": len(made.done), "failed": failed}
            facts |= {"command": command, **{key: record[key] for key in _ABOUT if key in record}}
            facts |= {"version": __version__, "written": _now()}
            place.write_record(f"{pack.name}.json", facts)
            return facts


def _keep_listed(packed: Packed, pack: Pack, listed: Listed) -> list[str]:
    """Drop what a shard has besides the listed photos; returns the entries of the list that it has."""
    chosen, found = listed.of(pack.name, [*packed.members, *packed.problems])
    packed.members = {name: place for name, place in packed.members.items() if name in chosen}
    packed.problems = {name: reason for name, reason in packed.problems.items() if name in chosen}
    return sorted(found)


def _unusable(place: Destination, facts: dict[str, Any]) -> dict[str, Any]:
    """Record that a shard cannot be used."""
    facts = {**facts, "written": _now()}
    place.write_record(f"{facts['shard']}.json", facts)
    return facts


def _through(
    todo: Sequence[Pack], work: _Work, run: BatchOptions
) -> Generator[tuple[Pack, Mapping[str, Any]], None, None]:
    """One shard after the other, in this process."""
    told = _Once(run.report, work.command)
    for pack in todo:
        yield pack, work(pack, run, told)


def _on_cluster(
    todo: Sequence[Pack], work: _Work, run: BatchOptions
) -> Generator[tuple[Pack, Mapping[str, Any]], None, None]:
    """Shards side by side, each in a worker, which tells of its photos when it is done."""
    placing, command = placed(run), work.command
    plain = replace(placing, cluster=None, num_cpus=None, num_gpus=None, shard=None, workers=None, report=silent)
    told, by_name = _Once(run.report, command), {Path(pack.name): pack for pack in todo}

    def begin(device: str) -> Work:
        def of(names: Sequence[Path], known: Callable[[Path], Any]) -> Generator[tuple[Path, Any], None, None]:
            for name in names:
                events = list[Event]()
                facts = work(known(name), replace(plain, device=device), _Once(events.append, command))
                yield name, {"facts": facts, "events": events}

        return of

    started = spoke = time.monotonic()
    outcomes = on_cluster(
        list(by_name),
        begin,
        by_name.__getitem__,
        placing,
        command=command,
        cpus=CPUS,
        largest=1,
        unit="shard",
    )
    with closing(outcomes):
        for number, (name, outcome) in enumerate(outcomes, 1):
            pack = by_name[name]
            if isinstance(outcome, BaseException):
                facts = {"shard": pack.name, "input": _stamp(pack), "asked": work.request, "error": describe(outcome)}
                yield pack, _unusable(work.place, facts)
                continue
            for event in outcome["events"]:
                told.say(event)
            yield pack, outcome["facts"]
            now = time.monotonic()
            if now - spoke >= EVERY and number < len(todo):
                spoke, left = now, (now - started) / number * (len(todo) - number)
                words = f"{number:,} of {counted(len(todo), 'shard')}, {left / 60:.0f} min left"
                run.report(Event("note", command, words))


def _take(
    pack: Pack, facts: Mapping[str, Any], place: Destination, run: BatchOptions, command: str, result: Report
) -> None:
    """Count and report a shard."""
    if "error" in facts:
        result.failed.append((pack.name, facts["error"]))
        run.report(Event("failed", command, facts["error"], photo=Path(pack.place)))
        return
    result.done.append(pack.name)
    result.failed += _failures(facts, pack)
    files = tuple(place.path(f"{pack.name}{suffix}") for suffix in (pack.format.SUFFIX, ".json"))
    counts = {name: facts[name] for name in ("images", "done", "failed")}
    run.report(Event("done", command, photo=Path(address_of(pack.place)), outputs=files, data=counts))


class _Once:
    """A callback for the runs over single shards: it passes on what they say of photos, and the rest once."""

    def __init__(self, report: Callback, command: str) -> None:
        self.report, self.command = report, command
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
        self.say(event)

    def say(self, event: Event) -> None:
        """Pass on what a run says, unless it is said already."""
        if event.kind in ("settings", "note"):
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


def _listed(facts: Mapping[str, Any]) -> set[str]:
    """The entries of the image list that the record of a shard tells of."""
    found = facts.get("listed")
    return set(map(str, found)) if isinstance(found, list) else set()


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
