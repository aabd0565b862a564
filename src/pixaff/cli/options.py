"""Arguments and options that several commands share, so that one word means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Photos = Annotated[
    list[str],
    typer.Argument(metavar="PHOTOS...", help="Folder of photos, photos, or - for paths on standard input."),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the outputs.")]
List = Annotated[
    Path | None, typer.Option("--list", metavar="FILE", help="Take only the images named there, one a line.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="lite|RUN", help="The embedded model (default), or a folder that `fit` made."
    ),
]
CamWeights = Annotated[
    Path | None, typer.Option("--cam-weights", metavar="FILE", help="Weights of the preset's CAM network.")
]
AffinityWeights = Annotated[
    Path | None, typer.Option("--affinity-weights", metavar="FILE", help="Weights of the preset's AffinityNet.")
]
WeightsDir = Annotated[
    Path | None, typer.Option("--weights-dir", metavar="DIR", help="Folder of the preset's weights, of any names.")
]
Networks = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", help="Networks and numbers; with --model, its numbers alone."),
]
Labels = Annotated[
    str,
    typer.Option(
        "--labels", "-l", metavar="predict|FILE|DIR", help="Predicted labels, labels.csv, or a folder of VOC XML."
    ),
]
Classes = Annotated[
    Path | None, typer.Option("--classes", metavar="FILE", help="Class names, one a line, in order of mask value.")
]
Preset = Annotated[
    str | None, typer.Option("--preset", metavar="NAME", help="Take the method's numbers from this preset.")
]
Size = Annotated[
    int | None,
    typer.Option("--size", metavar="PIXELS", help="Long side to work at; larger photos are shrunk. 0: their own."),
]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda[:n]", help="Where to compute.")]
Precision = Annotated[
    str, typer.Option("--precision", metavar="fp32|bf16|auto", help="Of the networks; auto: whichever is faster here.")
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", "-b", min=1, metavar="N", help="Photos computed together.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", "-j", min=1, metavar="N", help="Workers; default: all processors.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Make again what is there; else it is skipped.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")]
Engine = Annotated[
    str, typer.Option("--engine", metavar="auto|torch|pydensecrf", help="Which implementation of the dense CRF.")
]
Scales = Annotated[
    str | None, typer.Option("--scales", metavar="S,S,...", help="Image scales whose activation maps are summed.")
]
Flip = Annotated[bool | None, typer.Option("--flip/--no-flip", help="See mirror images as well.")]
LabelThreshold = Annotated[
    float | None,
    typer.Option("--label-threshold", metavar="P", help="Probability from which a predicted class counts."),
]
Alpha = Annotated[float | None, typer.Option("--alpha", metavar="A", help="Background power of the walk.")]
Beta = Annotated[float | None, typer.Option("--beta", metavar="B", help="Power of the affinities.")]
Radius = Annotated[
    int | None, typer.Option("--radius", metavar="R", help="Reach of an affinity, in cells of 8 pixels.")
]
Steps = Annotated[int | None, typer.Option("--steps", metavar="T", help="Length of the random walk.")]
Borders = Annotated[
    str | None,
    typer.Option("--borders", metavar="full|published", help="Neighbours of border cells: all, or the published few."),
]
FinalCrf = Annotated[bool | None, typer.Option("--final-crf/--no-final-crf", help="A dense CRF after the walk.")]
CrfLow = Annotated[float | None, typer.Option("--crf-low", metavar="A", help="Background power with much background.")]
CrfHigh = Annotated[
    float | None, typer.Option("--crf-high", metavar="A", help="Background power with little background.")
]
