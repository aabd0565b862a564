"""The shell completes commands, options and choices."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = "import sys; sys.argv[0] = 'pixaff'; from pixaff.cli.app import main; main()"


def call(*arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout


def completed(line: str, last: int) -> list[str]:
    return call(_PIXAFF_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(last)).split()


@pytest.mark.parametrize(
    ("line", "last", "expected"),
    [
        ("pixaff prop", 1, ["propagate"]),
        ("pixaff propagate --al", 2, ["--alpha"]),
        ("pixaff propagate --precision ", 3, ["fp32", "bf16", "auto"]),
        ("pixaff export --to ", 3, ["coco", "yolo", "voc"]),
    ],
)
def test_what_is_completed(line: str, last: int, expected: list[str]) -> None:
    assert set(expected) <= set(completed(line, last))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(shell: str) -> None:
    script = call("--show-completion", shell)
    assert "_PIXAFF_COMPLETE" in script
    assert "pixaff" in script
