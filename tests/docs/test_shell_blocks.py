"""Every shell block of the documentation is run here or in another test, or says in a comment why not.

The blocks of a page run one after the other in one folder, which holds what the pages take for granted: photos, labels,
ground truth, CAMs. The networks are toys that see colours. What is not run is parsed: its options exist and have values
of the right kind. A block is left out by a line before it, `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import toy_bundle
from torch import Tensor
from toy_set import TinySeg, use_tiny
from typer.main import get_command
from typer.testing import CliRunner

from pixaff.cli.app import app
from pixaff.io.cams import write_cams
from pixaff.io.checkpoints import write_state_dict
from pixaff.io.labels import VOC_CLASSES
from pixaff.io.masks import write_mask

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = {"docs/tutorial.md": "test_tutorial.py"}
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<kind>bash|sh|shell|console)\n(?P<text>.*?)```", re.DOTALL
)
PYTHON = re.compile(BLOCK.pattern.replace("bash|", "bash|python|"), re.DOTALL)
WITH_PYTHON = ("docs/index.md", "docs/own-cams.md", "docs/notebook.md")
"""Pages of which the Python is run here, too."""
INDENTED = re.compile(r"(?<=\n\n)    (?:pixaff|pip|python|pytest) .*")
CAT, PERSON = 7, 14


class Block(NamedTuple):
    reason: str | None
    text: str
    kind: str = "bash"

    @property
    def commands(self) -> list[str]:
        return re.sub(r"\\\n\s*", "", self.text).splitlines()


def blocks_of(page: Path) -> list[Block]:
    pattern = PYTHON if str(page.relative_to(ROOT)) in WITH_PYTHON else BLOCK
    return [Block(one["reason"], one["text"], one["kind"]) for one in pattern.finditer(page.read_text("utf-8"))]


BLOCKS = {str(page.relative_to(ROOT)): blocks for page in PAGES if (blocks := blocks_of(page))}
RUN = {page: [one for one in blocks if not one.reason] for page, blocks in BLOCKS.items() if page not in ELSEWHERE}


class VocCam(toy_bundle.ToyCam):
    """Red is a cat, blue a person."""

    def cam(self, x: Tensor) -> Tensor:
        maps = super().cam(x)
        every = maps.new_zeros(len(maps), len(VOC_CLASSES), *maps.shape[2:])
        every[:, [CAT, PERSON]] = maps
        return every


def draw_world(folder: Path) -> None:
    """What the pages take for granted."""
    names = {"chelsea": (CAT,), "astronaut": (PERSON,), "grace_hopper": (PERSON,), "2024-1": (CAT,), "val1": (CAT,)}
    rows = ["image,labels"]
    for name, classes in names.items():
        colour = toy_bundle.RED if classes == (CAT,) else toy_bundle.BLUE
        for place in ("photos", "my_photos", "more-photos", "more_photos"):
            (folder / place).mkdir(exist_ok=True)
            toy_bundle.draw(folder / place / f"{name}.jpg", (colour, 24, 40))
        mask = np.zeros((64, 96), np.uint8)
        mask[24:48, 40:64] = classes[0] + 1
        for place in ("gt",):
            (folder / place).mkdir(exist_ok=True)
            write_mask(folder / place / f"{name}.png", mask)
        cams = (mask > 0)[None].astype(np.float32)
        for place in ("cams", "their-cams", "their_cams", "crf/low"):
            (folder / place).mkdir(parents=True, exist_ok=True)
            write_cams(folder / place / f"{name}.npz", [classes[0] + 1], cams, (64, 96))
        rows.append(f"{name}.jpg,{';'.join(VOC_CLASSES[index] for index in classes)}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "pixaff.toml").write_text("[propagate]\nalpha = 2.0\n")
    (folder / "val.txt").write_text("val1\nchelsea\n")
    for name in ("few.txt", "train.txt"):
        (folder / name).write_text("chelsea\n")
    for name in ("accepted.json", "rejected.json"):
        (folder / name).write_text('{"images": ["chelsea.jpg"], "accepted": ["chelsea.jpg"], "rejected": []}')
    facts = {"network": "lite_seg", "classes": json.dumps(VOC_CLASSES), "size": "64"}
    write_state_dict(folder / "run" / "seg.safetensors", TinySeg(len(VOC_CLASSES)).state_dict(), metadata=facts)


def run(line: str) -> None:
    """One line of a block: a command of pixaff in this process, with what is before a pipe as its input."""
    before, _, command = line.rpartition(" | ")
    words = shlex.split(command, comments=True)
    if not words:
        return
    if words[0] != "pixaff":
        subprocess.run(["sh", "-ec", line], check=True)
        return
    given = subprocess.run(["sh", "-c", before], capture_output=True, text=True, check=True).stdout if before else None
    done = CliRunner().invoke(app, words[1:], input=given)
    assert done.exit_code == 0, f"{line}\n{done.output}"


def use_voc_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)
    toy_bundle.use_toy(monkeypatch, replace(toy_bundle.toy_bundle(walk="irn"), cam=VocCam(), classes=VOC_CLASSES))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    draw_world(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        use_voc_toy(patch)
        run("pixaff propagate photos/ --labels labels.csv --out masks/ --save-scores")
        run("pixaff export masks/ --to cvat --photos photos/ --out corrected/")
        shutil.move("corrected/masks.zip", "corrected.zip")
        shutil.rmtree("corrected")
    return folder


@pytest.mark.parametrize("page", [page for page, blocks in RUN.items() if blocks])
def test_blocks_run(page: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(world, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    use_voc_toy(monkeypatch)
    names: dict[str, object] = {"__name__": "page"}
    for block in RUN[page]:
        if block.kind == "python":
            exec(compile(block.text, page, "exec"), names)
            continue
        for line in block.commands:
            run(line)


@pytest.mark.parametrize("page", BLOCKS)
def test_what_is_not_run_is_understood(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options and values, without running; variables of the shell stand for words."""
    group = get_command(app)
    for block in BLOCKS[page]:
        assert block.reason is None or len(block.reason) > 10
        for line in block.commands if block.reason else ():
            for part in re.split(r" (?:\||&&) ", line):
                words = shlex.split(part.replace("$", ""), comments=True)
                if words[:1] == ["pixaff"] and words[1:2] != ["--install-completion"]:
                    command = group.commands[words[1]]  # type: ignore[attr-defined]
                    command.make_context(words[1], words[2:], resilient_parsing=False).close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_shell_blocks_are_fenced(page: Path) -> None:
    """Indented ones would be missed."""
    assert INDENTED.findall(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)) == []


def test_other_tests_run_the_other_pages() -> None:
    assert all((Path(__file__).parent / test).is_file() for test in ELSEWHERE.values())
    assert sum(len(blocks) for blocks in RUN.values()) > 20
