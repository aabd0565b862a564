"""What the shards of a run have done together, as told by their records and ledgers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pixaff.stages.batch.ledger import read_ledger
from pixaff.stages.batch.naming import Photos
from pixaff.stages.batch.record import failures, shard_records

NAMED = 100
"""Number of missing images that are named."""


def add_up(out: Path) -> dict[str, Any] | None:
    """The state of each shard, and what is done, failed and missing in all of them; None without shards.

    Of several divisions, such as one into 8 shards and a later one into 4, the last one counts; what the others and
    runs without ``--shard`` have done counts, too. Images of a shard that never began are missing, but nobody knows
    their names: see `without_output`.
    """
    records = shard_records(out)
    if not records:
        return None
    last = max(records, key=lambda shard: (out / f"{shard.stem}.json").stat().st_mtime_ns)
    ledger = read_ledger(out)
    shards: dict[str, str] = {}
    for index in range(1, last.count + 1):
        shard = next((each for each in records if (each.index, each.count) == (index, last.count)), None)
        if shard is None:
            shards[f"{index}/{last.count}"] = "no record: not begun"
            continue
        names = [name for name in ledger.images if shard.has(name)]
        done = sum(ledger.images[name].get("status") == "done" for name in names)
        begun = sum(shard.has(name) for name in ledger.begun)
        share = records[shard]["shard"]
        state = share.get("state")
        words = f"{done} of {share['images']} done"
        words += f", {len(names) - done} failed" * (len(names) > done)
        if begun:
            words += ", still running or killed" if state == "begun" else ", stopped"
        shards[str(shard)] = words
    photos = max(int(record["shard"]["of"]) for shard, record in records.items() if shard.count == last.count)
    failed = failures(ledger)
    done = len(ledger.images) - len(failed)
    begun_names = sorted(ledger.begun)
    return {
        "shards": shards,
        "photos": photos,
        "done": done,
        "failed": failed,
        "missing": max(photos - done - len(failed), len(begun_names)),
        "begun_without_output": begun_names[:NAMED],
    }


def without_output(out: Path, photos: Photos) -> dict[str, Any]:
    """Which photos have no output, whether they failed or were never begun."""
    ledger = read_ledger(out)
    done = {name for name, line in ledger.images.items() if line.get("status") == "done"} - ledger.begun
    missing = [name for photo in photos if (name := photos.names.name(photo)) not in done]
    return {"photos": len(photos), "photos_without_output": {"count": len(missing), "first": missing[:NAMED]}}
