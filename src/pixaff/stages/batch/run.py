"""A folder in, a folder out: skip what is done, name what fails, continue with the rest.

`run` keeps count; how the work is spread is up to `in_batches` (decode and write in threads, compute in between) and
`in_processes` (everything in worker processes). Both yield one outcome for every image.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixaff.device import device_words
from pixaff.errors import OutputError, PixaffError
from pixaff.events import Callback, Event, silent
from pixaff.run_options import RunOptions
from pixaff.stages.batch.record import announce, write_record

if TYPE_CHECKING:
    import torch

Outcome = Mapping[str, Any] | BaseException
"""What became of a photo: facts about it for the record, or the exception that it raised."""


@dataclass
class Report:
    """What became of a run's photos, by file name.

    Attributes:
        done: Photos whose outputs were written.
        skipped: Photos whose outputs were there already.
        failed: Photos without output, each with the reason in one line.
        seconds: Duration of the run.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every photo has its output."""
        return not self.failed

    def counts(self) -> dict[str, int]:
        return {"done": len(self.done), "skipped": len(self.skipped), "failed": len(self.failed)}


def run(
    photos: Sequence[Path],
    work: Callable[[Sequence[Path]], Generator[tuple[Path, Outcome], None, None]],
    *,
    command: str,
    outputs: Callable[[Path], tuple[Path, ...]],
    overwrite: bool = False,
    report: Callback = silent,
) -> Report:
    """Work on the photos whose outputs are not there yet.

    Args:
        photos: All of them.
        work: Takes those to do; yields an outcome for each.
        command: Name of the stage, for its events.
        outputs: The files that a photo leads to. It counts as done when all of them exist, which is safe because
            every file is written under another name first and then moved into place.
        overwrite: Do them all again.
        report: Receives an `Event` for each photo.

    Raises:
        OutputError: Nothing can be written any more (disk full, no permission): going on would waste hours.
    """
    started = time.monotonic()
    result = Report()
    todo: list[Path] = []
    report(Event("begin", command, total=len(photos)))
    for photo in photos:
        files = outputs(photo)
        if not overwrite and all(file.is_file() for file in files):
            result.skipped.append(photo.name)
            report(Event("skipped", command, photo=photo, outputs=files))
        else:
            todo.append(photo)
    if todo:
        # Closing at once, not at the next garbage collection, stops the workers when the user presses Ctrl-C.
        with closing(work(todo)) as outcomes:
            for photo, outcome in outcomes:
                if isinstance(outcome, OutputError):
                    raise outcome
                if isinstance(outcome, BaseException):
                    reason = describe(outcome)
                    result.failed.append((photo.name, reason))
                    report(Event("failed", command, reason, photo=photo))
                else:
                    result.done.append(photo.name)
                    report(Event("done", command, photo=photo, outputs=outputs(photo), data=outcome))
    result.seconds = time.monotonic() - started
    report(Event("end", command, data=result.counts()))
    return result


def describe(error: BaseException) -> str:
    """One line about an exception. With PIXAFF_DEBUG set, one that nobody foresaw is raised instead.

    Messages of a `PixaffError` speak for themselves; of the rest the type is named, since "13" says nothing.
    """
    if isinstance(error, PixaffError):
        return str(error)
    if os.environ.get("PIXAFF_DEBUG"):
        raise error
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300]}" if words else type(error).__name__


def run_into(
    out: Path,
    photos: Sequence[Path],
    work: Callable[[Sequence[Path]], Generator[tuple[Path, Outcome], None, None]],
    *,
    command: str,
    outputs: Callable[[Path], tuple[Path, ...]],
    settings: Mapping[str, Any],
    device: torch.device,
    options: RunOptions,
    classes: Sequence[str] | None = None,
    listing: str | Path | None = None,
) -> Report:
    """`run` with the run record: tell the settings, warn of outputs made with others, work, and write ``run.json``."""
    words = device_words(device)
    announce(out, command, settings, device=words, overwrite=options.overwrite, report=options.report)
    result = run(photos, work, command=command, outputs=outputs, overwrite=options.overwrite, report=options.report)
    write_record(
        out,
        command,
        settings,
        device=words,
        **({} if classes is None else {"classes": classes}),
        list=listing,
        images=len(photos),
        counts=result.counts(),
        failed=dict(result.failed),
    )
    return result
