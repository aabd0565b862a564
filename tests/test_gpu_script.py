"""The script for a GPU runs on a CPU, and notices what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import cuda


def test_every_part_runs_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    parts = [part for part in cuda.PARTS if part != "tests"]
    assert cuda.main(["--device", "cpu", "--tiny", "--here", "--parts", *parts]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(cuda.MARK)]
    rows = [json.loads(line.removeprefix(cuda.MARK)) for line in lines]
    assert [row for row in rows if "error" in row or row.get("equal") is False] == []
    assert sum(row.get("equal") is True for row in rows) >= 15


def test_a_part_that_fails_is_an_error_in_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    arguments = ["--device", "cuda:99", "--tiny", "--parts", "machine", "--out", str(out), "--budget", "60"]
    assert cuda.main(arguments) == 1
    rows = json.loads(out.read_text())
    assert rows
    assert all(row["part"] == "machine" and "error" in row for row in rows)


def test_differences_are_judged() -> None:
    row: cuda.Row = {}
    cuda.compare(row, torch.tensor([1.0]), torch.tensor([1.1]), 0.05)
    assert row["equal"] is False
    cuda.compare(row, torch.tensor([1.0]), torch.tensor([float("nan")]), 0.05)
    assert row["equal"] is False
    cuda.compare_labels(row, 0.9991, 0.999)
    assert row["equal"] is True
