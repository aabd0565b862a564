"""`pixaff train-seg`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, ConsoleOptions, end
from pixaff.recipe import MaskRecipe, Recipe
from pixaff.run_options import TrainingOptions


@options.options_from(ConsoleOptions, into="say")
@options.options_from(TrainingOptions, command="train-seg", into="run")
@options.options_from(Recipe, command="train-seg", into="recipe", defaults=False)
@options.options_from(MaskRecipe, into="run")
def train_seg(
    photos: options.Photos,
    masks: Annotated[Path, typer.Argument(metavar="MASKS", help="Folder of their masks, NAME.png.")],
    recipe: dict[str, Any],
    run: dict[str, Any],
    say: dict[str, Any],
    out: options.Out,
    classes: Annotated[
        Path | None,
        typer.Option(
            "--classes",
            metavar="FILE",
            help="Class names, one per line; default: those in run.json or classes.txt beside the masks.",
        ),
    ] = None,
    listing: options.List = None,
    network: Annotated[
        str,
        typer.Option("--network", metavar="NAME", help="Network to train: lite_seg, or seg:ARCHITECTURE:ENCODER."),
    ] = "lite_seg",
    init: options.Init = None,
    reset_head: Annotated[
        bool,
        typer.Option("--reset-head", help="Re-initialise the last layer if the initial weights are for other classes."),
    ] = False,
    null: options.Null = False,
) -> None:
    """Train a segmentation network on photos and their masks. Writes DIR/seg.safetensors, a model for pixaff segment.

    Hyper-parameters that are not given are those of the network's own recipe, see docs/training.md.
    """
    with Console(**say) as console:
        trained = pixaff.train_seg(
            options.given_photos(photos, null),
            masks,
            out,
            classes=classes,
            network=network,
            init=init,
            reset_head=reset_head,
            listing=listing,
            recipe=recipe,
            report=console,
            **run,
        )
    end(console, "train-seg", trained, trained.path)
