"""The stages of a run that trains a model: a plain list, worked through one after the other.

A stage names the options on which its outputs depend and the stages whose outputs it reads. So the list says what a
change of an option, or of a stage, makes out of date.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pixaff.errors import TrainingError
from pixaff.io.atomic import write_text
from pixaff.recipe import Recipe
from pixaff.run_options import TrainingOptions
from pixaff.settings import Settings
from pixaff.stages.batch.naming import Photos, naming_of
from pixaff.stages.batch.report import Report
from pixaff.stages.training.folder import Trained


@dataclass
class Work:
    """What the stages of a run share. A stage may replace the settings, for those that follow.

    Attributes:
        out: Folder of the run.
        labels: File or folder of labels.
        names: Names of the classes.
        settings: Networks and hyper-parameters of the model.
        recipes: Hyper-parameters of the trainings, by name: "cam", "head", "affinity".
        init: Initial weights, by the same names; None for those in the package.
        reset_head: Whether the classifier may be re-initialised.
        engine: Implementation of the dense CRF.
        run: How each stage computes.
        photos: The photos that have not failed at any stage.
        result: Becomes what the run returns.
    """

    out: Path
    labels: Path
    names: tuple[str, ...]
    settings: Settings
    recipes: dict[str, Recipe]
    init: dict[str, str | Path | None]
    reset_head: bool
    engine: Any
    run: TrainingOptions
    photos: list[Path]
    result: Trained

    @property
    def listing(self) -> Path:
        """Image list of `photos`: with a list, no stage warns about labels of photos that were left out."""
        return self.out / "photos.txt"


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: Its name, and that of its folder in the run.
        words: What it does, in words.
        work: Does it, for ``work.photos``. It must continue where a kill stopped it, and do nothing if it is finished.
        options: Options on which its outputs depend, by their names in the run's record, besides those of the stages
            that it needs.
        needs: Stages whose outputs it reads.
    """

    name: str
    words: str
    work: Callable[[Work], Report]
    options: tuple[str, ...] = ()
    needs: tuple[str, ...] = field(default=())


def of_recipe(name: str) -> tuple[str, ...]:
    """The hyper-parameters of a training as options: "cam epochs", "cam lr", ..."""
    return tuple(f"{name} {each.name}" for each in fields(Recipe))


def stale_stages(stages: Iterable[Stage], changed: Collection[str]) -> list[Stage]:
    """The stages whose outputs depend on one of the changed options, directly or through another stage."""
    stale: list[Stage] = []
    for stage in stages:
        needed = {one.name for one in stale}
        if needed.intersection(stage.needs) or not set(changed).isdisjoint(stage.options):
            stale.append(stage)
    return stale


def run_stages(stages: Sequence[Stage], work: Work) -> Report:
    """Run the stages, each on the photos that have not failed before.

    Returns:
        The report of the last stage.

    Raises:
        TrainingError: No photo is left.
    """
    outcome, names = Report(), naming_of(work.photos)
    for stage in stages:
        write_text(work.listing, "".join(f"{names.key(photo)}\n" for photo in work.photos))
        outcome = stage.work(work)
        failed = {name for name, _ in outcome.failed}
        work.result.failed.extend(outcome.failed)
        work.result.seconds += outcome.seconds
        work.photos = Photos((photo for photo in work.photos if names.name(photo) not in failed), names)
        if not work.photos:
            raise TrainingError("no photo is left", "the messages above say what is wrong with each")
    return outcome
