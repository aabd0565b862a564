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
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="What to fetch; none: --list.")] = None,
    mirror: Annotated[
        str | None,
        typer.Option("--mirror", metavar="URL", help="Fetch from there instead; ending in /: a folder with the file."),
    ] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from-file", metavar="PATH", help="Take this file, which you have, into the cache.")
    ] = None,
    from_dir: Annotated[
        Path | None, typer.Option("--from-dir", metavar="DIR", help="Take the files from this folder into the cache.")
    ] = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option("--cache-dir", metavar="DIR", help="The cache; default: PIXAFF_CACHE, or the system's."),
    ] = None,
    catalogue: Annotated[
        Path | None,
        typer.Option("--catalogue", metavar="FILE", help="TOML file with more names; default: PIXAFF_CATALOGUE."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch again what is there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what, from where and how large; do nothing.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show what exists and what of it is cached.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Hash what is cached and compare.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Try every way to every source, keep nothing, report.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove unfinished downloads, and all files of the names given.")
    ] = False,
) -> None:
    """Fetch published weights and CRF results into a cache, and look after it."""
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
