"""A folder in, a folder out: skip what is done, name what fails, continue with the rest.

`run_plan` keeps count; `in_batches` (decode and write in threads, compute in between) and `in_processes` (everything in
worker processes) spread the work. Both yield one outcome per image.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pixaff.errors import OutputError, PixaffError, counted
from pixaff.events import Event
from pixaff.stages.batch.ledger import content_digest
from pixaff.stages.batch.plan import Plan
from pixaff.stages.batch.record import read_own_record, write_run_record
from pixaff.stages.batch.report import Report

Outcome = Mapping[str, Any] | BaseException
"""The result for an image: facts about it, with a "warning" if there is one, or the exception that it raised."""


def run_plan(
    plan: Plan,
    work: Callable[[Sequence[Path]], Generator[tuple[Path, Outcome], None, None]],
    *,
    settings: Mapping[str, Any],
    device: str,
    weights: Mapping[str, Path] | None = None,
    classes: Sequence[str] | None = None,
    listing: str | Path | None = None,
) -> Report:
    """Work on the images of a plan, and write the ledger and the run record.

    Args:
        plan: Which images are to do.
        work: Takes those; yields an outcome for each.
        settings: Effective settings, which are reported and recorded.
        device: The device in words.
        weights: Weights files by part; their content tells whether earlier outputs are of the same model.
        classes: Names of the mask values.
        listing: Image list, for the record.

    Raises:
        OutputError: Nothing can be written any more (disk full, no permission): to continue would waste hours.
    """
    started, report = time.monotonic(), plan.run.report
    report(Event("settings", plan.command, data={**settings, "device": device}))
    digests = {part: content_digest(path) for part, path in (weights or {}).items()}
    facts = {"device": device, **({} if classes is None else {"classes": list(classes)})}
    made = plan.settle(settings, digests, facts)
    plan.warn()
    result = Report()
    _begin(plan, result)
    plan.begin()

    def record(state: str) -> None:
        write_run_record(plan, made, settings, result, device=device, classes=classes, listing=listing, state=state)

    state = "stopped"
    if plan.shard is not None and plan.recorded:
        record("begun")
    try:
        if plan.todo:
            # Closed at once, not at the next garbage collection, the workers stop when the user presses Ctrl-C.
            with closing(work(plan.todo)) as outcomes:
                for photo, outcome in outcomes:
                    _take(plan, photo, outcome, made, result)
            _check_still_there(plan, result)
        state = "ended"
    except KeyboardInterrupt:
        total = len(result.skipped) + len(plan.todo)
        finished = total - len(plan.todo) + len(result.done) + len(result.failed)
        text = f"stopped after {finished} of {total}; the same command continues with the rest"
        report(Event("end", plan.command))
        report(Event("note", plan.command, text))
        raise
    finally:
        result.seconds = time.monotonic() - started
        if plan.photos and plan.recorded:
            record(state)
            _send_records(plan)
    report(Event("end", plan.command, data=result.counts()))
    return result


def skip_all(plan: Plan) -> Report:
    """The report of a plan with nothing to do; the run record that a kill prevented is written now.

    Raises:
        OutputError: The record cannot be written.
    """
    result = Report()
    plan.warn()
    _begin(plan, result)
    plan.run.report(Event("end", plan.command, data=result.counts()))
    made = plan.ledger.requests.get(plan.request_id)
    if plan.recorded and (made is not None or plan.shard is not None) and not _is_current(plan):
        line = plan.ledger.runs.get(made or "", {})
        write_run_record(
            plan,
            made or "",
            line.get("settings") or {},
            result,
            device=str(line.get("device", "")),
            classes=line.get("classes"),
            listing=None,
            state="ended",
        )
        _send_records(plan)
    return result


def _send_records(plan: Plan) -> None:
    """Have the records where the outputs are, if that is not on the disk."""
    if plan.place is not None and plan.ledger.path is not None:
        plan.place.push_record(plan.ledger.path.name)
        plan.place.push_record(plan.ledger.path.with_suffix(".json").name)


def _is_current(plan: Plan) -> bool:
    """Whether the run record tells of the images that the ledger does."""
    lines = plan.ledger.images.values()
    done = sum(line.get("status") == "done" for line in lines)
    record = read_own_record(plan.out, plan.shard)
    if record is not None and plan.shard is not None and record.get("shard") != plan.share("ended"):
        return False
    return record is not None and (record.get("images"), record.get("done")) == (len(lines), done)


def _begin(plan: Plan, result: Report) -> None:
    if plan.shard is not None:
        share = f"shard {plan.shard}: {len(plan.photos):,} of {counted(plan.total, 'photo')}"
        plan.run.report(Event("note", plan.command, share))
    plan.run.report(Event("begin", plan.command, total=len(plan.photos)))
    for photo in plan.skipped:
        result.skipped.append(plan.names.name(photo))
        plan.run.report(Event("skipped", plan.command, photo=photo, outputs=plan.places(photo)))


def _take(plan: Plan, photo: Path, outcome: Outcome, made: str, result: Report) -> None:
    if isinstance(outcome, OutputError):
        raise outcome
    if isinstance(outcome, BaseException):
        _fail(plan, photo, describe(outcome), result)
    else:
        plan.done(photo, made)
        result.done.append(plan.names.name(photo))
        event = Event("done", plan.command, photo=photo, outputs=plan.places(photo), data=outcome)
        plan.run.report(event)
        if "warning" in outcome:
            plan.run.report(Event("warning", plan.command, str(outcome["warning"])))


def _fail(plan: Plan, photo: Path, reason: str, result: Report) -> None:
    plan.failed(photo, reason)
    result.failed.append((plan.names.name(photo), reason))
    plan.run.report(Event("failed", plan.command, reason, photo=photo))


def _check_still_there(plan: Plan, result: Report) -> None:
    """Name the outputs that somebody removed during the run."""
    if plan.place is not None and plan.place.address:
        return
    done = set(result.done)
    for photo in plan.todo:
        name = plan.names.name(photo)
        if name in done and not all(path.is_file() for path in plan.outputs(photo)):
            result.done.remove(name)
            _fail(plan, photo, f"{photo}: its output was removed from {plan.out} during the run", result)


def describe(error: BaseException) -> str:
    """One line about an exception. With PIXAFF_DEBUG set, an unexpected one is raised instead.

    The message of a `PixaffError` is enough; other messages get the type in front, since "13" says nothing.
    """
    if isinstance(error, PixaffError):
        return str(error)
    if os.environ.get("PIXAFF_DEBUG"):
        raise error
    if isinstance(error, MemoryError):
        return "not enough memory (a smaller --size, or --batch-size 1 and --workers 1, need less)"
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300]}" if words else type(error).__name__
