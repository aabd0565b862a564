"""What the shards of a run have done together, as told by their records and ledgers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pixaff.shard import Shard, index_of
from pixaff.stages.batch.ledger import Ledger, read_ledger
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
    done, failed = _done(ledger), failures(ledger)
    done_in = Counter(index_of(name, last.count) for name in done)
    failed_in = Counter(index_of(name, last.count) for name in failed)
    begun_in = Counter(index_of(name, last.count) for name in ledger.begun)
    shards: dict[str, str] = {}
    for index in range(1, last.count + 1):
        shard = Shard(index, last.count)
        if shard not in records:
            shards[f"{index}/{last.count}"] = "no record: not begun"
            continue
        share = records[shard]["shard"]
        words = f"{done_in[index]} of {share['images']} done"
        if failed_in[index]:
            words += f", {failed_in[index]} failed"
        if begun_in[index]:
            words += ", still running or killed" if share.get("state") == "begun" else ", stopped"
        shards[str(shard)] = words
    photos = max(int(record["shard"]["of"]) for shard, record in records.items() if shard.count == last.count)
    begun = sorted(ledger.begun - failed.keys())
    return {
        "shards": shards,
        "photos": photos,
        "done": len(done),
        "failed": failed,
        "missing": max(photos - len(done) - len(failed), len(begun)),
        "begun_without_output": begun[:NAMED],
    }


def without_output(out: Path, photos: Photos) -> dict[str, Any]:
    """Which photos have no output, whether they failed or were never begun."""
    done = _done(read_ledger(out))
    missing = [name for photo in photos if (name := photos.names.name(photo)) not in done]
    return {"photos": len(photos), "photos_without_output": {"count": len(missing), "first": missing[:NAMED]}}


def _done(ledger: Ledger) -> set[str]:
    """Images with an output; not those that a later run began again and did not finish."""
    return {name for name, line in ledger.images.items() if line.get("status") == "done"} - ledger.begun
