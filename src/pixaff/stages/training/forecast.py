"""How far a run of several stages is, and when it will be ready: measured, and mended as the stages run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pixaff.events import Event
from pixaff.stages.batch.ledger import read_ledger
from pixaff.stages.batch.naming import naming_of

if TYPE_CHECKING:
    from pixaff.stages.batch.report import Report
    from pixaff.stages.training.stage import Stage, Work

EVERY = 0.5
"""Seconds between two events about a running stage."""
SURE, ENOUGH = 2.0, 3
"""Seconds and units from which a stage's own pace counts, rather than what was expected of it: the first photo of a
stage waits for its model."""
MENDED = (0.25, 4.0)
"""Limits of the factor by which the stages so far correct the expectation of the others."""


@dataclass(frozen=True)
class Pace:
    """How long a stage took for how many photos or steps."""

    seconds: float = 0.0
    units: int = 0

    @property
    def each(self) -> float | None:
        """Seconds of one; None if there was none."""
        return self.seconds / self.units if self.units else None


class Forecast:
    """Follows the events of the stages, and reports ``stage`` events of its own.

    The time of a stage that has not begun is its number of photos or steps times the seconds of one: as an earlier run
    recorded them, or as a short trial of the networks measures them, which takes place when there is work to do. It is
    corrected by how far the stages so far were from their expectation. A running stage is estimated by its own pace.

    Attributes:
        pace: That of the present or last stage, in this run.
    """

    def __init__(self, stages: Sequence[Stage], work: Work, known: Mapping[str, Pace], command: str) -> None:
        self.stages, self.work, self.command, self.report = stages, work, command, work.run.report
        self.expected = {name: pace.each for name, pace in known.items() if pace.each is not None}
        self.to_do = {stage.name: _to_do(stage, work) for stage in stages}
        self.tried = False
        self.number = -1
        self.actual = self.foreseen = 0.0
        self.figure, self.spoke = "", 0.0
        self._reset()
        for number in range(len(stages)):
            self._tell(number, "waiting")

    def begin(self, number: int) -> None:
        """A stage begins."""
        self.number, self.figure = number, ""
        self._reset()
        self._tell(number, "begun")

    def end(self, outcome: Report) -> None:
        """The present stage is finished."""
        stage, pace = self.stages[self.number], self.pace
        if pace.seconds >= SURE and stage.name in self.expected:
            self.actual += pace.seconds
            self.foreseen += pace.units * self.expected[stage.name]
        self.over = True
        self._tell(self.number, "done" if self.worked else "kept", seconds=outcome.seconds)

    def listen(self, event: Event) -> None:
        """Pass on an event of the present stage, and learn from it."""
        if event.kind == "begin" and self.stages[self.number].recipe:
            self._try()  # nothing else computes yet
        self.report(event)
        if event.kind == "begin":
            self.left_units, self.total, self.since = event.total, event.total, time.monotonic()
            self.last = self.since
        elif event.kind == "progress":
            self.done, self.total = event.data["step"], event.total
            self.left_units = event.total - self.done
            self._count()
            terms = {name: event.data[name] for name in ("loss", "f1") if name in event.data}
            self.figure = ", ".join(f"{'F1' if name == 'f1' else name} {value:.3f}" for name, value in terms.items())
        elif event.kind in ("done", "failed", "skipped") and event.photo is not None:
            if self.stages[self.number].recipe:
                return
            self.done, self.left_units = self.done + 1, max(0, self.left_units - 1)
            if event.kind == "done":
                self._try()
                self._count()
                self.figure = f"{self.worked / max(self.pace.seconds, 1e-3):.2g} photos/s"
        else:
            return
        self._tell(self.number, "running", now_and_then=True)

    @property
    def pace(self) -> Pace:
        return Pace(max(0.0, self.last - self.since), self.worked)

    def seconds_left(self) -> float | None:
        """Seconds until the last stage is ready; None while nothing is known of a stage that is still to come."""
        mended = self.actual / self.foreseen if self.foreseen else 1.0
        factor = min(max(mended, MENDED[0]), MENDED[1])
        total = 0.0
        for number, stage in enumerate(self.stages):
            if number < self.number or (self.over and number == self.number):
                continue
            units, each = self.to_do[stage.name], self.expected.get(stage.name)
            each = None if each is None else each * factor
            if number == self.number and self.total:
                units, own = self.left_units, self.pace
                if own.each is not None and (each is None or (own.seconds >= SURE and own.units >= ENOUGH)):
                    each = own.each
            if units and each is None:
                return None
            total += units * (each or 0.0)
        return total

    def _reset(self) -> None:
        self.since = self.last = time.monotonic()
        self.done = self.worked = self.total = 0
        self.left_units, self.over = 0, False

    def _count(self) -> None:
        self.worked, self.last = self.worked + 1, time.monotonic()

    def _try(self) -> None:
        """Measure what is not known of the present stage and those that follow, once."""
        if self.tried:
            return
        self.tried = True
        began = time.monotonic()
        with torch.random.fork_rng(devices=[]):  # new networks draw random numbers
            for stage in self.stages[self.number :]:
                if stage.trial is not None and stage.name not in self.expected and self.to_do[stage.name]:
                    with suppress(Exception):  # an estimate is not worth a run; the stage will say what is wrong
                        self.expected[stage.name] = stage.trial(self.work)
        self.since += time.monotonic() - began

    def _tell(self, number: int, state: str, *, seconds: float = 0.0, now_and_then: bool = False) -> None:
        if now_and_then and time.monotonic() - self.spoke < EVERY:
            return
        stage, here = self.stages[number], number == self.number
        total = (self.total if here else 0) or stage.units(self.work)
        facts: dict[str, Any] = {
            "stage": number + 1,
            "stages": len(self.stages),
            "name": stage.name,
            "state": state,
            "done": total if state in ("done", "kept") else self.done if here else 0,
            "total": total,
            "unit": "steps" if stage.recipe else "photos",
            "seconds": round(seconds or self.pace.seconds, 2) if here and state != "kept" else 0.0,
            "figure": self.figure if here else "",
        }
        if state != "waiting":
            self.spoke = time.monotonic()
            left = self.seconds_left()
            facts["seconds_left"] = None if left is None else round(left, 1)
        words = f"stage {number + 1} of {len(self.stages)}: {stage.words}"
        self.report(Event("stage", self.command, words, total=len(self.stages), data=facts))


def _to_do(stage: Stage, work: Work) -> int:
    """The photos or steps of a stage that are still to do; steps of a training that was stopped count in full."""
    folder, units = work.out / stage.name, stage.units(work)
    if stage.recipe:
        return 0 if (folder / stage.weights).is_file() else units
    lines, names = read_ledger(folder).images, naming_of(work.photos)
    done = sum(lines.get(names.name(photo), {}).get("status") == "done" for photo in work.photos)
    return max(0, units - done)
