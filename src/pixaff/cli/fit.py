"""`pixaff fit`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, ConsoleOptions, end
from pixaff.errors import shortened
from pixaff.model_options import ModelOptions
from pixaff.recipe import Recipe
from pixaff.run_options import TrainingOptions
from pixaff.settings import Settings

if TYPE_CHECKING:
    from pixaff.stages.training.folder import Trained

SHEET, DOUBTFUL = "sheet.jpg", "doubtful.csv"
SHARED = ("min_steps", "hold_out", "batch_size", "optimizer", "momentum", "crop", "resize", "precision", "seed")
"""Hyper-parameters of all trainings."""


@options.options_from(ConsoleOptions, into="say")
@options.options_from(TrainingOptions, command="fit", into="run")
@options.options_from(ModelOptions, ["engine"], into="run")
@options.options_from(Settings, into="settings")
@options.options_from(Recipe, SHARED, into="shared", defaults=False)
@options.options_from(
    Recipe, ["epochs", "lr"], into="seg_recipe", prefix="seg", of="Segmentation network", defaults=False
)
@options.options_from(Recipe, ["epochs", "lr"], into="irn_recipe", prefix="irn", of="Boundary network", defaults=False)
@options.options_from(
    Recipe, ["epochs", "lr"], into="affinity_recipe", prefix="affinity", of="AffinityNet", defaults=False
)
@options.options_from(
    Recipe, ["epochs", "lr"], into="head_recipe", prefix="head", of="Segmentation head", defaults=False
)
@options.options_from(Recipe, ["epochs", "lr"], into="cam_recipe", prefix="cam", of="CAM network", defaults=False)
def fit(
    photos: options.Photos,
    cam_recipe: dict[str, Any],
    head_recipe: dict[str, Any],
    affinity_recipe: dict[str, Any],
    irn_recipe: dict[str, Any],
    seg_recipe: dict[str, Any],
    shared: dict[str, Any],
    settings: dict[str, Any],
    run: dict[str, Any],
    say: dict[str, Any],
    labels: options.GivenLabels,
    out: options.Out,
    classes: Annotated[
        Path | None,
        typer.Option("--classes", metavar="FILE", help="Class names; default: all names that the labels use."),
    ] = None,
    listing: options.List = None,
    method: Annotated[
        Literal["psa", "irn"] | None,
        typer.Option(
            "--method",
            help="psa: train an AffinityNet; irn: train a network of class boundaries, for instances, too; "
            "default: that of the preset's walk, psa without a preset.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="Preset of networks and settings; default: lite-psa, with --method irn lite.",
        ),
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", metavar="NAME", help="CAM network to train; default: the preset's.")
    ] = None,
    affinity_network: Annotated[
        str | None,
        typer.Option("--affinity-network", metavar="NAME", help="AffinityNet to train; default: the preset's."),
    ] = None,
    irn_network: Annotated[
        str | None,
        typer.Option(
            "--irn-network", metavar="NAME", help="Boundary network to train (--method irn); default: the preset's."
        ),
    ] = None,
    cam_init: Annotated[
        str | None,
        typer.Option(
            "--cam-init",
            metavar="FILE|random",
            help="Initial weights of the CAM network; default: those in the package, if there are any.",
        ),
    ] = None,
    affinity_init: Annotated[
        str | None,
        typer.Option(
            "--affinity-init",
            metavar="FILE|random",
            help="Initial weights of the AffinityNet; default: those in the package, if there are any.",
        ),
    ] = None,
    irn_init: Annotated[
        str | None,
        typer.Option(
            "--irn-init",
            metavar="FILE|random",
            help="Initial weights of the boundary network; default: those in the package, if there are any.",
        ),
    ] = None,
    reset_head: options.ResetHead = False,
    seg: Annotated[
        bool, typer.Option("--seg", help="Also train a segmentation network on the masks, for pixaff segment.")
    ] = False,
    seg_network: Annotated[
        str, typer.Option("--seg-network", metavar="NAME", help="Segmentation network to train, with --seg.")
    ] = "lite_seg",
    null: options.Null = False,
) -> None:
    """Train a model for your own classes on tagged photos.

    Classifier, CAMs, CRF, AffinityNet and masks in one run.

    --method irn trains a network of class boundaries in place of the AffinityNet; the model then separates instances.

    Run the same command again to continue a stopped run. With other options, such as --alpha, it makes again what
    depends on them; with a few more photos or other labels, the trainings continue from the earlier weights. DIR
    becomes a model: pixaff propagate --model DIR. Settings that are not given are the preset's, the defaults below
    those of lite; but with the method psa, the walk is psa with a CRF after it, and alpha and the alphas of the CRF are
    chosen to suit the model's own CAMs.
    Hyper-parameters of the trainings are those of each network's own recipe.
    """
    from pixaff.models.model_folder import RECORD, read_record
    from pixaff.models.registry import preset_settings, settings_of_network
    from pixaff.stages.training.calibration import CALIBRATED

    base = preset_settings(preset) if preset else settings_of_network(network or "lite_cam", method or "psa")
    chosen = base.replace(preset="own", cam=network, affinity=affinity_network, irn=irn_network, **settings)
    with Console(**say, photos_of=("propagate",)) as console:
        trained = pixaff.fit(
            options.given_photos(photos, null),
            labels,
            out,
            classes=classes,
            listing=listing,
            method=method,
            settings=chosen,
            cam_recipe={**shared, **cam_recipe},
            head_recipe={**shared, **head_recipe},
            affinity_recipe={**shared, **affinity_recipe},
            irn_recipe={**shared, **irn_recipe},
            cam_init=cam_init,
            affinity_init=affinity_init,
            irn_init=irn_init,
            reset_head=reset_head,
            seg=seg,
            seg_network=seg_network,
            seg_recipe={**shared, **seg_recipe},
            calibrate=[name for name in CALIBRATED if name not in settings],
            report=console,
            **run,
        )
    _, own = read_record(trained.path / RECORD)  # whose alpha may have been chosen
    name = "background" if own.background else "alpha"
    again = _without(f"--{name}", sys.argv[1:])
    if again[:1] != ["fit"]:
        again = ["fit", *photos, "--labels", labels, "--out", str(out)]
    # Twice the alpha or half the constant score: less background.
    value, other = (own.background, own.background / 2) if own.background else (own.alpha, 2 * own.alpha)
    words = f"less background ({name} {value:g} now), no training"
    _tell_what_next(console, trained, photos, {words: [*again, f"--{name}", f"{other:g}"]})
    end(console, "fit", trained, trained.path)


def _without(option: str, arguments: list[str]) -> list[str]:
    """A command line to which another value of an option can be added; it must not start from scratch."""
    return [
        argument
        for last, argument in zip(["", *arguments], arguments, strict=False)
        if argument not in ("--overwrite", option) and not argument.startswith(f"{option}=") and last != option
    ]


def _tell_what_next(console: Console, trained: Trained, photos: list[str], again: dict[str, list[str]]) -> None:
    """Where the model is, what to look at, and the next commands, ready to be copied."""
    out = trained.path
    masks, sheet = out / "masks", out / SHEET
    places = photos if len(photos) <= 3 and "-" not in photos else ["PHOTOS"]
    shown = [word for place in places for word in ("--photos", place)]
    commands = {
        "masks of new photos": ["propagate", "NEW-PHOTOS", "--model", str(out)],
        **again,
        "a page to look at the masks": ["report", str(masks), *shown, "--out", f"{out}-report.html"],
        "a training set": ["export", str(masks), "--to", "coco", *shown, "--out", f"{out}-dataset"],
    }
    lines = [shlex.join(["pixaff", *words]) for words in commands.values()]
    doubtful = ", ".join(map(shortened, trained.doubtful[:3]))
    console.say(f"model: {shortened(out)}")
    console.say(
        f"masks: {shortened(masks)}; their mIoU is not known without ground truth, so look at {shortened(sheet)}"
        + (f", the most doubtful ones first ({doubtful}, ...: {DOUBTFUL})" if doubtful else "")
    )
    for words, line in zip(commands, lines, strict=True):
        console.say(f"next, {words}:\n  {line}")
    if console.options.as_json:
        facts = {"model": out, "masks": masks, "overlays": masks / "overlays", "sheet": sheet, "miou": None}
        console.data({**facts, "doubtful": trained.doubtful[:24], "next": lines})
