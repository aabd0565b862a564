"""The images of a run on a Ray cluster: workers hold the loaded model, this process hands out chunks of the images.

A worker is a Ray actor. It gets the very function that works through the images in a run without a cluster, with the
model in it, and calls it for one chunk of images after the other. Only that function writes outputs, and only this
process writes the ledger and the run record.

An image may be computed more than once, but its outputs are the same each time, and take their place as whole files. A
chunk whose worker died is halved and tried again, so that an image which kills its worker is found, and costs itself
alone.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from pixaff._version import __version__
from pixaff.allocation import ONE_STORE, chosen_by_the_user, default_workers, settle_process
from pixaff.errors import PixaffError, UsageError, counted, shortened
from pixaff.events import Event
from pixaff.model_options import ModelOptions
from pixaff.run_options import RunOptions
from pixaff.stages.batch.run import Outcome, describe

SMALLEST, LARGEST = 32, 256
"""Number of images in a chunk, if there are enough."""
SHARES, LAST = 4, 8
"""A chunk is a quarter of a worker's share of what is left; the last are smaller, so that all workers end together."""
ALONE = 3
"""Workers that an image may kill while they have no other, before it has failed."""
STARTS = 5
"""Workers that may die one after the other before any of them has loaded the model."""
CPUS = 4
"""Processors of a worker, at most, where nothing is said: each computes an image, with one copy of the model."""
SECONDS = 1.0
"""Time after which a worker tells what it has done."""
GRACE = 5.0
"""Seconds for a worker to end what it is at when the run is stopped."""
HELD_UP = 30.0
"""Seconds without a worker before a note says what the run waits for."""
STORE = 200_000_000
"""Bytes of Ray's object store where this process starts Ray: it holds the model, once."""

Run = TypeVar("Run", bound=RunOptions)
Work = Callable[[Sequence[Path], Callable[[Path], Any]], Generator[tuple[Path, Outcome], None, None]]
"""Works through images; the second argument tells what is known of each, such as its labels."""


def placed(run: Run, model: ModelOptions | None = None) -> Run:
    """The options of a run with its device settled: with a cluster, "cpu" or "cuda", as its workers will have.

    Raises:
        UsageError: The options contradict each other, or the model's are not for GPUs.
        PixaffError: The cluster cannot be reached.
    """
    if run.cluster is None:
        if run.num_cpus is not None or run.num_gpus is not None:
            raise UsageError("found num_cpus or num_gpus, but no cluster", "they are for the workers of --cluster ray")
        return run
    kind = run.device.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda") or ":" in run.device:
        raise UsageError(f"found --device {run.device}, expected auto, cpu or cuda", "Ray chooses which GPU")
    gpus = run.num_gpus
    if kind == "cpu" and gpus:
        raise UsageError(f"found --device cpu and --num-gpus {gpus:g}", "give one of them")
    if gpus is None:
        gpus = 0.0 if kind == "cpu" else 1.0 if kind == "cuda" or _has_gpus(run.cluster) else 0.0
    if kind == "cuda" and not gpus:
        raise UsageError("found --device cuda and --num-gpus 0", "give one of them")
    if gpus and model is not None and model.precision == "auto":
        raise UsageError("precision auto is not settled for GPUs of a cluster", "choose --precision fp32 or bf16")
    if gpus and model is not None and model.inference in ("onnx", "int8"):
        raise UsageError(
            f"found --inference {model.inference}, but ONNX Runtime computes on the CPU", "use --inference torch"
        )
    return replace(run, device="cuda" if gpus else "cpu", num_gpus=gpus)


def loading(run: RunOptions, model: ModelOptions) -> tuple[ModelOptions, str]:
    """Model options and device with which this process loads the model: on the CPU, if workers are to compute."""
    if run.cluster is None:
        return model, run.device
    return (replace(model, inference="torch") if run.num_gpus else model), "cpu"


def words_for(run: RunOptions, words: str) -> str:
    """The device in words, for the record."""
    return words if run.cluster is None else f"Ray workers, {'cuda' if run.num_gpus else 'cpu'}"


def on_cluster(
    photos: Sequence[Path],
    begin: Callable[[str], Work],
    known: Callable[[Path], Any],
    options: RunOptions,
    *,
    command: str,
    cpus: int,
    largest: int = LARGEST,
    unit: str = "photo",
) -> Generator[tuple[Path, Outcome], None, None]:
    """Work through images on a Ray cluster.

    Args:
        photos: The images.
        begin: Called once by each worker, with "cpu" or "cuda"; returns the work. Ray pickles functions within
            functions, too.
        known: Called in this process; what it returns, or raises, is sent with the image.
        options: Those of the run, as `placed` returns them.
        command: Name of the command, for its events.
        cpus: Processors of a worker where the options do not tell.
        largest: Number of images in a chunk, at most.
        unit: What messages call an image; the "images" may be shards.

    Yields:
        An image and its outcome, in the order of completion.

    Raises:
        PixaffError: The cluster cannot be reached, or its workers cannot work.
    """
    ray = _ray()
    packed = ray.cloudpickle.dumps(begin)
    with connected(str(options.cluster), len(packed)):
        crew = _Crew(ray, packed, photos, known, options, command, cpus, largest, unit)
        try:
            yield from crew.work()
        except ray.exceptions.RayTaskError:  # a mistake in the code of a worker
            raise
        except (ConnectionError, ray.exceptions.RayError) as error:
            raise PixaffError(f"the Ray cluster is gone: {_reason(error)}", "the same command continues") from error
        finally:
            crew.stop()


@contextmanager
def connected(address: str, size: int = 0) -> Iterator[None]:
    """Be connected to a cluster; one that was there already is left as it is, and so is a connection.

    Args:
        address: "ray" for the cluster of this machine, which is started where there is none; or "ray://HOST:PORT".
        size: Bytes that a started one is to hold.

    Raises:
        PixaffError: It cannot be reached.
    """
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address != "ray":
            ray.init(address, **quiet)
        elif not _join(ray, quiet):
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # reports to its makers otherwise
            room = max(STORE, 2 * size)
            ray.init("local", num_cpus=default_workers(), include_dashboard=False, object_store_memory=room, **quiet)
    except PixaffError:
        raise
    except Exception as error:  # Ray's own have no common base here: ConnectionError, RuntimeError, ValueError, ...
        ray.shutdown()
        token = "is it HOST:10001 of the head node? clusters of Ray 2.60 want RAY_AUTH_MODE=token and the head's token"
        hint = "start it with: ray start --head" if address == "ray" else token
        raise PixaffError(f"cannot reach the Ray cluster {shortened(address)}: {_reason(error)}", hint) from error
    # Ray prints what happens to workers on standard output, which belongs to the data.
    inner: Any = importlib.import_module("ray._private.worker")
    inner._worker_logs_enabled = False
    try:
        yield
    finally:
        ray.shutdown()


def _join(ray: Any, quiet: dict[str, Any]) -> bool:
    """Connect to the cluster of this machine, or to that of RAY_ADDRESS; False if there is none, or none is wanted."""
    if os.environ.get("RAY_ADDRESS") == "local":
        return False
    try:
        ray.init("auto", **quiet)
    except ConnectionError:
        if os.environ.get("RAY_ADDRESS"):
            raise
        return False
    return True


def _has_gpus(address: str) -> bool:
    ray = _ray()
    if address == "ray" and not ray.is_initialized():
        if not _join(ray, {"log_to_driver": False, "logging_level": "ERROR"}):  # it will be started here
            import torch

            return torch.cuda.is_available()
        found = ray.cluster_resources().get("GPU", 0)
        ray.shutdown()
        return found > 0
    with connected(address):
        return bool(ray.cluster_resources().get("GPU", 0) > 0)


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UsageError(f"ray cannot be imported: {shortened(error)}", "pip install 'pixaff[ray]'") from error


def _reason(error: BaseException) -> str:
    """The first words of what Ray says, which is long."""
    words = " ".join(str(error).split())
    for begin in ("The actor is dead because ", "Worker exit detail: "):
        words = words.partition(begin)[2] or words
    return shortened(words.partition(". ")[0] or type(error).__name__, 200)


@dataclass
class _Piece:
    """Images that are given to a worker together.

    Attributes:
        photos: The images, with what is known of each.
        deaths: How many workers died while they had this one image alone.
    """

    photos: dict[Path, Any]
    deaths: int = 0

    def halves(self) -> list[_Piece]:
        each = list(self.photos.items())
        middle = (len(each) + 1) // 2
        return [_Piece(dict(each[:middle])), _Piece(dict(each[middle:]))]


@dataclass
class _Hired:
    """A worker as this process knows it.

    Attributes:
        actor: Its handle.
        call: What it was asked last; an object reference.
        loaded: Whether it has the model.
        piece: The images that it has not told of.
    """

    actor: Any
    call: Any
    loaded: bool = False
    piece: _Piece = field(default_factory=lambda: _Piece({}))


class _Crew:
    """The workers of a run, and the images that none of them has yet."""

    def __init__(
        self,
        ray: Any,
        packed: bytes,
        photos: Sequence[Path],
        known: Callable[[Path], Any],
        options: RunOptions,
        command: str,
        cpus: int,
        largest: int = LARGEST,
        unit: str = "photo",
    ) -> None:
        self.ray, self.options, self.command, self.largest, self.unit = ray, options, command, largest, unit
        self.fresh, self.known = deque(photos), known
        self.again: deque[_Piece] = deque()
        self.failed: deque[tuple[Path, Outcome]] = deque()
        self.hired: list[_Hired] = []
        self.starts = 0
        self.count, self.cpus = self._size(cpus)
        self.last = min(LAST, -(-len(photos) // self.count))  # of a small run, every worker gets some
        self.packed = ray.put(packed)
        self.asked_at, self.told = time.monotonic(), False

    def _size(self, cpus: int) -> tuple[int, int]:
        """Number of workers, and the processors of each."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        there = [int(node.get("CPU", 0)) for node in nodes] or [1]
        gpus, wanted = self.options.num_gpus or 0, self.options.workers
        each = self.options.num_cpus
        if each is None:
            share = sum(there) // wanted if wanted else cpus
            each = 1 if gpus else max(1, min(cpus, share, max(there)))
        if wanted is None:
            fit = [count // each for count in there]
            if gpus:
                fit = [min(room, int(node.get("GPU", 0) / gpus)) for room, node in zip(fit, nodes, strict=True)]
            wanted = max(1, sum(fit))
        return max(1, min(wanted, len(self.fresh))), each

    def work(self) -> Iterator[tuple[Path, Outcome]]:
        for _ in range(self.count):
            self._hire()
        while self.hired and (self.fresh or self.again or any(worker.piece.photos for worker in self.hired)):
            calls = {worker.call: worker for worker in self.hired if worker.call is not None}
            ready, _ = self.ray.wait(list(calls), timeout=SECONDS) if calls else ([], [])
            self._say_what_is_missing()
            for call in ready:
                yield from self._hear(calls[call])
            yield from self._drain()
        yield from self._drain()

    def stop(self) -> None:
        """End all workers; those that are at work may finish what they write."""
        with suppress(Exception):  # the cluster may be gone
            busy = [worker.call for worker in self.hired if worker.loaded and worker.call is not None]
            if busy:
                self.ray.wait(busy, num_returns=len(busy), timeout=GRACE)
            if ends := [worker.actor.end.remote() for worker in self.hired if worker.loaded]:
                self.ray.wait(ends, num_returns=len(ends), timeout=GRACE)
            for worker in self.hired:
                self.ray.kill(worker.actor, no_restart=True)
        self.hired.clear()

    def _hire(self) -> None:
        gpus = self.options.num_gpus or 0
        place: dict[str, Any] = {
            "num_cpus": self.cpus,
            "num_gpus": gpus,
            "max_restarts": 0,
            "scheduling_strategy": "SPREAD",
        }
        if not chosen_by_the_user():  # Ray's own threads are there before `Worker.load` can settle their memory
            place["runtime_env"] = {"env_vars": ONE_STORE}
        actor = self.ray.remote(Worker).options(**place).remote()
        call = actor.load.remote([self.packed], os.getcwd(), self.cpus, "cuda" if gpus else "cpu", _versions())
        self.hired.append(_Hired(actor, call))

    def _hear(self, worker: _Hired) -> Iterator[tuple[Path, Outcome]]:
        """Take what a worker has to tell, and give it more to do before anything else happens here."""
        call, worker.call = worker.call, None
        try:
            told = self.ray.get(call)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, PixaffError):
                raise error.cause from None
            if worker.loaded:
                raise
            words = f"a Ray worker cannot load the model: {describe(error.cause)}"
            raise PixaffError(words, "install the same packages on all machines") from error
        except self.ray.exceptions.RayError as error:
            self._bury(worker, error)
            return
        if not worker.loaded:
            worker.loaded, self.starts = True, 0
            self._give(worker)
            return
        outcomes, ended = pickle.loads(told)
        paths = list(worker.piece.photos)
        for path, _ in outcomes:
            worker.piece.photos.pop(path, None)
        if ended:
            assert not worker.piece.photos, f"a worker forgot {len(worker.piece.photos)} of {len(paths)} images"
            self._give(worker)
        else:
            worker.call = worker.actor.go_on.remote()
        yield from outcomes

    def _give(self, worker: _Hired) -> None:
        """Give a worker the next images; where there are none, it waits for those of one that dies."""
        worker.piece = self._next()
        if worker.piece.photos:
            worker.call = worker.actor.begin.remote(list(worker.piece.photos.items()))

    def _next(self) -> _Piece:
        """Images for a worker: first those of a dead one, then a chunk of the others."""
        if self.again:
            return self.again.popleft()
        left = len(self.fresh)
        size = max(SMALLEST, min(LARGEST, left // (SHARES * self.count)))
        size = min(size, max(self.last, -(-left // (2 * self.count))), self.largest)
        photos: dict[Path, Any] = {}
        while self.fresh and len(photos) < size:
            photo = self.fresh.popleft()
            try:
                photos[photo] = self.known(photo)
            except Exception as error:
                self.failed.append((photo, error))
        return _Piece(photos)

    def _drain(self) -> Iterator[tuple[Path, Outcome]]:
        """Tell of the images that failed here, and wake the workers that wait for more."""
        while self.failed:
            yield self.failed.popleft()
        for worker in self.hired:
            if worker.loaded and worker.call is None and (self.again or self.fresh):
                self._give(worker)

    def _bury(self, worker: _Hired, error: BaseException) -> None:
        """Hire another worker, and have the images of a dead one done again, in halves."""
        self.hired.remove(worker)
        with suppress(Exception):  # it may only be out of reach
            self.ray.kill(worker.actor, no_restart=True)
        piece, reason = worker.piece, _reason(error)
        if not worker.loaded:
            self.starts += 1
            if self.starts >= max(STARTS, self.count):
                raise PixaffError(
                    f"{counted(self.starts, 'Ray worker')} died before the model was loaded: {reason}",
                    "too little memory? give fewer --workers",
                ) from error
        if len(piece.photos) > 1:
            self.again.extendleft(reversed(piece.halves()))
        elif piece.photos:
            piece.deaths += 1
            if piece.deaths < ALONE:
                self.again.appendleft(piece)
            else:
                (photo,) = piece.photos
                self.failed.append((photo, _death(photo, reason)))
        if piece.photos and not self.failed:
            words = f"a Ray worker died; {counted(len(piece.photos), self.unit)} of its chunk begin again"
            self.options.report(Event("note", self.command, f"{words} ({reason})"))
        if self.again or self.fresh:
            self._hire()

    def _say_what_is_missing(self) -> None:
        if any(worker.loaded for worker in self.hired):
            self.asked_at, self.told = time.monotonic(), False
        elif not self.told and time.monotonic() - self.asked_at > HELD_UP:
            self.told = True
            gpus = f" and {self.options.num_gpus:g} GPU" if self.options.num_gpus else ""
            there = {name: self.ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU")}
            words = f"waiting for a Ray worker: each takes {counted(self.cpus, 'processor')}{gpus}"
            has = f"the cluster has {there['CPU']:g} processors and {there['GPU']:g} GPUs"
            self.options.report(Event("note", self.command, f"{words}; {has}"))


def _death(photo: Path, reason: str) -> PixaffError:
    return PixaffError(
        f"{photo}: its worker process died {ALONE} times ({reason})", "out of memory? give each worker more of it"
    )


def _versions() -> dict[str, str]:
    return {"pixaff": __version__, "torch": metadata.version("torch")}


class Worker:
    """Holds the work of a run in a process of a cluster; see `on_cluster`, which calls it."""

    def __init__(self) -> None:
        self.work: Work | None = None
        self.outcomes: Generator[tuple[Path, Outcome], None, None] | None = None

    def load(self, packed: list[Any], folder: str, threads: int, device: str, versions: dict[str, str]) -> None:
        """Make this process like that of the command, and unpack the work, with which the model comes.

        Raises:
            PixaffError: This machine has other versions than that of the command, or lacks the GPU.
        """
        where, own = shortened(socket.gethostname()), _versions()
        for package, version in versions.items():
            if own[package] != version:
                raise PixaffError(
                    f"found {package} {own[package]} on {where}, expected {version}, as on the driver",
                    "install the same versions on all machines",
                )
        settle_process()
        with suppress(OSError):  # relative paths are from there
            os.chdir(folder)
        import torch

        torch.set_num_threads(threads)
        if device == "cuda" and not torch.cuda.is_available():
            raise PixaffError(f"{where}: torch finds no GPU there", "install torch with CUDA, or give --device cpu")
        ray = _ray()
        self.work = ray.cloudpickle.loads(ray.get(packed[0]))(device)

    def begin(self, photos: list[tuple[Path, Any]]) -> bytes:
        """Begin with a chunk of images; returns what `go_on` does."""
        assert self.work is not None
        self._leave()
        known = dict(photos)
        self.outcomes = self.work(list(known), known.__getitem__)
        return self.go_on()

    def go_on(self) -> bytes:
        """Work for a second, or until the next image is done.

        Returns:
            The outcomes by image, and whether the chunk has ended; pickled here, since Ray raises what it unpickles.
        """
        assert self.outcomes is not None
        begun, told, ended = time.monotonic(), [], True
        for photo, outcome in self.outcomes:
            told.append((photo, _portable(outcome)))
            if time.monotonic() - begun >= SECONDS:
                ended = False
                break
        return pickle.dumps((told, ended))

    def end(self) -> None:
        """Finish what is being written, leave the rest of the chunk, and remove scratch folders."""
        self._leave()
        self.work = None
        gc.collect()

    def _leave(self) -> None:
        if self.outcomes is not None:
            self.outcomes.close()
            self.outcomes = None


def _portable(outcome: Outcome) -> Outcome:
    """An outcome that another process can unpickle: exceptions of other libraries become words."""
    if isinstance(outcome, PixaffError) or not isinstance(outcome, BaseException):
        return outcome
    return PixaffError(describe(outcome))
