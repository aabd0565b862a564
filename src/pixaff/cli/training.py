"""What the training commands share: options, and the recipe made from those that were given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pixaff.recipe import Recipe

GivenLabels = Annotated[
    str, typer.Option("--labels", "-l", metavar="FILE|DIR", help="labels.csv, or a folder of VOC XML.")
]
Network = Annotated[
    str,
    typer.Option("--model", "-m", metavar="NAME", help="Network to train: see `pixaff info`; or timm:NAME[:affinity]."),
]
Init = Annotated[
    str | None, typer.Option("--init", metavar="FILE|random", help="Start weights; default: those in the package.")
]
ResetHead = Annotated[
    bool, typer.Option("--reset-head", help="Let the class rows start anew where FILE has those of other classes.")
]
Crop = Annotated[int, typer.Option("--crop", metavar="PIXELS", help="Side of the random crop.")]
Epochs = Annotated[int | None, typer.Option("--epochs", metavar="N", help="Times that every photo is seen.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", "-b", min=1, metavar="N", help="Photos a step.")]
LearningRate = Annotated[float | None, typer.Option("--lr", metavar="LR", help="Backbone's learning rate at first.")]
Optimizer = Annotated[str | None, typer.Option("--optimizer", metavar="sgd|adamw", help="How weights are updated.")]
WeightDecay = Annotated[float | None, typer.Option("--weight-decay", metavar="D", help="Of weights, not biases.")]
BackboneLrScale = Annotated[
    float | None, typer.Option("--backbone-lr-scale", metavar="F", help="Factor for the backbone; 0 freezes it.")
]
HeadLrScale = Annotated[float | None, typer.Option("--head-lr-scale", metavar="F", help="Factor for the new layers.")]
ClipNorm = Annotated[
    float | None, typer.Option("--clip-norm", metavar="N", help="Bound on the gradients' norm; 0: none.")
]
Precision = Annotated[
    str | None, typer.Option("--precision", metavar="auto|fp32|bf16", help="auto: whichever is faster here.")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Of order, augmentation and new layers.")]
SaveEvery = Annotated[float, typer.Option("--save-every", metavar="SECONDS", help="Time between two checkpoints.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in DIR, to the same end.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Train anew although DIR holds a training.")]


def with_given(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """The recipe with the values that were given on the command line.

    Args:
        recipe: A command's own numbers.
        given: Options by name, None where there was none; those that are no part of a recipe are passed over.

    Raises:
        UsageError: A value is out of range.
    """
    names = [field.name for field in fields(recipe)]
    return replace(recipe, **{name: given[name] for name in names if given.get(name) is not None})
