"""Pickles of plain data, read by an interpreter in which there is nothing to call.

`pickle` calls what a file names; a file can name anything. Here the standard library splits the stream into
instructions (`pickletools.genops`, which only parses), and the interpreter below carries out the few that data needs.
A name outside the caller's table ends the reading, and a name in it stands for one of our own functions: nothing is
imported or looked up, no method of an object is called, and no attribute is set.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any, BinaryIO

_SLACK = 1 << 20  # bytes given to functions beside those of the file: short words are pointed back to, as in "latin1"
LARGEST_KEY = 1 << 32

_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING"}
_BYTES = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_VALUES = _NUMBERS | _TEXTS | _BYTES
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, eq=False)
class Function:
    """What a name in a pickle stands for, when the pickle may call it."""

    run: Callable[..., Any]


class Built:
    """An object that a `Function` returns and that the pickle then gives its state."""

    def build(self, state: Any) -> None:
        raise NotImplementedError


Names = Mapping[tuple[str, str], Any]
"""By module and name, each a `Function` or a plain value."""


@dataclass
class Budget:
    """What all the pickles of one file may take together: those inside a pickle draw on it as well.

    Attributes:
        bytes: Length of the file. What its functions are given may be twice that, see `give`.
        instructions: Those that may still be carried out, each of which takes about a microsecond. Maps of a hundred
            classes take 4,000.
        keys: Those that one dict may have. Maps of one photo need some hundred at most.
    """

    bytes: int
    instructions: int = 100_000
    keys: int = 1_000
    given: int = 0

    def spend(self) -> None:
        self.instructions -= 1
        if self.instructions < 0:
            raise UnpicklingError("is a pickle of too many instructions")

    def give(self, arguments: tuple[Any, ...]) -> None:
        """Count what a function gets.

        It may copy that, and one long text can be pointed back to at each of its calls. In honest files each byte is
        given twice at most: as text to become bytes, then as bytes of an array.
        """
        self.given += sum(len(value) for value in arguments if type(value) in (str, bytes, bytearray))
        if self.given > 2 * self.bytes + _SLACK:
            raise UnpicklingError("uses the same bytes over and over")


def read_pickle(stream: BinaryIO, names: Names, budget: Budget, persistent: Callable[[Any], Any] | None = None) -> Any:
    """Read one pickle of protocol 2 to 5 and leave the stream behind it.

    Args:
        stream: Positioned at the pickle's first byte.
        names: All that the pickle may name.
        budget: What it may take.
        persistent: Takes the id of an object that is stored elsewhere; None refuses such ids.

    Returns:
        Dicts (with plain keys), lists, tuples, strings, bytes, numbers, None, and what the functions returned.

    Raises:
        UnpicklingError: The pickle asks for more than that. Its message says what.
        Exception: Whatever a damaged stream leads to: `ValueError`, `IndexError`, `KeyError`, `TypeError`, ...
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(stream):
        budget.spend()
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            pass
        elif name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name in ("APPEND", "APPENDS"):
            items = since_mark() if name == "APPENDS" else [stack.pop()]
            _of_type(list, stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _set_items(_dict(stack[-1]), items, budget.keys)
        elif name == "GLOBAL":
            module, _, attribute = argument.partition(" ")
            stack.append(_named(names, module, attribute))
        elif name == "STACK_GLOBAL":
            attribute, module = _of_type(str, stack.pop()), _of_type(str, stack.pop())
            stack.append(_named(names, module, attribute))
        elif name == "REDUCE":
            arguments, function = _of_type(tuple, stack.pop()), _of_type(Function, stack.pop())
            budget.give(arguments)
            stack.append(function.run(*arguments))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], Built):
                raise UnpicklingError(f"sets the state of a {type(stack[-1]).__name__}")
            stack[-1].build(state)
        elif name == "BINPERSID" and persistent is not None:
            stack.append(persistent(stack.pop()))
        elif name == "STOP":
            return stack.pop()
        else:
            raise UnpicklingError(f"uses the pickle instruction {name}")
    raise EOFError("the pickle has no end")


def check(condition: bool, words: str) -> None:
    """Refuse what a function of a pickle is called with.

    Raises:
        UnpicklingError: The condition does not hold.
    """
    if not condition:
        raise UnpicklingError(words)


def encoded(text: Any, encoding: Any) -> bytes:
    """Bytes, as protocol 2 spells them; for the name ``_codecs.encode``."""
    check(type(text) is str and encoding == "latin1", "encodes text")
    return text.encode("latin1")


def _named(names: Names, module: str, attribute: str) -> Any:
    if (module, attribute) not in names:
        raise UnpicklingError(f"asks for {ascii(f'{module}.{attribute}')[1:-1][:80]}")
    return names[module, attribute]


def _of_type(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise UnpicklingError(f"uses a {type(value).__name__} as a {kind.__name__.lower()}")
    return value


def _dict(value: Any) -> dict[Any, Any]:
    """A dict, or an object of a caller's `Function` that is one."""
    return value if isinstance(value, Built) and isinstance(value, dict) else _of_type(dict, value)


def _set_items(target: dict[Any, Any], items: list[Any], most: int) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Hashing tuples inside tuples can take for ever.
        if type(key) not in (int, str):
            raise UnpicklingError(f"has a {type(key).__name__} as a key")
        # Large numbers can be chosen so that all have the same hash; then each insertion looks at all before it.
        if type(key) is int and abs(key) >= LARGEST_KEY:
            raise UnpicklingError("has a key of more than 32 bits")
        target[key] = value
    if len(target) > most:
        raise UnpicklingError(f"has a dict of over {most} keys")
