"""The standard streams of the process."""

from __future__ import annotations

import os
import sys


def settle_streams() -> None:
    """Let file names pass as the bytes that they are, and replace streams that are closed.

    The next file that is opened would get a closed descriptor, and whatever a library prints would end up in it.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            replace_stream(name)
        stream = getattr(sys, name)
        if stream is None:
            replace_stream(name)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")


def replace_stream(name: str) -> None:
    """Discard whatever is printed to a standard stream from now on."""
    number = {"stdout": 1, "stderr": 2}[name]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
    setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
