"""`pixaff download-weights`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, ConsoleOptions
from pixaff.errors import UsageError

if TYPE_CHECKING:
    from pixaff.stages.download_weights import Item


@options.options_from(ConsoleOptions, into="say")
def download_weights(
    say: dict[str, Any],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="What to download; none: --list.")
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            "--mirror",
            metavar="URL",
            help="Download from there; an address ending in / is a folder with the files. Default: its own sources.",
        ),
    ] = None,
    from_file: Annotated[
        Path | None,
        typer.Option("--from-file", metavar="PATH", help="Copy this file into the cache; default: download."),
    ] = None,
    from_dir: Annotated[
        Path | None,
        typer.Option(
            "--from-dir", metavar="DIR", help="Copy the files in this folder into the cache; default: download."
        ),
    ] = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option("--cache-dir", metavar="DIR", help="Folder of the cache; default: PIXAFF_CACHE, or the system's."),
    ] = None,
    catalogue: Annotated[
        Path | None,
        typer.Option("--catalogue", metavar="FILE", help="TOML file with further names; default: PIXAFF_CATALOGUE."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Download again, even if cached.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be downloaded; write nothing.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List what is available, and what is cached.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Hash every cached file and compare.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Try to reach every source; store nothing.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove unfinished downloads; with names, all their files.")
    ] = False,
) -> None:
    """Download published weights; manage their cache.

    CRF results can be downloaded, too.
    """
    from pixaff.stages import download_weights as stage

    names = names or []
    asked = [
        word for word, given in (("list", listed), ("verify", verify), ("check", check), ("prune", prune)) if given
    ]
    taking = [mirror and not check, from_file, from_dir, force, dry_run and not prune]
    if len(asked) > 1 or (asked and any(taking)):
        raise UsageError(f"--{asked[0]} does not go together with the other options given")
    action = asked[0] if asked else "fetch" if names or any(taking) else "list"
    with Console(**say, photos_of=()) as console:
        items: Iterable[Item]
        if action == "list":
            items = stage.list_weights(names, cache=cache_dir, catalogue=catalogue)
        elif action == "verify":
            items = stage.verify_weights(names, cache=cache_dir, catalogue=catalogue, report=console)
        elif action == "prune":
            items = stage.prune_weights(names, dry_run=dry_run, cache=cache_dir, catalogue=catalogue, report=console)
        elif action == "check":
            items = stage.check_sources(names, mirror=mirror, catalogue=catalogue, report=console)
        else:
            items = pixaff.download_weights(
                names,
                mirror=mirror,
                from_file=from_file,
                from_dir=from_dir,
                force=force,
                dry_run=dry_run,
                cache=cache_dir,
                catalogue=catalogue,
                report=console,
            )
        width, failed = max(map(len, [*names, "resnet38-affinity"])), 0
        for item in items:
            failed += not item.ok
            if console.options.as_json:
                console.data({"name": item.name, "status": item.status, **item.data})
            elif action != "fetch" or item.ok:  # why a fetch failed has been said
                print(_line(item, action, width), flush=True)
    if failed and action != "list":
        raise typer.Exit(1)


def _line(item: Item, action: str, width: int) -> str:
    words = [item.name.ljust(width), item.status.ljust(10), item.text]
    if action == "list":
        from pixaff.weights.disk import size_words

        size = size_words(item.data["bytes"]) if item.data["bytes"] else "-"
        words[2:] = [size.rjust(9), item.text, f"({', '.join(item.data['sources'])})"]
    return "  ".join(words).rstrip()
