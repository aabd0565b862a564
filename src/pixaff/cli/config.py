"""`--config`: options of a command from a TOML file, or from the `run.json` of an earlier run."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from pixaff.errors import UsageError, quoted, shortened
from pixaff.io.records import MOST_BYTES, read_json
from pixaff.io.regular import check_regular

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "config"
HELP = "Take options from a TOML file, or from the run.json of an earlier run; those given here win. Default: none."
RECORDED = frozenset({"affinity", "cam", "classes", "data", "init", "irn", "photos"})
"""What a run record tells of its networks and data in words that are no values of an option."""
TRAININGS = ("cam", "head", "affinity", "irn", "seg")
NETWORKS = {"": "cam", "affinity_": "affinity", "irn_": "irn"}
"""The options that choose the networks of fit, ``--network`` and so on, and what a record calls these."""


def with_config(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option ``--config``."""
    signature = inspect.signature(function, eval_str=True)
    option = typer.Option(f"--{NAME}", metavar="FILE", help=HELP, is_eager=True, callback=_take)
    added = inspect.Parameter(
        NAME, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Path | None, option]
    )

    @wraps(function)
    def run(**values: Any) -> None:
        values.pop(NAME, None)
        function(**values)

    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), added])  # type: ignore[attr-defined]
    return run


def _take(context: typer.Context, path: Path | None) -> Path | None:
    """Let the values of a file take the place of the defaults; whatever the command line gives goes before these."""
    if path is None or context.resilient_parsing:
        return path
    assert context.parent is not None
    assert context.info_name is not None
    commands = getattr(context.parent.command, "commands", {})
    known = {name: {each.name: each for each in one.params if each.name != NAME} for name, one in commands.items()}
    own = known[context.info_name]
    read = _recorded if path.suffix.lower() == ".json" else _written
    given = {name: value for name, value in read(path, context.info_name, known).items() if name in own}
    context.default_map = {name: _typed(own[name], value, path) for name, value in given.items() if value is not None}
    return path


def _written(path: Path, command: str, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The values that a TOML file gives to a command: those before all tables, and those of its own table."""
    whole = _read_toml(path)
    tables = {name: value for name, value in whole.items() if isinstance(value, dict)}
    for name in tables:
        if name not in known:
            found = f"{path}: found the table {quoted(name)}, expected the name of a command"
            raise UsageError(found, f"commands: {', '.join(known)}")
    for_all = {_parameter(name): value for name, value in whole.items() if name not in tables}
    _refuse_unknown(path, for_all, set().union(*known.values()), "an option of any command")
    values = {}
    for name, table in tables.items():
        values[name] = {_parameter(key): value for key, value in table.items()}
        _refuse_unknown(path, values[name], known[name], f"an option of {name}")
    return {**for_all, **values.get(command, {})}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        check_regular(path, UsageError)
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{path}: found more than {MOST_BYTES >> 20} MiB, expected a few options")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file", "check --config") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, or no TOML
        hint = "expected lines such as alpha = 2.0; a run.json must end in .json"
        raise UsageError(f"{path}: no valid TOML ({shortened(error)})", hint) from None


def _recorded(path: Path, command: str, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The options with which a run of a command was recorded."""
    try:
        record = read_json(path, "the run.json of an earlier run", UsageError)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file", "check --config") from None
    settings = record.get("settings")
    if not isinstance(settings, dict):
        raise UsageError(f"{path}: found no settings, expected the run.json of an earlier run")
    if record.get("command") != command:
        found = f"{path}: found a run of {shortened(record.get('command'))}, expected one of {command}"
        raise UsageError(found, "take the run.json from a folder that this command wrote")
    values = {name: value for name, value in settings.items() if name not in RECORDED}
    if "model" in values:  # whose hyper-parameters are all there
        values.pop("preset", None)
    if command == "fit":
        values = _of_fit(values, settings, known[command])
    _refuse_unknown(path, values, known[command], f"an option of {command}")
    return values


def _of_fit(values: Mapping[str, Any], settings: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The options of a recorded run of fit, which tells the whole recipes of its trainings."""
    # What was calibrated is calibrated again.
    found = {name: each for name, each in values.items() if " " not in name and each not in ("calibrated", "")}
    found.pop("preset", None)
    found |= {f"{part}network": settings.get(name) or None for part, name in NETWORKS.items()}
    if "seg network" in settings:
        found |= {"seg": True, "seg_network": settings["seg network"]}
    recipes = {part: {} for part in TRAININGS}  # type: dict[str, dict[str, Any]]
    for name, value in values.items():
        part, _, field = name.partition(" ")
        if part in recipes and field:
            recipes[part][field] = value
            found |= {f"{part}_{field}": value} if f"{part}_{field}" in known else {}
    first, *others = (each for part, each in recipes.items() if each or part == "cam")
    # What one option sets for all trainings is the same in all; what differs is each network's own.
    return found | {
        name: value
        for name, value in first.items()
        if name in known and all(each.get(name) == value for each in others)
    }


def _refuse_unknown(path: Path, values: Mapping[str, Any], known: Collection[str], what: str) -> None:
    unknown = [name for name in values if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, 1)
        hint = f"did you mean {near[0]!r}?" if near else "pixaff COMMAND --help lists the options"
        raise UsageError(f"{path}: found {', '.join(map(quoted, unknown[:5]))}, which is not {what}", hint)


def _parameter(name: str) -> str:
    """The name of an option's parameter, of its name as it is typed."""
    return name.removeprefix("--").replace("-", "_")


def _typed(parameter: Any, value: Any, path: Path) -> Any:
    """A value as it is typed on the command line."""
    several = parameter.nargs == -1 or getattr(parameter, "multiple", False)
    if isinstance(value, list) and not several:
        return (":" if ":" in (parameter.metavar or "") else ",").join(map(str, value))
    if isinstance(value, list):
        return [str(each) for each in value]
    if isinstance(value, dict):
        raise UsageError(f"{path}: found a table as {quoted(parameter.name)}, expected a value")
    if several:
        return [str(value)]
    return value if isinstance(value, bool) else str(value)
