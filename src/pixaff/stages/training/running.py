"""Working through a list of stages, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pixaff.errors import TrainingError
from pixaff.io.atomic import write_text
from pixaff.stages.batch.naming import Photos, naming_of
from pixaff.stages.batch.report import Report
from pixaff.stages.training.forecast import Forecast, Pace
from pixaff.stages.training.stage import Stage, Work


def run_stages(
    stages: Sequence[Stage],
    work: Work,
    *,
    command: str = "fit",
    known: dict[str, Pace] | None = None,
    finished: Callable[[Stage, Pace], None] | None = None,
) -> Report:
    """Run the stages, each on the photos that have not failed before, and tell with ``stage`` events how far they are.

    Args:
        stages: The stages, in order.
        work: What they share.
        command: Name of the command, for the events.
        known: How long stages took per unit in an earlier run, by name.
        finished: Called after each stage that did something, or was finished already.

    Returns:
        The report of the last stage.

    Raises:
        TrainingError: No photo is left.
    """
    outcome, report, names = Report(), work.run.report, naming_of(work.photos)
    forecast = Forecast(stages, work, known or {}, command)
    work.run = replace(work.run, report=forecast.listen)
    try:
        for number, stage in enumerate(stages):
            write_text(work.listing, "".join(f"{names.key(photo)}\n" for photo in work.photos))
            forecast.begin(number)
            outcome = stage.work(work)
            failed = {name for name, _ in outcome.failed}
            work.result.failed.extend(outcome.failed)
            work.result.seconds += outcome.seconds
            work.photos = Photos((photo for photo in work.photos if names.name(photo) not in failed), names)
            forecast.end(outcome)
            if not work.photos:
                raise TrainingError("no photo is left", "the messages above say what is wrong with each")
            if finished is not None:
                finished(stage, forecast.pace)
    finally:
        work.run = replace(work.run, report=report)
    return outcome
