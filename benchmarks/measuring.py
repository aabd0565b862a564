"""What the benchmarks share: fair timing, peak memory, and the two ways of printing rows."""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, float | int | str | bool | None]
Times = list[list[float]]


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of the table")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each way (default: %(default)s)")
    return parser


def take_turns(works: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each of several ways; they take turns, so that a slow moment of the machine meets all."""
    return [seconds for (seconds,) in take_turns_on([time.perf_counter], works, repeats)]


def take_turns_on(clocks: Sequence[Callable[[], float]], works: Sequence[Callable[[], object]], repeats: int) -> Times:
    """Medians of each of several ways on each of several clocks, while they take turns as in `take_turns`.

    On a machine that does other things, too, `time.process_time` differs less from run to run than the wall clock: it
    counts the seconds of all threads of this process.
    """
    times: list[list[list[float]]] = [[] for _ in works]
    for _ in range(max(1, repeats)):
        for work, found in zip(works, times, strict=True):
            start = [clock() for clock in clocks]
            work()
            found.append([clock() - begin for clock, begin in zip(clocks, start, strict=True)])
    return [[statistics.median(column) for column in zip(*found, strict=True)] for found in times]


@contextmanager
def load(busy: bool) -> Iterator[None]:
    """While the block runs, let other processes hold all cores but one, if ``busy``."""
    count = len(os.sched_getaffinity(0)) - 1 if busy and hasattr(os, "sched_getaffinity") else 0
    code = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100000))"
    others = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        if others:
            time.sleep(1)  # until they have started
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def peak_memory(work: Callable[..., Callable[[], object]], *values: Any) -> int:
    """Bytes that a call needs beyond what its process held before, in a fresh process.

    ``work(*values)`` prepares, and returns the callable that is measured; all of it must be picklable.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory, work, values).result()


def _peak_memory(work: Callable[..., Callable[[], object]], values: tuple[Any, ...]) -> int:
    prepared = work(*values)
    gc.collect()
    before = _forget_peak()
    prepared()
    return _peak() - before


def _forget_peak() -> int:
    """Bytes held now; the peak counts from here where the system allows it (Linux), else from the process's start."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return _peak()
    return _status("VmRSS")


def _peak() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_memory() -> int:
    """Bytes that this process holds."""
    try:
        return _status("VmRSS")
    except OSError:
        return _peak()


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def show(title: str, rows: Sequence[Row], summary: Row, as_json: bool) -> None:
    """Print rows of one shape, and a last row of figures about all of them with the machine and versions."""
    import torch

    about = {
        **summary,
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if as_json:
        for row in [*rows, about]:
            print(json.dumps(row))
        return
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(words(value) for value in row.values()))
    console = Console(width=max(Console().width, 120))
    console.print(table)
    console.print(", ".join(f"{name.replace('_', ' ')} {words(value)}" for name, value in about.items()))


def words(value: object) -> str:
    """A figure as a person reads it: three digits, and more only where they stand before the point."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if not isinstance(value, float):
        return str(value)
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1e}"
