from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pixaff.errors import CheckpointError, FormatError
from pixaff.io import records
from pixaff.io.records import entry, parse_json, read_json
from pixaff.models.bundle import load_model
from pixaff.stages.batch.record import read_record
from pixaff.stages.info import info
from pixaff.stages.training.metrics import CURVE, METRICS, draw_curve, keep_records, read_records

DEEP = "[" * 200_000
BELOW = "[" * 100 + "]" * 100  # what json reads, and cannot write with an indent


def test_json_of_bounded_depth() -> None:
    assert parse_json('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    assert parse_json(b"3") == 3
    nested = "[" * records.DEEPEST + "]" * records.DEEPEST
    assert parse_json(nested) is not None
    for text in (DEEP, BELOW, f"[{nested}]", "{", b"\xff", "1" * 5000, ""):
        with pytest.raises(ValueError, match=r"."):
            parse_json(text)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (DEEP, r"no valid JSON .brackets inside brackets"),
        ("[1]", "found a list, expected a note"),
        ("3", "found 3, expected a note"),
        ('"' + "x" * 100_000 + '"', r"found \"xxx[x.]*\", expected a note"),
        ("{" + "x" * 100_000, "no valid JSON"),
        ("\x00\x1b[2J", "no valid JSON"),
        (" " * 70, "no valid JSON"),
    ],
)
def test_a_file_that_is_no_record_is_named(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"a\.json: .*{words}.* .mend it") as caught:
        read_json(tmp_path / "a.json", "a note", CheckpointError, "mend it")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_a_file_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "a.json", "a note")
    with pytest.raises(FormatError, match="found a folder, expected a file"):
        read_json(tmp_path, "a note")
    (tmp_path / "a.json").write_text("{}")
    assert read_json(tmp_path / "a.json", "a note") == {}
    monkeypatch.setattr(records, "MOST_BYTES", 1)
    with pytest.raises(FormatError, match="found more than 0 MiB"):
        read_json(tmp_path / "a.json", "a note")


def test_entries_are_there_and_of_a_type(tmp_path: Path) -> None:
    record: dict[str, Any] = {"a": "x", "b": 3, "c": True, "d": 2.5, "e": {}, "f": 10**400, "g": None}
    path = tmp_path / "a.json"
    assert entry(record, "a", str, path) == "x"
    assert entry(record, "b", float, path) == 3.0
    assert entry(record, "c", bool, path) is True
    for name, kind, words in (
        ("z", str, 'found no "z" in it'),
        ("a", int, 'found "x" as "a", expected a whole number'),
        ("c", int, 'found true as "c", expected a whole number'),
        ("b", str, 'found 3 as "b", expected a string'),
        ("e", list, 'found an object as "e", expected a list'),
        ("g", dict, 'found null as "g", expected an object'),
        ("f", float, r'found 1000*\.\.\.0* as "f", expected a number'),
    ):
        with pytest.raises(FormatError, match=rf"a\.json: {words}"):
            entry(record, name, kind, path)


MODEL = {"format": 1, "classes": ["cat"], "settings": {"cam": "lite_cam", "affinity": "lite_affinity"}}


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        "[]",
        "3",
        "{}",
        json.dumps({**MODEL, "format": "1"}),
        json.dumps({**MODEL, "classes": 5}),
        json.dumps({**MODEL, "classes": [1]}),
        json.dumps({**MODEL, "classes": []}),
        json.dumps({**MODEL, "settings": 5}),
        json.dumps({**MODEL, "settings": {"cam": 0, "affinity": []}}),
        json.dumps({**MODEL, "settings": {"affinity": []}}),
        json.dumps({**MODEL, "settings": {"preset": {}}}),
        json.dumps({**MODEL, "settings": {"alpha": "x" * 100_000}}),
        json.dumps({**MODEL, "settings": {"alpha": {}}}),
        json.dumps({**MODEL, "settings": {"scales": 3}}),
        json.dumps({**MODEL, "settings": {"x" * 1000: 3}}),
    ],
)
def test_case_records_that_are_odd_of_a_model(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"model\.json: ") as caught:
        load_model(tmp_path)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_case_records_that_are_odd_in_info(tmp_path: Path) -> None:
    for content in (DEEP, BELOW, "3"):
        (tmp_path / "model.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"model\.json: .*expected the record of a model"):
            info(tmp_path)
        (tmp_path / "model.json").unlink()
        (tmp_path / "run.json").write_text(content)
        assert info(tmp_path)["kind"] == "folder"


def test_case_records_that_are_odd_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, **options: Any) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be read: Permission denied"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", [DEEP, BELOW, "[]", '{"settings": 5}', '{"command": "cam"}', "\x00"])
def test_case_records_that_are_odd_of_a_run(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    assert read_record(tmp_path) is None


def test_case_records_that_are_odd_of_a_training(tmp_path: Path) -> None:
    good = [{"kind": "steps", "step": step, "epoch": 0, "lr": 0.1, "loss": 1.0} for step in (3, 6)]
    odd = ["123", "null", '{"kind": "steps"}', '{"step": 3}', DEEP, '{"kind": "steps", "step": 4, "loss": []}', "[3]"]
    lines = [json.dumps(good[0]), *odd, json.dumps(good[1]), json.dumps(good[1])[:20]]
    (tmp_path / METRICS).write_bytes("\n".join(lines).encode() + b"\n\xff\n")
    assert read_records(tmp_path) == good
    draw_curve(tmp_path)
    assert (tmp_path / CURVE).is_file()
    keep_records(tmp_path, 3)
    assert (tmp_path / METRICS).read_text() == json.dumps(good[0]) + "\n"
    (tmp_path / METRICS).write_text('{"kind": "steps", "step": 1}\n{"kind": "steps", "step": 2, "loss": NaN}\n')
    draw_curve(tmp_path)
    assert math.isnan(read_records(tmp_path)[1]["loss"])
