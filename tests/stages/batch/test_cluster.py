"""Runs on a Ray cluster: what a run without one writes, whatever happens to workers."""

from __future__ import annotations

import functools
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from packed_photos import tar_of
from PIL import Image
from s3_server import s3_bucket
from torch import Tensor
from toy_bundle import BLUE, RED, ToyCam, draw, toy_bundle, toy_segmenter, use_toy

from pixaff.errors import PixaffError, UsageError
from pixaff.events import Event
from pixaff.io.addresses import listed, put, read_address
from pixaff.model_options import ModelOptions
from pixaff.run_options import RunOptions
from pixaff.stages.batch import cluster
from pixaff.stages.batch.cluster import loading, placed
from pixaff.stages.batch.ledger import read_ledger
from pixaff.stages.batch.record import read_record
from pixaff.stages.batch.report import Report
from pixaff.stages.batch.run import Outcome
from pixaff.stages.cam import cam
from pixaff.stages.crf import crf
from pixaff.stages.propagate import propagate
from pixaff.stages.segment import segment

TESTS = Path(__file__).parents[2]
KILLER = (1, 2, 3)
"""Colour of a photo that kills the process that computes it."""


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """A cluster of this machine, which all tests share; a run uses the connection that is there."""
    ray = pytest.importorskip("ray", reason="needs pixaff[ray]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_ADDRESS", "local")
        with cluster.connected("ray"):
            assert ray.cluster_resources()["CPU"] >= 1
            yield


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(10):
        draw(tmp_path / "photos" / f"{number}.png", (RED if number % 2 else BLUE, 8 + number, 8), size=(48, 64))
    (tmp_path / "labels.csv").write_text(
        "image,labels\n" + "".join(f"{n},{'red' if n % 2 else 'blue'}\n" for n in range(10))
    )
    return tmp_path / "photos"


def files(folder: Path) -> dict[str, str]:
    """Digests of all outputs, which are neither records nor hidden."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("run.json", "run.jsonl")
    }


def deadly(once: Path | None = None) -> type[ToyCam]:
    """A network that kills its process at a photo of the colour KILLER; with a file, at any photo, but only once."""

    class Deadly(ToyCam):
        def preprocess(self, image: NDArray[np.uint8]) -> Tensor:
            if once is None:
                dies = bool((np.asarray(image)[0, 0] == KILLER).all())
            else:
                dies = not once.exists()
                once.touch()
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().preprocess(image)

    return Deadly


def compared(plain: Path, shared: Path) -> None:
    """The records of two runs tell the same, but for the device."""
    one, other = read_record(plain), read_record(shared)
    assert one is not None
    assert other is not None
    assert other["device"] == "Ray workers, cpu"
    for key in ("settings", "images", "done", "failed", "versions"):
        assert other[key] == one[key], key


def test_a_run_on_a_cluster_writes_what_one_without_it_does(
    ray: None, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_toy(monkeypatch)
    (photos / "broken.png").write_bytes(b"no photo")
    options = {"labels": tmp_path / "labels.csv", "overlay": True, "save_scores": True}
    plain = propagate(photos, tmp_path / "plain", **options)
    shared = propagate(photos, tmp_path / "ray", cluster="ray", workers=2, **options)
    assert files(tmp_path / "ray") == files(tmp_path / "plain")
    assert len(files(tmp_path / "ray")) == 30
    assert sorted(shared.done) == sorted(plain.done)
    assert shared.failed == plain.failed
    assert len(plain.failed) == 1
    compared(tmp_path / "plain", tmp_path / "ray")
    # A run without a cluster continues it: the digest of the settings is the same.
    assert len(propagate(photos, tmp_path / "ray", **options).skipped) == 10


@pytest.mark.slow
@pytest.mark.parametrize("command", [cam, segment, crf])
def test_every_command_with_the_option_writes_the_same(
    command: Callable[..., Report], ray: None, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_toy(monkeypatch)
    monkeypatch.setattr("pixaff.loaders.segmenter_of", lambda *args, **options: toy_segmenter())
    monkeypatch.chdir(tmp_path)  # paths are relative to it, in the workers too
    cam("photos", "cams")
    further = {"cams": "cams"} if command is crf else {}
    command("photos", out="plain", **further)
    report = command("photos", out="ray", cluster="ray", workers=2, **further)
    assert report.ok
    assert files(Path("ray")) == files(Path("plain"))
    assert len(files(Path("ray"))) == 20 if command is crf else 10
    compared(Path("plain"), Path("ray"))


@pytest.mark.slow
def test_case_a_photo_that_kills_its_worker_costs_itself_alone(
    ray: None, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_toy(monkeypatch)
    propagate(photos, tmp_path / "plain")
    Image.fromarray(np.full((48, 64, 3), KILLER, np.uint8)).save(photos / "4a.png")
    use_toy(monkeypatch, replace(toy_bundle(), cam=deadly()()))
    events: list[Event] = []
    report = propagate(photos, tmp_path / "ray", cluster="ray", workers=2, report=events.append)
    ((name, reason),) = report.failed
    assert name == "4a.png"
    assert f"{photos / '4a.png'}: its worker process died 3 times" in reason
    assert len(report.done) == len(set(report.done)) == 10
    assert files(tmp_path / "ray") == files(tmp_path / "plain")
    assert [event.kind for event in events].count("done") == 10
    assert any("a Ray worker died; " in event.text for event in events)


@pytest.mark.slow
def test_case_a_killed_worker_costs_nothing(
    ray: None, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_toy(monkeypatch)
    cam(photos, tmp_path / "plain")
    use_toy(monkeypatch, replace(toy_bundle(), cam=deadly(tmp_path / "died")()))
    report = cam(photos, tmp_path / "ray", cluster="ray", workers=1)
    assert (tmp_path / "died").exists()
    assert report.ok
    assert len(report.done) == len(set(report.done)) == 10
    assert files(tmp_path / "ray") == files(tmp_path / "plain")
    lines = [line for line in read_ledger(tmp_path / "ray").images.values() if line["status"] == "done"]
    assert len(lines) == 10


@pytest.mark.slow
def test_case_ctrl_c_leaves_nothing_half_done(photos: Path, tmp_path: Path) -> None:
    """The whole process group is told, as a terminal does; with the embedded model and a cluster of the run's own."""
    pytest.importorskip("ray", reason="needs pixaff[ray]")
    command = [sys.executable, "-m", "pixaff", "propagate", str(photos), "-o", str(tmp_path / "out")]
    how = ["--cluster", "ray", "--workers", "1", "--num-cpus", "1"]
    run = subprocess.Popen(
        [*command, *how],
        env={**os.environ, "RAY_ADDRESS": "local"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline().strip().endswith(".png")
    os.killpg(run.pid, signal.SIGINT)
    _, words = run.communicate(timeout=60)
    assert run.returncode == 130, words
    assert "the same command continues with the rest" in words
    assert "Traceback" not in words
    assert not _left(run.pid)
    done = [path for path in (tmp_path / "out").iterdir() if path.suffix == ".png"]
    assert not any(path.name.startswith(".") for path in done)
    assert 0 < len(done) < 10
    subprocess.run([*command, "--quiet"], check=True, capture_output=True)
    subprocess.run([*command[:-1], str(tmp_path / "plain"), "--quiet"], check=True, capture_output=True)
    assert files(tmp_path / "out") == files(tmp_path / "plain")


@pytest.mark.slow
def test_photos_and_shards_in_a_store_give_the_same(tmp_path: Path) -> None:
    """With the embedded model, and an S3 server as all that connects the workers with the command."""
    pytest.importorskip("ray", reason="needs pixaff[ray]")
    for number in range(9):
        draw(tmp_path / "photos" / f"{number}.png", (RED if number % 2 else BLUE, 8 + number, 8), size=(48, 64))
    photos = sorted((tmp_path / "photos").iterdir())
    for number in range(3):
        members = {file.name: file.read_bytes() for file in photos[number::3]}
        tar_of(tmp_path / "shards" / f"{number}.tar", members)
    (tmp_path / "list.txt").write_text("".join(f"{number}\n" for number in range(8)))

    def run(*words: object) -> None:
        command = [sys.executable, "-m", "pixaff", *map(str, words), "--quiet"]
        done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    (tmp_path / "scratch").mkdir()
    own = {"RAY_ADDRESS": "local", "RAY_TMPDIR": tempfile.gettempdir(), "TMPDIR": str(tmp_path / "scratch")}
    with s3_bucket() as store:
        for file in [*photos, *(tmp_path / "shards").iterdir()]:
            put(f"{store}/{file.relative_to(tmp_path).as_posix()}", file)
        how = ("--cluster", "ray", "--workers", 2, "--num-cpus", 1)
        for command, name, further in (
            ("propagate", "photos", ["--overlay"]),
            ("cam", "shards", ["--list", tmp_path / "list.txt"]),
            ("propagate", "shards", ["--instances"]),
        ):
            out, inputs = f"{command}-{name}", "photos" if name == "photos" else "shards/*.tar"
            run(command, tmp_path / name, "-o", tmp_path / out, *further)
            run(command, f"{store}/{inputs}", "-o", f"{store}/{out}", *further, *how)
            expected = {key: digest for key, digest in files(tmp_path / out).items() if not _tells_times(key)}
            found = {name: read_address(f"{store}/{out}/{name}") for name in listed(f"{store}/{out}", recursive=True)}
            assert expected == {
                name: hashlib.sha256(data).hexdigest()
                for name, data in found.items()
                if not _tells_times(name) and not name.startswith("run.")
            }
            assert len(expected) == (18 if name == "photos" else 6 if "--instances" in further else 3)
    assert not list((tmp_path / "scratch").glob("pixaff-*"))


def _tells_times(name: str) -> bool:
    """Whether a file is the record of a shard."""
    return name.endswith(".json") and "/" not in name


def _left(session: int) -> list[str]:
    """Processes of a session that are still there a few seconds after its end."""
    for _ in range(50):
        there = subprocess.run(["ps", "-o", "pid=,args=", "-s", str(session)], capture_output=True, text=True).stdout
        if not (found := [line for line in there.splitlines() if "<defunct>" not in line]):
            return []
        time.sleep(0.1)
    return found


class RayError(Exception):
    """What a fake cluster raises for a worker that died."""


class RayTaskError(RayError):
    """The same for code that raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class FakeRay:
    """Workers in this process, which die at the photos named "deadly" and where a test says so.

    Attributes:
        chunks: Sizes of the chunks that were begun.
        hired, dead: Number of workers, and of those that died.
        killed: Workers that were ended from outside.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, cpus: int = 2, start: Exception | None = None) -> None:
        self.cpus, self.start = cpus, start
        self.chunks: list[int] = []
        self.hired, self.dead, self.killed = 0, 0, []
        self.place: dict[str, object] = {}

    def nodes(self) -> list[dict[str, object]]:
        return [{"Alive": True, "Resources": {"CPU": float(self.cpus)}}, {"Alive": False, "Resources": {"CPU": 64.0}}]

    def put(self, value: bytes) -> bytes:
        return value

    def remote(self, kind: type) -> FakeRay:
        return self

    def options(self, **place: object) -> SimpleNamespace:
        self.hired, self.place = self.hired + 1, place
        return SimpleNamespace(remote=lambda: FakeActor(self))

    def wait(self, calls: list[object], num_returns: int = 1, timeout: float = 0) -> tuple[list[object], list[object]]:
        return calls[:num_returns], calls[num_returns:]

    def get(self, call: Callable[[], object]) -> object:
        return call()

    def kill(self, actor: FakeActor, no_restart: bool) -> None:
        self.killed.append(actor)


class FakeActor:
    def __init__(self, ray: FakeRay) -> None:
        self.ray, self.worker = ray, cluster.Worker()
        for name in ("load", "begin", "go_on", "end"):
            setattr(self, name, SimpleNamespace(remote=functools.partial(functools.partial, self.call, name)))

    def call(self, name: str, *arguments: Any) -> object:
        if name == "load":
            if self.ray.start is not None:
                raise self.ray.start
            self.worker.work = pretend
            return None
        if name == "begin":
            self.ray.chunks.append(len(arguments[0]))
        try:
            return getattr(self.worker, name)(*arguments)
        except RayError:
            self.ray.dead += 1
            raise


def pretend(photos: Sequence[Path], known: Callable[[Path], Any]) -> Generator[tuple[Path, Outcome], None, None]:
    for photo in photos:
        if photo.name == "deadly":
            raise RayError("The actor is dead because its worker process has died. Worker exit detail: End of file. x")
        yield photo, (ValueError("odd") if photo.name == "odd" else {"known": known(photo)})


def crew_of(
    ray: FakeRay,
    photos: list[Path],
    events: list[Event] | None = None,
    largest: int = cluster.LARGEST,
    **options: Any,
) -> cluster._Crew:
    """A crew that knows the length of each photo's name, but for that of "unknown"."""

    def known(photo: Path) -> int:
        if photo.name == "unknown":
            raise PixaffError("no label")
        return len(photo.name)

    tell = (events if events is not None else []).append
    run = SimpleNamespace(**{"workers": None, "num_cpus": None, "num_gpus": 0.0, **options}, report=tell)
    return cluster._Crew(ray, b"", photos, known, run, "test", 4, largest)


def test_every_photo_has_one_outcome_and_chunks_fit_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, expected in {5: [3, 2], 200: None, 3000: None}.items():
        ray = FakeRay()
        photos = [Path(f"{number}") for number in range(count)]
        told = list(crew_of(ray, photos, workers=2).work())
        assert sorted(photo for photo, _ in told) == sorted(photos)
        assert all(outcome == {"known": len(photo.name)} for photo, outcome in told)
        assert expected is None or ray.chunks == expected
        assert max(ray.chunks) <= cluster.LARGEST
        assert min(ray.chunks[:-1]) >= min(cluster.LAST, count // 2)
    assert ray.chunks[0] == cluster.LARGEST
    monkeypatch.setattr(cluster, "SECONDS", 0.0)  # a worker tells of every photo by itself
    assert len(list(crew_of(FakeRay(), photos[:100], workers=2).work())) == 100
    assert len(list(crew_of(one := FakeRay(), photos[:100], workers=2, largest=1).work())) == 100
    assert one.chunks == [1] * 100


def test_threads_of_a_worker_share_one_store_of_memory_unless_the_user_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    ray = FakeRay()
    assert len(list(crew_of(ray, [Path("a")]).work())) == 1
    assert ray.place["runtime_env"] == {"env_vars": {"MALLOC_ARENA_MAX": "1"}}
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert len(list(crew_of(ray, [Path("a")]).work())) == 1
    assert "runtime_env" not in ray.place


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_deadly_photos_are_found_by_halves(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "SECONDS", seconds)
    ray, events = FakeRay(), []
    names = [*map(str, range(90)), "odd", "unknown"]
    photos = [*map(Path, names[:40]), Path("a/deadly"), *map(Path, names[40:]), Path("b/deadly")]
    crew = crew_of(ray, photos, events, workers=2)
    told = list(crew.work())
    outcomes = dict(told)
    assert len(told) == len(outcomes) == len(photos)
    failed = {str(photo): str(outcome) for photo, outcome in outcomes.items() if isinstance(outcome, Exception)}
    assert failed == {
        "odd": "ValueError: odd",
        "unknown": "no label",
        **{
            name: f"{name}: its worker process died 3 times (End of file) (out of memory? give each worker more of it)"
            for name in ("a/deadly", "b/deadly")
        },
    }
    assert ray.dead <= 2 * (6 + cluster.ALONE)
    assert all(event.kind == "note" and event.text.startswith("a Ray worker died; ") for event in events)
    crew.stop()
    assert len(ray.killed) == ray.hired >= ray.dead + 1
    assert crew.hired == []


def test_workers_that_cannot_begin_end_the_run() -> None:
    photos = [Path(f"{number}") for number in range(9)]
    cases = {
        "5 Ray workers died before the model was loaded: no memory": RayError("no memory"),
        "a Ray worker cannot load the model: ImportError: no torch": RayTaskError(ImportError("no torch")),
        "another version": RayTaskError(PixaffError("another version")),
    }
    for words, error in cases.items():
        with pytest.raises(PixaffError, match=words):
            list(crew_of(FakeRay(start=error), photos).work())


@pytest.mark.parametrize(
    ("options", "size"),
    [({}, (2, 4)), ({"workers": 8}, (8, 1)), ({"num_cpus": 2}, (4, 2)), ({"workers": 3, "num_cpus": 4}, (3, 4))],
)
def test_workers_share_the_processors(options: dict[str, int], size: tuple[int, int]) -> None:
    photos = [Path(f"{number}") for number in range(99)]
    crew = crew_of(FakeRay(cpus=8), photos, **options)
    assert (crew.count, crew.cpus) == size
    assert crew_of(FakeRay(cpus=8), photos[:1]).count == 1


def test_the_options_say_where_the_model_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr(cluster, "_has_gpus", lambda address: address == "ray://gpus:10001")
    of, model = RunOptions, ModelOptions()
    assert placed(of(device="auto"), model) == of(device="auto")
    for options, device, gpus in (
        ({}, "cpu", 0),
        ({"device": "cuda"}, "cuda", 1),
        ({"num_gpus": 0.25}, "cuda", 0.25),
        ({"cluster": "ray://gpus:10001"}, "cuda", 1),
        ({"cluster": "ray://gpus:10001", "device": "cpu"}, "cpu", 0),
    ):
        run = placed(of(**{"cluster": "ray", **options}), model)
        assert (run.device, run.num_gpus) == (device, gpus)
        assert loading(run, model) == (ModelOptions(inference="torch" if gpus else "auto"), "cpu")
    for options, wrong in (({"device": "cuda:1"}, {}), ({"device": "cpu", "num_gpus": 1}, {}),
                           ({"device": "cuda", "num_gpus": 0}, {}), ({"num_gpus": 1}, {"precision": "auto"}),
                           ({"num_gpus": 1}, {"inference": "onnx"}),
                           ({"num_gpus": 1}, {"inference": "int8"})):  # fmt: skip
        with pytest.raises(UsageError):
            placed(of(cluster="ray", **options), ModelOptions(**wrong))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, photos: Path) -> None:
    with pytest.raises(UsageError, match=r"cluster is 'dask', expected ray or ray://HOST:PORT"):
        RunOptions(cluster="dask")
    with pytest.raises(UsageError, match="no cluster"):
        placed(RunOptions(num_cpus=2))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"ray is not installed \(pip install 'pixaff\[ray\]'\)"):
        propagate(photos, cluster="ray")


def test_only_a_run_on_a_cluster_imports_ray() -> None:
    code = "import sys, pixaff.cli.app, pixaff.stages.batch.executors; pixaff.propagate; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
