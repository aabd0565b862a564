"""`pixaff info`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, ConsoleOptions
from pixaff.settings import value_words


@options.options_from(ConsoleOptions, into="say")
def info(
    say: dict[str, Any],
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="A file or folder; without one: the installation.")
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Photos to compare labels or outputs with. Default: none.")
    ] = None,
    recursive: options.Recursive = False,
) -> None:
    """Describe the installation, or a file or folder.

    A photo, mask, CAMs, weights, labels, a model, outputs.
    """
    facts = pixaff.info(path, photos, recursive=recursive)
    with Console(**say) as console:
        if console.options.as_json:
            console.data(facts)
        else:
            _print(facts)


def _print(facts: Mapping[str, Any], indent: str = "") -> None:
    for name, value in facts.items():
        words = name.replace("_", " ")
        if isinstance(value, Mapping):
            print(f"{indent}{words}:")
            _print(value, indent + "  ")
        else:
            print(f"{indent}{words}: {value_words(value) or '-'}")
