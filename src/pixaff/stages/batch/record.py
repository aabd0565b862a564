"""`run.json`: how the outputs beside it were made, so that a folder explains itself.

Shards write `run-I-of-N.json` instead, each about its own images, when they begin and when they end;
`pixaff.stages.batch.shards` adds them up.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixaff._version import __version__
from pixaff.errors import FormatError, UsageError
from pixaff.io.atomic import write_text
from pixaff.io.records import read_json
from pixaff.shard import Shard
from pixaff.stages.batch.ledger import Ledger, read_ledger

if TYPE_CHECKING:
    from pixaff.stages.batch.plan import Plan
    from pixaff.stages.batch.report import Report

NAME = "run.json"
SHARDS = "run-*-of-*.json"
OTHERS = "other_settings"


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of pixaff, Python and the libraries that influence its results, as far as they are installed."""
    found = {"pixaff": __version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "timm", "numpy", "pillow", "pydensecrf2"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_record(out: Path, command: str, settings: Mapping[str, Any], name: str = NAME, /, **facts: Any) -> None:
    """Write ``out/run.json``: the command, its effective settings, the versions and further facts.

    Raises:
        OutputError: The folder cannot be written.
    """
    record = {
        "command": command,
        "settings": _plain(settings),
        "versions": versions(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **facts,
    }
    write_text(out / name, json.dumps(record, indent=2, default=str) + "\n")


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `write_record` wrote, or None if there is no such file or it cannot be read.

    Of a folder that only shards have written to, the record of the shard that has done most.
    """
    if (record := read_own_record(folder, None)) is not None:
        return record
    shards = list(shard_records(folder).values())
    return max(shards, key=lambda each: int(each["done"]), default=None)


def read_own_record(folder: Path, shard: Shard | None) -> dict[str, Any] | None:
    """What a run, or a shard, wrote itself."""
    return _read(folder / _name(shard))


def shard_records(folder: Path) -> dict[Shard, dict[str, Any]]:
    """The records of the shards in a folder, in order; those that cannot be read are left out."""
    found = {}
    for path in folder.glob(SHARDS):
        record = _read(path)
        facts = {} if record is None else record.get("shard")
        if record is None or not isinstance(facts, dict):
            continue
        numbers = (record.get("done"), facts.get("images"), facts.get("of"))
        try:
            shard = Shard.of(str(facts.get("shard")))
        except UsageError:
            continue
        if path.name == _name(shard) and all(isinstance(number, int) for number in numbers):
            found[shard] = record
    return dict(sorted(found.items()))


def holds_outputs(folder: Path) -> bool:
    """Whether a folder contains outputs of a run over images."""
    return (folder / NAME).is_file() or any(folder.glob(SHARDS))


def _name(shard: Shard | None) -> str:
    return NAME if shard is None else f"{shard.stem}.json"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = read_json(path, "the record of a run")
    except (FileNotFoundError, FormatError):
        return None
    return record if isinstance(record.get("settings"), dict) else None


def write_run_record(
    plan: Plan,
    made: str,
    settings: Mapping[str, Any],
    result: Report,
    *,
    device: str,
    classes: Sequence[str] | None,
    listing: str | Path | None,
    state: str = "",
) -> None:
    """Write ``run.json`` of a run over images: what is true of all outputs in the folder, whichever run made them.

    The settings are those of this run if it made something, otherwise those of the run that did; "other_settings" are
    those of the remaining outputs. "failed" names every image whose last attempt failed. The record of a shard holds
    for its own images, and has its ``state``: "begun", "stopped" or "ended".

    Raises:
        OutputError: The folder cannot be written.
    """
    ledger = read_ledger(plan.out, plan.shard)  # other processes may have written to it
    done = [line.get("made") for line in ledger.images.values() if line.get("status") == "done"]
    runs = {each: ledger.runs[each] for each in dict.fromkeys(done) if each in ledger.runs}
    main = made if result.done or made in runs or not runs else max(runs, key=done.count)
    now = settings if main == made else runs[main].get("settings", {})
    others = [run.get("settings") for each, run in runs.items() if each != main]
    facts = {
        "device": device,
        **({} if classes is None else {"classes": list(classes)}),
        **({OTHERS: others} if others else {}),
        **({} if plan.shard is None else {"shard": plan.share(state)}),
        "images": len(ledger.images),
        "done": len(done),
        "failed": failures(ledger),
        "last_run": {"list": listing, "images": len(plan.photos), **result.counts()},
    }
    write_record(plan.out, plan.command, now, _name(plan.shard), **facts)


def failures(ledger: Ledger) -> dict[str, Any]:
    """The images whose last attempt failed, each with the reason."""
    return {name: line.get("error") for name, line in ledger.images.items() if line.get("status") == "failed"}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
    return plain
