"""`pixaff train-irn`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, ConsoleOptions, end
from pixaff.recipe import Recipe
from pixaff.run_options import TrainingOptions


@options.options_from(ConsoleOptions, into="say")
@options.options_from(TrainingOptions, command="train-irn", into="run")
@options.options_from(Recipe, command="train-irn", into="recipe", defaults=False)
def train_irn(
    photos: options.Photos,
    recipe: dict[str, Any],
    run: dict[str, Any],
    say: dict[str, Any],
    labels_dir: Annotated[
        str,
        typer.Option("--labels-dir", metavar="DIR", help="Confident labels, made by `pixaff crf --hard`."),
    ],
    out: options.Out,
    listing: options.List = None,
    network: Annotated[
        str,
        typer.Option("--network", metavar="NAME", help="Boundary network to train: a name from `pixaff info`."),
    ] = "lite_irn",
    init: options.Init = None,
    radius: Annotated[
        int,
        typer.Option(
            "--radius", metavar="R", help="Radius of the neighbourhood of a cell, in cells of 4 pixels. From 2 to 64."
        ),
    ] = 10,
    null: options.Null = False,
) -> None:
    """Train a network of class boundaries (IRN).

    It also learns displacements, which separate instances. Writes DIR/irn.safetensors.

    Hyper-parameters that are not given are those of the network's own recipe, see docs/irn.md.
    """
    with Console(**say) as console:
        trained = pixaff.train_irn(
            options.given_photos(photos, null),
            labels_dir,
            out,
            network=network,
            init=init,
            listing=listing,
            radius=radius,
            recipe=recipe,
            report=console,
            **run,
        )
    end(console, "train-irn", trained, trained.path)
