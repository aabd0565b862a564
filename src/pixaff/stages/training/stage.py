"""A stage of a run that trains a model: what it does, and what it depends on. `chains` has them all.

A stage names the options on which its outputs depend and the stages whose outputs it reads. So the list says what a
change of an option, or of a stage, makes out of date.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pixaff.recipe import Recipe
from pixaff.run_options import TrainingOptions
from pixaff.settings import Settings
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
        recipes: Hyper-parameters of the trainings, by name: "cam", "head", "affinity" or "irn".
        init: Initial weights, by the same names; None for those in the package.
        reset_head: Whether the classifier may be re-initialised.
        engine: Implementation of the dense CRF.
        run: How each stage computes.
        photos: The photos that have not failed at any stage.
        result: Becomes what the run returns.
        warm: Names of the trainings that continue from the weights of an earlier run.
        calibrate: Settings to choose by the model's own CAMs; see `pixaff.stages.training.calibration`.
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
    warm: set[str] = field(default_factory=set)
    calibrate: tuple[str, ...] = ()

    @property
    def listing(self) -> Path:
        """Image list of `photos`: with a list, no stage warns about labels of photos that were left out."""
        return self.out / "photos.txt"


def photo_count(work: Work) -> int:
    """The units of a stage that works on one photo after the other."""
    return len(work.photos)


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
        recipe: Name of the recipe of a training, which makes one thing of all photos. A stage without one makes outputs
            of each photo, which are kept when other photos change.
        weights: The file in its folder with the weights of a training.
        units: How many photos or steps it works on, for the estimate of the time left.
        trial: Measures how many seconds one of them takes on this machine; without it, only the stage itself tells.
    """

    name: str
    words: str
    work: Callable[[Work], Report]
    options: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    recipe: str = ""
    weights: str = ""
    units: Callable[[Work], int] = photo_count
    trial: Callable[[Work], float] | None = None


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
