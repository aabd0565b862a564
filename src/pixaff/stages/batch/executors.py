"""Ways to keep a machine busy with a list of images: threads that read and write, threads or processes that compute.

The embedded networks are small, and the walk and the CRF consist of small products. Splitting each operation between
threads gains little, and costs much if other programs use the processors too, because OpenMP threads wait for each
other at the end of every operation. So `lanes` computes several images side by side, each on one thread.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pixaff.allocation import default_workers
from pixaff.errors import PixaffError
from pixaff.stages.batch.run import Outcome

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pixaff.predictor import Predictor
    from pixaff.run_options import BatchOptions
    from pixaff.segmenter import Segmenter
    from pixaff.stages.batch.cluster import Work

Loaded = TypeVar("Loaded")
Result = TypeVar("Result")
READERS = 4
"""Threads that read and write during a computation: enough to keep it busy, but each may hold a huge photo."""

BATCH = 4
"""Number of images computed together by default."""
LANES = 16
"""Largest number of images computed side by side: each takes a few hundred megabytes."""

Queue = deque[tuple[Path, "Future[Any]"]]


def in_batches(
    photos: Sequence[Path],
    *,
    load: Callable[[Path], Loaded],
    compute: Callable[[list[Loaded]], list[Result]],
    save: Callable[[Path, Result], Outcome],
    batch_size: int,
    workers: int,
) -> Generator[tuple[Path, Outcome], None, None]:
    """Read ahead and write behind in threads while the calling thread computes one batch after the other.

    A photo that cannot be read leaves its batch; a batch that cannot be computed is tried again photo by photo, so that
    one bad photo costs no other. Only a few batches are in memory, whatever the length of the list.

    Yields:
        A photo and the facts that ``save`` returned, or the exception; in the order of completion.
    """
    waiting = deque(photos)
    loading: Queue = deque()
    saving: Queue = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="pixaff")
    try:
        while waiting or loading:
            batch: list[tuple[Path, Loaded]] = []
            while len(batch) < batch_size and (waiting or loading):
                while waiting and len(loading) < 2 * batch_size:
                    loading.append((waiting[0], pool.submit(load, waiting.popleft())))
                photo, future = loading.popleft()
                try:
                    batch.append((photo, future.result()))
                except Exception as error:
                    yield photo, error
            for photo, outcome in _computed(batch, compute):
                if isinstance(outcome, Exception):
                    yield photo, outcome
                else:
                    saving.append((photo, pool.submit(save, photo, outcome)))
            while saving and (len(saving) > batch_size or saving[0][1].done()):
                yield _finished(saving)
        while saving:
            yield _finished(saving)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _computed(
    batch: list[tuple[Path, Loaded]], compute: Callable[[list[Loaded]], list[Result]]
) -> Iterator[tuple[Path, Result | Exception]]:
    if not batch:
        return
    try:
        results = compute([loaded for _, loaded in batch])
    except Exception as error:
        if len(batch) == 1:
            yield batch[0][0], error
        else:
            for single in batch:
                yield from _computed([single], compute)
    else:
        yield from zip((photo for photo, _ in batch), results, strict=True)


def _finished(saving: Queue) -> tuple[Path, Outcome]:
    photo, future = saving.popleft()
    try:
        return photo, future.result()
    except Exception as error:
        return photo, error


def in_threads(
    photos: Sequence[Path], function: Callable[[Path], Outcome], *, workers: int
) -> Generator[tuple[Path, Outcome], None, None]:
    """Call a function for each photo in threads: for work that spends its time in NumPy, Pillow or torch.

    Yields:
        A photo and what the function returned, or the exception; in the order of the photos.
    """
    yield from _in_pool(ThreadPoolExecutor(workers, thread_name_prefix="pixaff"), photos, function)


def in_processes(
    photos: Sequence[Path], function: Callable[[Path], Outcome], *, workers: int
) -> Generator[tuple[Path, Outcome], None, None]:
    """Call a picklable function for each photo in worker processes that share the processors between them.

    Processes are spawned, not forked: a fork after the first parallel region of OpenMP hangs. A script that calls
    this needs the usual ``if __name__ == "__main__":``.

    An image whose worker dies (for example because the system killed it for its memory) costs no other: the images that
    were in work at that moment are tried again one at a time, each in its own process.

    Yields:
        As `in_threads`.
    """
    waiting = list(photos)
    while waiting:
        done, died = 0, False
        for photo, outcome in _in_pool(_process_pool(workers), waiting, function):
            if isinstance(outcome, BrokenProcessPool):
                died = True
                break
            done += 1
            yield photo, outcome
        waiting = waiting[done:]
        if died:
            suspects, waiting = waiting[:workers], waiting[workers:]
            for suspect in suspects:
                for photo, outcome in _in_pool(_process_pool(1), [suspect], function):
                    yield photo, _death(photo) if isinstance(outcome, BrokenProcessPool) else outcome


def _process_pool(workers: int) -> ProcessPoolExecutor:
    threads = max(1, default_workers() // workers)
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=spawn, initializer=_settle, initargs=(threads,))


def _death(photo: Path) -> PixaffError:
    return PixaffError(
        f"{photo}: its worker process died",
        "out of memory? try fewer workers (-j); a script of your own needs if __name__ == '__main__':",
    )


def _in_pool(
    pool: Executor, photos: Sequence[Path], function: Callable[[Path], Outcome]
) -> Generator[tuple[Path, Outcome], None, None]:
    try:
        for photo, future in [(photo, pool.submit(function, photo)) for photo in photos]:
            try:
                yield photo, future.result()
            except Exception as error:
                yield photo, error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _settle(threads: int) -> None:
    """Make a worker ignore Ctrl-C, end together with its parent, and use only its share of the processors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Spread(Protocol):
    """`map` as a list, in inference mode."""

    def __call__(self, function: Callable[..., Result], *arguments: Iterable[Any]) -> list[Result]: ...


@contextmanager
def lanes(device: torch.device, *networks: nn.Module | None) -> Iterator[tuple[Spread, int]]:
    """Yield a function that maps over images, and the number of images that it works on at a time.

    On CUDA and for large networks that is one; otherwise it is the number of torch's threads, with one thread per
    image: see `pixaff.device.steady_threads`.
    """
    import torch

    from pixaff.device import is_large

    threads = torch.get_num_threads()
    count = min(threads, LANES) if device.type == "cpu" and not is_large(*networks) else 1
    each = 1 if count > 1 else threads
    pool = ThreadPoolExecutor(count, "pixaff", initializer=torch.set_num_threads, initargs=(each,))

    def spread(function: Callable[..., Result], *arguments: Iterable[Any]) -> list[Result]:
        calls = list(zip(*arguments, strict=True))

        def call(these: tuple[Any, ...]) -> Result:
            with torch.inference_mode():  # applies to one thread only
                return function(*these)

        return [call(these) for these in calls] if count == 1 else list(pool.map(call, calls))

    try:
        yield spread, count
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # parts of it, such as that of MKL, apply to the whole process


def through_predictor(
    photos: Sequence[Path],
    predictor: Predictor | Segmenter,
    options: BatchOptions,
    *,
    command: str,
    labels: Callable[[Path], tuple[int, ...] | None],
    load: Callable[[Path, tuple[int, ...] | None], Loaded],
    compute: Callable[[list[Loaded], Spread], list[Result]],
    save: Callable[[Path, Result], Outcome],
) -> Generator[tuple[Path, Outcome], None, None]:
    """`in_batches` for a predictor, with as many images side by side as suit its networks and device.

    On a cluster, the predictor and the functions are pickled, all but ``labels``.

    Args:
        photos: The images.
        predictor: What ``compute`` calls.
        options: Batch size and workers; if they are None, this function chooses.
        command: Name of the command, for its events.
        labels: The labels of an image.
        load: Decodes an image, in a thread; the second argument is its labels.
        compute: Works on a batch; the second argument maps a function over its images.
        save: Writes the outputs of an image, in a thread.

    Yields:
        As `in_batches`.
    """
    workers = options.workers or min(READERS, default_workers())
    if options.cluster is None:
        yield from _through_lanes(photos, labels, predictor, options.batch_size, workers, load, compute, save)
        return
    from pixaff.stages.batch.cluster import CPUS, on_cluster

    sized = options.batch_size  # the options hold the callback, which stays here

    def begin(device: str) -> Work:
        import torch

        predictor.move(torch.device(device))
        return lambda some, labels: _through_lanes(some, labels, predictor, sized, READERS, load, compute, save)

    yield from on_cluster(photos, begin, labels, options, command=command, cpus=CPUS)


def _through_lanes(
    photos: Sequence[Path],
    labels: Callable[[Path], tuple[int, ...] | None],
    predictor: Predictor | Segmenter,
    batch_size: int | None,
    workers: int,
    load: Callable[[Path, tuple[int, ...] | None], Loaded],
    compute: Callable[[list[Loaded], Spread], list[Result]],
    save: Callable[[Path, Result], Outcome],
) -> Generator[tuple[Path, Outcome], None, None]:
    if predictor.device.type == "cpu":
        for network in predictor.networks:
            network.memory_per_pixel()  # before the threads: an estimate runs the layers
    with lanes(predictor.device, *predictor.networks) as (spread, at_a_time):
        yield from in_batches(
            photos,
            load=lambda photo: load(photo, labels(photo)),
            compute=lambda batch: compute(batch, spread),
            save=save,
            batch_size=batch_size or max(BATCH, at_a_time),
            workers=workers,
        )
