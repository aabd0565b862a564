"""`pixaff export-onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, ConsoleOptions


@options.options_from(ConsoleOptions, into="say")
def export_onnx(
    model: Annotated[str, typer.Argument(metavar="lite|RUN", help="Model: lite, or the folder of a run.")],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="ONNX file to write.")],
    say: dict[str, Any],
    part: Annotated[
        str | None,
        typer.Option(
            "--part", metavar="seg|cam", help="Segmentation network (default, if there is one), or CAM network."
        ),
    ] = None,
    opset: Annotated[
        int | None, typer.Option("--opset", metavar="N", min=13, help="Version of the ONNX operators; default: 17.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Write a trained network as an ONNX file.

    It is for images of any size, and checked against PyTorch on several sizes.
    """
    with Console(**say) as console:
        made = pixaff.export_onnx(model, out, part=cast(Any, part), opset=opset, overwrite=overwrite, report=console)
        if console.options.as_json:
            facts = {"model": made.path, "network": made.network, "outputs": made.outputs, "opset": made.opset}
            console.data({**facts, "classes": made.classes})
        console.say(f"export-onnx: {made.network} written to {made.path}")
