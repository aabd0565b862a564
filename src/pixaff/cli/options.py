"""Arguments and options of the commands: those that several commands share, and those described by dataclass fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer

from pixaff.cli.lite_recipes import LITE_RECIPES
from pixaff.cli.numbers import optional_numbers, whole_range
from pixaff.options import Option, choices_of, options_of, types_of
from pixaff.settings import value_words

Command = TypeVar("Command", bound=Callable[..., None])

Photos = Annotated[
    list[str],
    typer.Argument(metavar="PHOTOS...", help="Folder of photos, photo files, or - to read paths from standard input."),
]
AllPhotos = Annotated[
    list[str],
    typer.Argument(
        metavar="PHOTOS...",
        help="Folder of photos, photo files, or - to read paths from standard input; also tar or Parquet shards, and "
        "addresses such as s3://bucket/photos.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Output folder.")]
List = Annotated[
    Path | None,
    typer.Option(
        "--list",
        metavar="FILE",
        help="Image list: only use the images that it names, one per line, or as pixaff report saves it. Default: all.",
    ),
]
Labels = Annotated[
    str,
    typer.Option(
        "--labels",
        "-l",
        metavar="predict|inside|FILE|DIR",
        help="Predict the labels, or read them: a table, a folder per class, or what a labelling tool exports; or take "
        "those inside tar or Parquet shards.",
    ),
]
GivenLabels = Annotated[
    str,
    typer.Option(
        "--labels",
        "-l",
        metavar="FILE|DIR",
        help="A table such as labels.csv, a folder per class, or what a labelling tool exports.",
    ),
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Also use the files in subfolders, each with its path.")]
Classes = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        metavar="FILE",
        help="Class names, one per line, in the order of the mask values; default: the run's, else Pascal VOC's.",
    ),
]
MaskedPhotos = Annotated[
    list[str] | None,
    typer.Option(
        "--photos",
        metavar="DIR",
        help="Folder of the photos, for the report; default: for photos-masks, photos beside it.",
    ),
]
Void = Annotated[
    int | None,
    typer.Option("--void", metavar="VALUE", help="Value in GT that is not counted. Default: 255."),
]
Format = Annotated[
    str,
    typer.Option(
        "--format", metavar="NAME", help="Format of the files: npz, or that of another program, such as psa or irn."
    ),
]
Preset = Annotated[
    str | None, typer.Option("--preset", metavar="NAME", help="Use the settings of this preset. Default: lite.")
]
Init = Annotated[
    str | None,
    typer.Option(
        "--init", metavar="FILE|random", help="Initial weights; default: those in the package, if there are any."
    ),
]
ResetHead = Annotated[
    bool,
    typer.Option("--reset-head", help="Re-initialise the classifier if the initial weights are for other classes."),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", "-j", min=1, metavar="N", help="Number of worker threads; default: the number of cores."),
]
Null = Annotated[
    bool, typer.Option("--null", "-0", help="Paths on standard input end with NUL, as `find -print0` writes them.")
]


def given_photos(photos: list[str], null: bool) -> list[str | Path]:
    """The photos of a command line; with ``null``, paths on standard input are read here."""
    if not null:
        return list(photos)
    from pixaff.stages.batch.inputs import paths_on_stdin

    return [path for entry in photos for path in (paths_on_stdin(null=True) if entry == "-" else [entry])]


def options_from(
    kind: type,
    names: Iterable[str] | None = None,
    *,
    command: str | None = None,
    into: str,
    prefix: str = "",
    of: str = "",
    defaults: bool = True,
) -> Callable[[Command], Command]:
    """Give a command the options that the fields of a dataclass describe.

    The options that were given arrive as one dict, in the command's parameter ``into``. All of them appear in its
    signature, from which Typer builds the help.

    Args:
        kind: A dataclass with fields of `pixaff.options.option`.
        names: The fields; default all that ``command`` takes.
        command: Name of the command.
        into: Parameter that receives the values.
        prefix: Put before the names: "cam" makes ``--cam-epochs`` of the field ``epochs``.
        of: Words for the help of options with a prefix: what they belong to.
        defaults: Whether the help tells the defaults of the fields. Those of a `Recipe` are no network's own: it tells
            those of lite instead.
    """
    known = options_of(kind, None if names is not None else command)
    chosen = list(known) if names is None else list(names)
    spelled = {name: f"{prefix}_{name}" if prefix else name for name in chosen}
    training = (command or "").removeprefix("train-")
    added = [_parameter(spelled[name], name, known[name], kind, prefix, of, defaults, training) for name in chosen]

    def decorate(function: Command) -> Command:
        signature = inspect.signature(function, eval_str=True)
        own = [one for one in signature.parameters.values() if one.name != into]

        def run(**values: Any) -> None:
            typed = {name: values.pop(spelled[name]) for name in chosen}
            given = {name: _typed(value, kind, name) for name, value in typed.items() if value is not None}
            already = values.pop(into, {})
            function(**values, **{into: {**already, **given}})

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        return run  # type: ignore[return-value]

    return decorate


def _parameter(
    spelled: str, name: str, one: Option, kind: type, prefix: str, of: str, defaults: bool, training: str
) -> inspect.Parameter:
    """An option of the command line for a field; its default is None, which means not given."""
    expected, default = types_of(kind)[name], next(each.default for each in fields(kind) if each.name == name)
    choices, number = choices_of(expected), _plain(expected)
    flags = [f"--{spelled.replace('_', '-')}"] if prefix or not one.flags else list(one.flags)
    if number is bool and not one.flags:
        flags = [f"{flags[0]}/--no-{flags[0][2:]}"]
    help = f"{of}: {one.help[0].lower()}{one.help[1:]}" if of else one.help
    if one.range:
        help += f" {one.range[0].upper()}{one.range[1:]}."
    unsaid = default is None or default is MISSING or (default is False and one.flags)  # 0 is one, and --no-flip
    if defaults and not unsaid:
        help += f" Default: {_as_typed(default)}."
    elif not defaults:
        own = LITE_RECIPES.get(prefix or training, {}).get(name)
        help += " Default: the network's own." if own is None else f" Default: the network's own; of lite {own}."
    metavar = None if number is bool else one.metavar or "|".join(choices) or name.upper()
    made = typer.Option(*flags, metavar=metavar, help=help, autocompletion=(lambda: list(choices)) if choices else None)
    typed = number if number in (bool, int, float) else str
    return inspect.Parameter(
        spelled, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[typed | None, made]
    )


def _plain(expected: Any) -> Any:
    """The type that Typer converts to: text for tuples, paths and choices, which are converted or checked here."""
    if expected in (bool, int, float):
        return expected
    members = [member for member in get_args(expected) if member in (bool, int, float)]
    return members[0] if members and get_origin(expected) is not tuple else str


def _as_typed(value: Any) -> str:
    """A value as it is typed on the command line; the opposite of `_typed`."""
    if isinstance(value, tuple):
        return (":" if isinstance(value[0], int) else ",").join(map(value_words, value))
    return value_words(value)


def _typed(value: Any, kind: type, name: str) -> Any:
    """A value as the field wants it: tuples are typed as "1,0.5" or "256:512"."""
    expected, option = types_of(kind)[name], f"--{name.replace('_', '-')}"
    if get_origin(expected) is tuple:
        return whole_range(value, option) if get_args(expected)[0] is int else optional_numbers(value, option)
    return value
