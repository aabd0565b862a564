"""When a process looks for objects that nothing reaches."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pixaff import allocation
from pixaff.cli.console import Console
from pixaff.events import Event


@pytest.fixture
def untouched() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.set_threshold(*allocation.USUAL)


def test_nothing_is_collected_before_the_work_begins(untouched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    at_end: list[object] = []
    monkeypatch.setattr("atexit.register", at_end.append)
    allocation.collect_later()
    assert gc.get_threshold()[0] == allocation.STARTING > 200_000
    with Console() as console:
        console(Event("note", "propagate", "there is a photo"))
        assert gc.get_threshold()[0] == allocation.STARTING
        console(Event("begin", "propagate", total=1))
    assert gc.get_threshold() == allocation.USUAL
    assert gc.get_freeze_count() > 1000
    assert at_end == [gc.freeze]


def test_a_callers_own_process_is_left_as_it_is(untouched: None) -> None:
    gc.unfreeze()
    gc.set_threshold(500, 5, 5)
    allocation.collect_now()
    assert (gc.get_threshold(), gc.get_freeze_count()) == ((500, 5, 5), 0)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries cannot be told")
def test_a_programs_own_process_keeps_freed_memory_unless_the_user_decides() -> None:
    code = "from pixaff import allocation as a; print(a.keeps_memory(), a.settle_process() or a.keeps_memory())"
    free = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def printed(**more: str) -> str:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=free | more, capture_output=True, text=True, check=True).stdout.strip()

    assert printed() == "False True"
    assert printed(**allocation.ONE_STORE) == "False True"
    assert printed(MALLOC_ARENA_MAX="2") == "False False"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such stores")
def test_threads_share_one_store_of_freed_memory() -> None:
    code = """
import ctypes, os, sys, threading
from pixaff import allocation

if sys.argv[1] == "settled":
    allocation.settle_process()
gate = threading.Barrier(6)
def work():
    gate.wait()
    for _ in range(20):
        gate.wait(), bytearray(100_000)
threads = [threading.Thread(target=work) for _ in range(6)]
[one.start() for one in threads], [one.join() for one in threads]
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out), libc.fflush(out), os._exit(0)
"""
    free = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def stores(how: str) -> int:
        command = [sys.executable, "-c", code, how]
        return subprocess.run(command, env=free, capture_output=True, text=True, check=True).stdout.count("<heap nr=")

    assert stores("settled") == 1 < stores("as it is")
