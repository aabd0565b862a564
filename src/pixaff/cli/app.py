"""The command line: all commands together; errors become one line and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pixaff import __version__
from pixaff.allocation import collect_later, settle_process
from pixaff.cli import (
    cam,
    crf,
    download_weights,
    evaluate,
    export,
    export_onnx,
    fit,
    import_masks,
    info,
    propagate,
    report,
    segment,
    train_affinity,
    train_cam,
    train_irn,
    train_seg,
)
from pixaff.cli.config import with_config
from pixaff.cli.process import settle_streams
from pixaff.errors import PixaffError, shortened


class Commands(TyperGroup):
    """Runs a command; an error becomes one line on standard error and an exit code.

    0: everything went well. 1: something failed, and each photo that failed was named. 2: wrong usage. 130: Ctrl-C.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            # Typer handles what it raises itself (wrong options, the exit of --help), and a closed pipe (`| head`).
            its_own = type(error).__module__.startswith("typer") or isinstance(error, BrokenPipeError)
            if its_own or os.environ.get("PIXAFF_DEBUG"):
                raise
            if not isinstance(error, PixaffError):
                error = PixaffError(f"{type(error).__name__}: {shortened(error, 300)}", "PIXAFF_DEBUG=1 shows where")
            print(f"Error: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None


class App(typer.Typer):
    """Gives every command the option ``--config``."""

    def command(self, *names: Any, **options: Any) -> Any:
        add = super().command(*names, **options)
        return lambda function: add(with_config(function))


app = App(
    name="pixaff",
    cls=Commands,
    no_args_is_help=True,
    # Plain help and errors: quick to import, easy to search, and the same in a file as on a terminal.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="PIXAFF_DEBUG=1 shows tracebacks. Data goes to standard output, messages and progress to standard error.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pixaff {__version__}")
        raise typer.Exit


@app.callback()
def pixaff(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """From image-level labels to pixel masks: CAMs, class boundaries or AffinityNet, random walk, dense CRF."""


app.command("propagate")(propagate.propagate)
app.command("cam")(cam.cam)
app.command("crf")(crf.crf)
app.command("fit")(fit.fit)
app.command("train-cam")(train_cam.train_cam)
app.command("train-affinity")(train_affinity.train_affinity)
app.command("train-irn")(train_irn.train_irn)
app.command("train-seg")(train_seg.train_seg)
app.command("segment")(segment.segment)
app.command("evaluate")(evaluate.evaluate)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("import")(import_masks.import_masks)
app.command("export-onnx")(export_onnx.export_onnx)
app.command("download-weights")(download_weights.download_weights)
app.command("info")(info.info)


def main() -> None:
    """Entry point of the `pixaff` script."""
    settle_streams()
    settle_process()
    collect_later()
    app()
