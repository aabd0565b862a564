"""`pixaff evaluate`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, ConsoleOptions
from pixaff.cli.numbers import named_sweep, sweep
from pixaff.errors import UsageError, counted
from pixaff.run_options import RunOptions

if TYPE_CHECKING:
    from pixaff.stages.batch.instance_evaluation import InstanceEvaluation
    from pixaff.stages.evaluate import Evaluation, Score


@options.options_from(ConsoleOptions, into="say")
@options.options_from(RunOptions, ["page"], into="shown")
def evaluate(
    say: dict[str, Any],
    shown: dict[str, Any],
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="[MASKS] GT", help="Folder of masks or saved scores, and folder of ground truth."),
    ],
    cams: Annotated[
        Path | None,
        typer.Option("--cams", metavar="DIR", help="Evaluate these CAMs or CRF posteriors. Default: masks."),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            "--threshold",
            metavar="T|FROM:TO:STEP",
            help="Background score of CAMs; posteriors need none. Default: none.",
        ),
    ] = None,
    alpha: Annotated[
        str | None,
        typer.Option(
            "--alpha",
            metavar="A|FROM:TO:STEP",
            help="Alpha of the background score of CAMs, instead of --threshold. Default: none.",
        ),
    ] = None,
    walk_sweep: Annotated[
        str | None,
        typer.Option(
            "--sweep",
            metavar="alpha=FROM:TO:STEP",
            help="Alphas of the walk to try on saved scores; default: that of the run.",
        ),
    ] = None,
    listing: options.List = None,
    recursive: options.Recursive = False,
    classes: options.Classes = None,
    void: options.Void = None,
    photos: options.MaskedPhotos = None,
    workers: options.Workers = None,
    instances: Annotated[
        bool,
        typer.Option("--instances", help="Compute the average precision of instances. GT may be COCO JSON."),
    ] = False,
    objects: Annotated[
        Path | None,
        typer.Option(
            "--objects",
            metavar="DIR",
            help="With --instances: objects of GT, as VOC's SegmentationObject. Default: none.",
        ),
    ] = None,
) -> None:
    """Compute the IoU of masks with ground truth.

    Intersection over union per class and on average.

    Void pixels of the ground truth are not counted.
    """
    if len(folders) != (2 if cams is None else 1):
        wanted = "MASKS GT" if cams is None else "--cams DIR GT"
        raise UsageError(f"found {counted(len(folders), 'folder')}, expected pixaff evaluate {wanted}")
    if objects is not None and not instances:
        raise UsageError("--objects is the ground truth of instances", "give --instances, too")
    if instances:
        if cams or threshold or alpha or walk_sweep or shown:
            raise UsageError("--instances takes masks, found an option for CAMs, scores or the report", "omit it")
        with Console(**say, photos_of=()) as console:
            scored = pixaff.evaluate_instances(
                folders[0],
                folders[1],
                objects=objects,
                listing=listing,
                classes=classes,
                recursive=recursive,
                report=console,
            )
        _say_instances(scored, console)
        return
    with Console(**say, photos_of=()) as console:
        found = pixaff.evaluate(
            folders[0] if cams is None else cams,
            folders[-1],
            cams=cams is not None,
            thresholds=sweep(threshold, "--threshold"),
            alphas=sweep(alpha, "--alpha"),
            sweep=named_sweep(walk_sweep, "--sweep"),
            listing=listing,
            recursive=recursive,
            classes=classes,
            void=void,
            photos=photos or None,
            workers=workers,
            report=console,
            **shown,
        )
    if console.options.as_json:
        for score in found.scores:
            console.data(_facts(found, score))
        if walk_sweep is not None:
            console.data({**_facts(found, found.best), "best": True})
    else:
        _print_tables(found)
    if found.failed:
        console.say(f"evaluate: {counted(len(found.failed), 'image')} could not be compared; the score leaves them out")
        raise typer.Exit(1)


def _say_instances(found: InstanceEvaluation, console: Console) -> None:
    if console.options.as_json:
        ap = {
            name: {kind: _plain(value) for kind, value in one._asdict().items()} for name, one in found.classes.items()
        }
        facts = {"list": found.listing, "images": found.images, "failed": len(found.failed), "classes": ap}
        console.data({**facts, **{kind: _plain(value) for kind, value in found.mean._asdict().items()}})
    else:
        from rich.console import Console as RichConsole

        out = RichConsole(highlight=False, markup=False)
        rows = _table("Average precision in percent", "class", "AP", "AP50", "AP70")
        for name, one in found.classes.items():
            rows.add_row(name, *map(_percent, one))
        rows.add_row("mean", *map(_percent, found.mean))
        out.print(rows)
        out.print(f"\n{counted(found.images, 'image')} ({found.listing})", soft_wrap=True)
    if found.failed:
        console.say(f"evaluate: {counted(len(found.failed), 'image')} could not be compared; the score leaves them out")
        raise typer.Exit(1)


def _facts(found: Evaluation, score: Score) -> dict[str, Any]:
    facts = {"list": found.listing, "images": found.images, "failed": len(found.failed)}
    iou = {name: _plain(value) for name, value in score.iou.items()}
    return {**facts, "setting": score.setting, "miou": _plain(score.miou), "iou": iou}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    made.add_column(columns[0])
    for column in columns[1:]:
        made.add_column(column, justify="right")
    return made


def _print_tables(found: Evaluation) -> None:
    from rich.console import Console as RichConsole

    out = RichConsole(highlight=False, markup=False)
    if len(found.scores) > 1:
        rows = _table("Sweep", "setting", "mIoU")
        for score in found.scores:
            rows.add_row(score.setting, _percent(score.miou))
        out.print(rows, "")
    best = found.best
    rows = _table(" ".join(["IoU in percent", best.setting and f"at {best.setting}"]).strip(), "class", "IoU")
    for name, value in best.iou.items():
        rows.add_row(name, _percent(value))
    out.print(rows)
    at = f" at {best.setting}, the best of {len(found.scores)}," if len(found.scores) > 1 else ""
    out.print(f"\nmIoU {_percent(best.miou)}{at} on {counted(found.images, 'image')} ({found.listing})", soft_wrap=True)
