"""Options, written once: dataclass fields that carry their help, metavar and range.

`pixaff.settings.Settings`, `pixaff.recipe.Recipe` and others consist of such fields. Their ``__post_init__`` checks the
ranges, and the command line is built from the fields, so an option is described in one place only.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pixaff.errors import UsageError, shortened

T = TypeVar("T")
_KEY = "option"
_KEYWORD = "keyword"
_PLAIN = {bool: "yes or no", int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Option:
    """What is known of an option besides its name, type and default.

    Attributes:
        help: What it does, as a sentence for ``--help``.
        metavar: Placeholder of its value; "" for flags and choices.
        above, at_least, at_most: Bounds of a number, or of each number of a tuple.
        commands: Commands that take it; empty where every command with such fields does.
        flags: How it is spelled; empty means ``--its-name`` (and ``--no-its-name`` for a truth value).
    """

    help: str
    metavar: str = ""
    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    commands: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        """The bounds in words, such as "above 0 and at most 1"; "" if there are none."""
        bounds = (("above", self.above), ("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)

    def allows(self, value: float) -> bool:
        """Whether a number is within the bounds; NaN and infinities never are."""
        return (
            math.isfinite(value)
            and (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
        )


def option(default: T, help: str, metavar: str = "", **facts: Any) -> T:
    """A dataclass field that is an option; ``facts`` are those of `Option`."""
    made: T = field(default=default, metadata={_KEY: Option(help, metavar, **facts)})
    return made


def keyword(default: T) -> T:
    """A dataclass field that callers give by name, and the command line does not."""
    made: T = field(default=default, metadata={_KEYWORD: True})
    return made


def options_of(kind: type, command: str | None = None) -> dict[str, Option]:
    """The options among a dataclass's fields, by name; with a command, those that it takes."""
    found = {each.name: each.metadata[_KEY] for each in fields(kind) if _KEY in each.metadata}
    return {name: one for name, one in found.items() if command is None or not one.commands or command in one.commands}


def types_of(kind: type[Any]) -> Mapping[str, Any]:
    """The types of a dataclass's fields, by name."""
    return get_type_hints(kind)


def check_options(values: Any) -> None:
    """Check every option of a dataclass instance, and store whole numbers of float fields as floats.

    Raises:
        UsageError: A value is out of range, or not one of the choices.
    """
    kind = type(values)
    types = types_of(kind)
    for name, one in options_of(kind).items():
        value, expected = getattr(values, name), types[name]
        if value is None:
            continue
        choices = choices_of(expected)
        if choices and value not in choices:
            raise UsageError(f"{name} is {shortened(repr(value))}, expected {' or '.join(choices)}")
        plain = _plain(expected)
        if plain is not None and not _is_plain(value, plain):
            raise UsageError(f"{name} is {shortened(repr(value))}, expected {_PLAIN[plain]}")
        if get_origin(expected) is tuple:
            number = get_args(expected)[0]
            value = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (None,)
            if not all(_is_plain(each, number) for each in value):
                raise UsageError(f"{name} is {shortened(repr(getattr(values, name)))}, expected numbers")
            value = tuple(number(each) for each in value)
            object.__setattr__(values, name, value)
            _check_numbers(name, value, one)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            if expected is float:
                value = float(value)
                object.__setattr__(values, name, value)
            _check_numbers(name, (value,), one)


def _plain(expected: Any) -> type[Any] | None:
    """The kind of a truth value or a number, which may be optional; None for other types."""
    if get_origin(expected) is tuple:
        return None
    return next((member for member in (expected, *get_args(expected)) if member in _PLAIN), None)


def _is_plain(value: Any, expected: type[Any]) -> bool:
    """Whether a value may stand for a truth value or a number, as callers and JSON give them."""
    if isinstance(value, Integral) and not -(1 << 63) <= int(value) < 1 << 63:
        return False
    if expected is bool or isinstance(value, bool):
        return expected is bool and isinstance(value, (bool, Integral)) and value in (0, 1)
    return isinstance(value, Real if expected is float else Integral)


def choices_of(expected: Any) -> tuple[str, ...]:
    """The values of a ``Literal`` type, or of one among the members of a union; none for other types."""
    if get_origin(expected) is Literal:
        return get_args(expected)
    return next((found for member in get_args(expected) if (found := choices_of(member))), ())


def unknown_option(name: str, kind: str, known: Any) -> UsageError:
    """The error about a name that is not a field."""
    return UsageError(f"no {kind} is called {shortened(name)!r}", f"{kind}s: {', '.join(sorted(known))}")


def _check_numbers(name: str, numbers: tuple[float, ...], one: Option) -> None:
    if not numbers or not all(one.allows(number) for number in numbers):
        found = ", ".join(f"{number:g}" for number in numbers) or "empty"
        words = f"a number {'of ' if one.range.startswith('at') else ''}{one.range}".rstrip()
        raise UsageError(f"{name} is {found}, expected {words}")


def divide(options: Mapping[str, Any], command: str, *kinds: type, every: bool = False) -> list[dict[str, Any]]:
    """Keyword arguments of a function, divided among the dataclasses whose options they are; None means not given.

    Args:
        options: The arguments.
        command: Name of the command or function.
        kinds: The dataclasses.
        every: Take the options of all commands.

    Raises:
        UsageError: A name is not an option of the command.
    """
    shares = [
        {each.name for each in fields(kind) if _KEYWORD in each.metadata}
        | set(options_of(kind, None if every else command))
        for kind in kinds
    ]
    for name in options:
        if not any(name in share for share in shares):
            known = sorted(set().union(*shares))
            near = difflib.get_close_matches(name, known, 1)
            raise UsageError(
                f"{command} has no option called {name!r}",
                f"did you mean {near[0]!r}?" if near else f"options: {', '.join(known)}",
            )
    return [{name: options[name] for name in share if options.get(name) is not None} for share in shares]
