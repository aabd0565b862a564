"""What a command prints: data on standard output, messages and progress on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer

from pixaff.allocation import collect_now
from pixaff.cli.durations import rough_words, seconds_words
from pixaff.cli.process import replace_stream
from pixaff.cli.stage_table import StageTable
from pixaff.cli.training_table import TrainingTable
from pixaff.errors import shortened
from pixaff.io.addresses import address_of
from pixaff.io.atomic import output_errors
from pixaff.options import option
from pixaff.progress import ProgressBar
from pixaff.settings import value_words

if TYPE_CHECKING:
    from pixaff.events import Event
    from pixaff.stages.batch.report import Report

EVERY = 15.0
"""Seconds between two lines of progress if there is no terminal to draw a bar on."""


@dataclass(frozen=True)
class ConsoleOptions:
    """How much a command says, and where."""

    as_json: bool = option(False, "Write one JSON object per line to standard output.", flags=("--json",))
    quiet: bool = option(False, "Only print warnings and errors.", flags=("--quiet", "-q"))
    verbose: bool = option(False, "Also print a line for every photo.", flags=("--verbose", "-v"))
    log_file: str | None = option(None, "Append all messages to this file, with the time. Default: none.", "FILE")


class Console:
    """Shows the events of one stage as they come.

    A bar is drawn only on a terminal; elsewhere a line from time to time says how far the run is. Standard output gets
    a JSON object for each photo, or the paths of the outputs if it is a pipe or a file, or nothing if it is a terminal.
    If its reader leaves early (``| head``), the run continues silently.

    Args:
        photos_of: Commands whose photos are data; default: all. The photos of a step within a larger run are not.
        **options: Fields of `ConsoleOptions`.

    Raises:
        OutputError: The log file cannot be written.
    """

    def __init__(self, photos_of: Collection[str] | None = None, **options: Any) -> None:
        self.options = ConsoleOptions(**options)
        self.paths = not self.options.as_json and not sys.stdout.isatty()
        self.photos_of = photos_of
        self.bar = ProgressBar() if sys.stderr.isatty() and not self.options.quiet else None
        self.table: StageTable | None = None
        self.training: TrainingTable | None = None
        self.stage = ""
        self.total = self.count = 0
        self.spoke = self.began = time.monotonic()
        self.gone: set[str] = set()
        self._log("")

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for shown in (self.bar, self.table, self.training):
            if shown is not None:
                shown.close()

    def __call__(self, event: Event) -> None:
        """The callback that stages report to."""
        if event.kind == "settings":
            self._settings(event)
        elif event.kind == "warning":
            self.say(f"warning: {event.text}", always=True)
        elif event.kind == "note":
            self.say(event.text)
        elif event.kind == "begin":
            collect_now()
            self.total, self.count = event.total, 0
            self.began = self.spoke = time.monotonic()
        elif event.kind == "progress":
            self._progress(event)
        elif event.kind == "download":
            self._download(event)
        elif event.kind == "stage":
            self._stage(event)
        elif event.kind == "end":
            if self.training is not None:
                self.training.close()
                self.training = None
        else:
            self._photo(event)
        if self.bar is not None and self.table is None and self.training is None:
            self.bar(event)

    def say(self, words: str, *, always: bool = False) -> None:
        """Print a line on standard error, above the bar if there is one; with ``quiet`` only if ``always`` is set."""
        self._log(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {words}\n")
        if self.options.quiet and not always:
            return
        shown = self.table or self.training or self.bar
        if shown is not None and shown.drawn:
            shown.say(words)
        else:
            self._print(words, "stderr")

    def data(self, facts: dict[str, Any]) -> None:
        """A JSON object on standard output."""
        self._print(json.dumps(facts, default=str), "stdout")

    def _log(self, text: str) -> None:
        if self.options.log_file is not None:
            path = self.options.log_file
            with output_errors(path), open(path, "ab") as file:
                file.write(text.encode("utf-8", "surrogateescape"))

    def _print(self, words: str, stream: str) -> None:
        if stream in self.gone:
            return
        try:
            print(words, file=getattr(sys, stream), flush=True)
        except (BrokenPipeError, ValueError):  # nobody reads any more, or the stream is closed
            self.gone.add(stream)
            replace_stream(stream)

    def _settings(self, event: Event) -> None:
        """The settings of a run; those of a stage within it only if more is wanted, since the run has told them."""
        words = f"{event.command}: {settings_words(event.data)}"
        if not self.stage or self.options.verbose:
            self.say(words)
        else:
            self._log(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {words}\n")

    def _stage(self, event: Event) -> None:
        """A row of the table on a terminal; elsewhere a line when a stage begins, and from time to time."""
        facts = event.data
        if self.bar is not None:
            self.table = self.table or StageTable()
            self.table.update(event)
        state, now = facts["state"], time.monotonic()
        begins = state not in ("waiting", "begun") and (state != "running" or facts["done"] < facts["total"])
        first = self.stage != event.text and begins
        if not begins or not (first or state == "done" or now - self.spoke >= EVERY):
            self.stage = self.stage or event.command
            return
        self.stage, self.spoke = event.text, now
        if self.options.as_json:
            self.data({"stage_of": event.command, **facts})
        done = f"{facts['done']} of {facts['total']} {facts['unit']}"
        left = facts.get("seconds_left")
        if state == "kept":
            words = f"{event.text}: kept"
        elif state == "done":
            words = f"{event.text}: done in {seconds_words(facts['seconds'])}"
        else:
            words = f"{event.text}: {done}"
        if facts["figure"] and state != "kept":
            words += f", {facts['figure']}"
        if left and state != "kept":
            words += f"; about {rough_words(left)} left in all"
        if self.table is None:
            self.say(words)
        else:
            self._log(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {words}\n")

    def _photo(self, event: Event) -> None:
        self.count += 1
        if event.kind == "failed":
            # Errors about files name them; for others, such as a lack of memory, this line does.
            named = event.photo is None or event.photo.name in event.text
            words = event.text if named else f"{shortened(address_of(event.photo or ''))}: {event.text}"
            self.say(f"failed: {words}", always=True)
        elif self.options.verbose or self.options.log_file is not None:
            self._tell_photo(event)
        is_data = self.photos_of is None or event.command in self.photos_of
        if self.options.as_json and is_data:
            facts: dict[str, Any] = {"photo": address_of(event.photo or ""), "status": event.kind}
            if event.kind == "failed":
                facts["error"] = event.text
            else:
                facts["outputs"] = [address_of(path) for path in event.outputs]
            self.data({**facts, **event.data})
        elif self.paths and is_data:
            for path in event.outputs:
                self._print(address_of(path), "stdout")
        if self.total:
            left = (self.total - self.count) * (time.monotonic() - self.began) / self.count
            self._say_now_and_then(f"{event.command}: {self.count} of {self.total}, {seconds_words(left)} left")

    def _tell_photo(self, event: Event) -> None:
        words = f"{event.kind}: {shortened(address_of(event.photo or ''))}"
        if self.options.verbose:
            self.say(words)
        else:
            self._log(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {words}\n")

    def _progress(self, event: Event) -> None:
        if event.total != self.total:
            self.total = event.total
        self.count = event.data["step"]
        if self.bar is not None and not self.stage:
            self.bar.close()
            self.training = self.training or TrainingTable()
            self.training.update(event)
        if self.options.as_json:
            self.data(dict(event.data))
        self._say_now_and_then(event.text)

    def _download(self, event: Event) -> None:
        done, total = event.data["done"], event.data["total"]
        if self.bar is None and time.monotonic() - self.spoke >= EVERY:
            self.spoke = time.monotonic()
            self.say(f"{event.text}: {done / 1e6:.0f} MB" + (f" of {total / 1e6:.0f} MB" if total else ""))

    def _say_now_and_then(self, words: str) -> None:
        """A line of progress if there is no bar."""
        now = time.monotonic()
        if self.bar is None and not self.stage and now - self.spoke >= EVERY and self.count < self.total:
            self.spoke = now
            self.say(words)


def end(console: Console, command: str, report: Report, out: Path) -> None:
    """Print a summary of the photos; exit with 1 if some failed."""
    if report.silent:
        return
    parts = [f"{count} {name}" for name, count in report.counts().items() if count or name == "done"]
    console.say(f"{command}: {', '.join(parts)} in {seconds_words(report.seconds)}; outputs in {address_of(out)}")
    if not report.ok:
        raise typer.Exit(1)


def settings_words(settings: Any) -> str:
    """Settings on one line: "preset lite, scales 1 0.5 1.5 2, flip yes, ..."."""
    return ", ".join(f"{name.replace('_', ' ')} {value_words(value)}" for name, value in settings.items())
