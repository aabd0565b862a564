"""`pixaff train-cam`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, ConsoleOptions, end
from pixaff.recipe import Recipe
from pixaff.run_options import TrainingOptions


@options.options_from(ConsoleOptions, into="say")
@options.options_from(TrainingOptions, command="train-cam", into="run")
@options.options_from(Recipe, command="train-cam", into="recipe", defaults=False)
def train_cam(
    photos: options.Photos,
    recipe: dict[str, Any],
    run: dict[str, Any],
    say: dict[str, Any],
    labels: options.GivenLabels,
    classes: Annotated[Path, typer.Option("--classes", metavar="FILE", help="Class names, one per line.")],
    out: options.Out,
    listing: options.List = None,
    network: Annotated[
        str,
        typer.Option(
            "--network", metavar="NAME", help="CAM network to train: a name from `pixaff info`, or timm:NAME."
        ),
    ] = "lite_cam",
    init: options.Init = None,
    reset_head: options.ResetHead = False,
    crf_low_dir: Annotated[
        str | None,
        typer.Option(
            "--crf-low-dir",
            metavar="DIR",
            help="Train the segmentation head on these posteriors with much background (default: the classifier) ...",
        ),
    ] = None,
    crf_high_dir: Annotated[
        str | None,
        typer.Option("--crf-high-dir", metavar="DIR", help="... and on these, with little background. Default: none."),
    ] = None,
    null: options.Null = False,
) -> None:
    """Train a classifier on photos with image-level labels.

    Its class activation maps are the seeds of the masks. Writes DIR/cam.safetensors.

    Hyper-parameters that are not given are those of the network's own recipe, see docs/training.md.
    """
    with Console(**say) as console:
        trained = pixaff.train_cam(
            options.given_photos(photos, null),
            labels,
            classes,
            out,
            network=network,
            init=init,
            reset_head=reset_head,
            listing=listing,
            crf_low_dir=crf_low_dir,
            crf_high_dir=crf_high_dir,
            recipe=recipe,
            report=console,
            **run,
        )
    end(console, "train-cam", trained, trained.path)
