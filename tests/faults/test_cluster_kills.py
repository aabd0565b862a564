"""Kill -9 of workers, the command and raylets of a Ray cluster, at random moments: nothing is lost or done twice."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from faults.commands import TOO_LONG, World, kill, outputs, run, start, wait
from packed_photos import tar_of
from toy_set import write_set

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
PHOTOS = 200
SHARDS = 20
KINDS = ("worker", "command", "raylet")


class Machines:
    """A cluster on this machine: a head without processors, and nodes with one each, as `ray start` makes them."""

    def __init__(self, nodes: int) -> None:
        self.nodes, self.folder = nodes, Path(tempfile.mkdtemp(prefix="ray"))  # short: sockets have short paths
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        (self.folder / "token").write_text(secrets.token_hex(32))
        paths = [str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")]
        self.own = {
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "PYTHONPATH": os.pathsep.join(paths),
        }

    def start(self) -> None:
        self._start("--head", "--port", self.address.partition(":")[2], "--num-cpus", "0", "--temp-dir", self.folder)
        self.head = self.raylets()
        self.complete()

    def complete(self) -> None:
        """Start nodes in place of those that were killed."""
        for _ in range(self.nodes - len(self.raylets() - self.head)):
            self._start("--address", self.address, "--num-cpus", "1")

    def raylets(self) -> set[int]:
        return {process for process, words in _processes() if "raylet/raylet" in words and str(self.folder) in words}

    def workers(self) -> list[int]:
        """Processes that have the actors of a run."""
        raylets, found = self.raylets(), list(_processes())
        return [process for process, words in found if words.startswith("ray::Worker") and _parent(process) in raylets]

    def stop(self) -> None:
        raylets = self.raylets()
        for process, words in list(_processes()):
            if str(self.folder) in words or _parent(process) in raylets:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, *options: object) -> None:
        ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--disable-usage-stats"]
        small = ["--object-store-memory", "80000000", "--node-ip-address", "127.0.0.1", "--include-dashboard", "false"]
        if "--head" not in options:
            small = small[:-2]
        line, environment = [*ray, *map(str, options), *small], {**os.environ, **self.own}
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=TOO_LONG)
        assert done.returncode == 0, done.stdout + done.stderr


def _processes() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield int(entry.name), words


def _parent(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _until_begun(process: int, out: Path) -> int | None:
    """Wait for the first output; the exit status if the process ends before."""
    deadline = time.monotonic() + TOO_LONG
    while time.monotonic() < deadline and not any(path for kind in ("png", "tar") for path in out.glob(f"*.{kind}")):
        if (ended := wait(process, 0.05)) is not None:
            return ended
    return None


def _struck(
    machines: Machines,
    process: int,
    kind: str,
    out: Path,
    duration: float,
    chance: random.Random,
    counts: Counter[str],
) -> int | None:
    """Kill what is named at one or two moments; the exit status of the command, None where it hangs."""
    ended: int | None = None
    for _ in range(chance.choice((1, 1, 2))):
        if chance.random() < 0.75:  # while photos are computed; else at any moment, also of the start
            ended = _until_begun(process, out)
            ended = wait(process, chance.uniform(0, 0.3) * duration) if ended is None else ended
        else:
            ended = wait(process, chance.uniform(0.2, 0.8) * duration)
        targets = {
            "worker": machines.workers(),
            "command": [process],
            "raylet": sorted(machines.raylets() - machines.head),
        }[kind]
        if ended is not None:
            counts["too late"] += 1
            break
        if not targets:
            counts["too early"] += 1
            continue
        with suppress(ProcessLookupError):
            os.kill(chance.choice(targets), signal.SIGKILL)
            counts[f"{kind}s killed"] += 1
        if kind == "command":
            break
        if kind == "raylet":
            machines.complete()
    status = ended if ended is not None else wait(process, TOO_LONG)
    kill(process)
    return status


@pytest.fixture
def machines() -> Iterator[Machines]:
    if importlib.util.find_spec("ray") is None:  # imported in the processes of the commands, not in this one
        pytest.skip("needs pixaff[ray]")
    made = Machines(2)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_kills_on_a_cluster_lose_nothing(
    machines: Machines,
    world: World,
    tmp_path: Path,
    rounds: int,
    seed: int,
    counts: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in machines.own.items():
        monkeypatch.setenv(name, value)
    photos, labels, _ = write_set(tmp_path / "set", PHOTOS)
    model = ["--model", str(world.fit), "--labels", str(labels), "--device", "cpu", "--overlay", "--save-scores"]

    def command(out: Path) -> list[str]:
        return ["propagate", str(photos), "--out", str(out), *model]

    shared = ["--cluster", "ray", "--workers", "2", "--num-cpus", "1"]
    assert run(command(tmp_path / "peace"), tmp_path / "log") == 0, (tmp_path / "log").read_text()
    expected, chance = outputs(tmp_path / "peace"), random.Random(seed)
    began = time.monotonic()
    assert run([*command(tmp_path / "whole"), *shared], tmp_path / "log") == 0, (tmp_path / "log").read_text()
    duration = time.monotonic() - began
    assert outputs(tmp_path / "whole") == expected
    for number in range(rounds):
        machines.complete()
        kind, out, log = KINDS[number % len(KINDS)], tmp_path / f"out{number}", tmp_path / f"{number}.log"
        status = _struck(machines, start([*command(out), *shared], log), kind, out, duration, chance, counts)
        assert status is not None, f"round {number}: hangs: {log.read_text()}"
        if kind != "command":  # whatever became of workers, this run did all
            assert status == 0, f"round {number}: {kind}: {log.read_text()}"
            lines = [json.loads(line) for line in (out / "run.jsonl").read_text().splitlines()]
            done = Counter(line["image"] for line in lines if "image" in line)
            assert set(done.values()) == {1}, f"round {number}: twice: {done}"
            assert len(done) == PHOTOS
        again = [*command(out), *(shared if number % 2 else [])]
        assert run(again, log) == 0, f"round {number}: {log.read_text()}"
        # A killed worker may leave a hidden file, which the next process that writes into that folder removes.
        found = {path: facts for path, facts in outputs(out).items() if not Path(path).name.startswith(".pixaff-")}
        wrong = [path for path in {**expected, **found} if expected.get(path) != found.get(path)]
        assert not wrong, f"round {number}: {kind}: {wrong} differ"
        counts["equal"] += 1
        shutil.rmtree(out)
    assert counts["equal"] == rounds


def test_kills_on_a_cluster_lose_no_shard(
    machines: Machines, tmp_path: Path, rounds: int, seed: int, counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers load the embedded model themselves."""
    for name, value in machines.own.items():
        monkeypatch.setenv(name, value)
    photos = sorted(write_set(tmp_path / "set", PHOTOS)[0].iterdir())
    for number in range(SHARDS):
        members = {}
        for at, photo in enumerate(photos[number::SHARDS]):
            members |= {photo.name: photo.read_bytes(), f"{photo.stem}.cls": b"cat" if at % 2 else b"dog"}
        tar_of(tmp_path / "shards" / f"{number:02}.tar", members)

    def command(out: Path) -> list[str]:
        options = ["--labels", "inside", "--size", "96", "--device", "cpu"]
        return ["propagate", str(tmp_path / "shards"), "--out", str(out), *options]

    shared = ["--cluster", "ray", "--workers", "2", "--num-cpus", "1"]
    assert run(command(tmp_path / "peace"), tmp_path / "log") == 0, (tmp_path / "log").read_text()
    expected, chance = _packs(tmp_path / "peace"), random.Random(seed)
    assert len(expected) == 2 * SHARDS
    began = time.monotonic()
    assert run([*command(tmp_path / "whole"), *shared], tmp_path / "log") == 0, (tmp_path / "log").read_text()
    duration = time.monotonic() - began
    assert _packs(tmp_path / "whole") == expected
    for number in range(rounds):
        machines.complete()
        kind, out, log = KINDS[number % len(KINDS)], tmp_path / f"out{number}", tmp_path / f"{number}.log"
        status = _struck(machines, start([*command(out), *shared], log), kind, out, duration, chance, counts)
        assert status is not None, f"round {number}: hangs: {log.read_text()}"
        if kind != "command":
            assert status == 0, f"round {number}: {kind}: {log.read_text()}"
            assert _packs(out) == expected, f"round {number}: {kind}"
        assert run([*command(out), *(shared if number % 2 else [])], log) == 0, f"round {number}: {log.read_text()}"
        assert _packs(out) == expected, f"round {number}: {kind}"
        counts["equal"] += 1
        shutil.rmtree(out)
    assert counts["equal"] == rounds


def _packs(out: Path) -> dict[str, object]:
    """The packs, and what their records say of them."""
    found: dict[str, object] = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    for path in out.glob("[0-9]*.json"):
        record = json.loads(path.read_text())
        found[path.name] = [record.get(key) for key in ("images", "done", "failed", "bytes", "digest")]
    return found
