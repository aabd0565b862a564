"""`pixaff train-affinity`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, ConsoleOptions, end
from pixaff.recipe import Recipe
from pixaff.run_options import TrainingOptions
from pixaff.settings import Settings


@options.options_from(ConsoleOptions, into="say")
@options.options_from(TrainingOptions, command="train-affinity", into="run")
@options.options_from(Recipe, command="train-affinity", into="recipe", defaults=False)
@options.options_from(Settings, ["size", "radius"], into="run")
def train_affinity(
    photos: options.Photos,
    recipe: dict[str, Any],
    run: dict[str, Any],
    say: dict[str, Any],
    crf_low_dir: Annotated[
        str, typer.Option("--crf-low-dir", metavar="DIR", help="Folder of posteriors with much background.")
    ],
    crf_high_dir: Annotated[
        str, typer.Option("--crf-high-dir", metavar="DIR", help="Folder of posteriors with little background.")
    ],
    out: options.Out,
    listing: options.List = None,
    network: Annotated[
        str,
        typer.Option(
            "--network", metavar="NAME", help="AffinityNet to train: a name from `pixaff info`, or timm:NAME:affinity."
        ),
    ] = "lite_affinity",
    init: options.Init = None,
    null: options.Null = False,
) -> None:
    """Train an AffinityNet on two CRF posteriors.

    `pixaff crf` makes them. Writes DIR/affinity.safetensors.

    Hyper-parameters that are not given are those of the network's own recipe, see docs/training.md.
    """
    with Console(**say) as console:
        trained = pixaff.train_affinity(
            options.given_photos(photos, null),
            crf_low_dir,
            crf_high_dir,
            out,
            network=network,
            init=init,
            listing=listing,
            recipe=recipe,
            report=console,
            **run,
        )
    end(console, "train-affinity", trained, trained.path)
