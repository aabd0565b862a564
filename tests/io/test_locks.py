from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pixaff.errors import OutputError, UsageError
from pixaff.io.locks import LOCK, folder_lock

HOLDER = """
import sys
from pathlib import Path
from pixaff.io.locks import folder_lock

with folder_lock(Path(sys.argv[1]), "a training"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_at_a_time_and_nothing_stays(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for _ in range(2):
        with folder_lock(folder, "a training"):
            assert [path.name for path in folder.iterdir()] == [LOCK]
            with pytest.raises(UsageError, match=r"run: another process runs a training there .wait until it ends"):
                folder_lock(folder, "a training", 0.0).__enter__()
        assert list(folder.iterdir()) == []


def test_it_is_given_back_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), folder_lock(tmp_path, "a training"):
        raise KeyboardInterrupt
    with folder_lock(tmp_path, "a training", 0.0):
        pass


def test_case_two_trainings_in_one_folder(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="another process runs a training there"):
            folder_lock(tmp_path, "a training", 0.0).__enter__()
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / LOCK).exists()  # what a kill leaves is no lock
    with folder_lock(tmp_path, "a training"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match=r"cannot be written"):
        folder_lock(tmp_path / "run", "a training", 0.0).__enter__()
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        folder_lock(tmp_path / "run", "a training").__enter__()
    assert os.listdir(tmp_path) == ["run"]
