"""Numbers as they are typed on a command line: lists and ranges."""

from __future__ import annotations

import math

from pixaff.errors import UsageError


def optional_numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    """ "1,0.5,2" -> (1.0, 0.5, 2.0); None stays None.

    Raises:
        UsageError: A part is not a number.
    """
    if text is None:
        return None
    return tuple(_number(part, option) for part in text.split(","))


def sweep(text: str | None, option: str) -> tuple[float, ...]:
    """ "0.2" -> (0.2,); "0.1:0.3:0.1" -> (0.1, 0.2, 0.3), both ends included; "1,2" -> (1.0, 2.0); None -> ().

    Raises:
        UsageError: Not a number, a range that never ends, or one of more than 1,000 values.
    """
    if text is None:
        return ()
    if ":" not in text:
        return optional_numbers(text, option) or ()
    parts = [_number(part, option) for part in text.split(":")]
    if len(parts) != 3 or parts[2] <= 0 or parts[1] < parts[0]:
        raise UsageError(f"{option}: found {text!r}, expected FROM:TO:STEP with a STEP above 0")
    first, last, step = parts
    count = math.floor((last - first) / step + 1e-6) + 1
    if count > 1000:
        raise UsageError(f"{option}: {text!r} asks for {count} values, expected at most 1,000")
    return tuple(round(first + i * step, 10) for i in range(count))


def named_sweep(text: str | None, option: str) -> dict[str, tuple[float, ...]] | None:
    """ "alpha=4:32:4" -> {"alpha": (4.0, 8.0, ..., 32.0)}; None stays None.

    Raises:
        UsageError: No name, or values that `sweep` refuses.
    """
    if text is None:
        return None
    name, equals, values = text.partition("=")
    if not name or not equals:
        raise UsageError(f"{option}: found {text!r}, expected NAME=FROM:TO:STEP, such as alpha=4:32:4")
    return {name: sweep(values, option)}


def _number(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{option}: found {text!r}, expected a number")
    return value


def whole_range(text: str, option: str) -> tuple[int, int]:
    """ "256:512" -> (256, 512); "512" -> (512, 512).

    Raises:
        UsageError: Not one or two whole numbers.
    """
    parts = [_number(part, option) for part in text.split(":")]
    if len(parts) > 2 or any(part != int(part) for part in parts):
        raise UsageError(f"{option}: found {text!r}, expected MIN:MAX, two whole numbers")
    return int(parts[0]), int(parts[-1])
