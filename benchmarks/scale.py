"""One process, two shards and two Ray workers with as many threads in all: what sharing the work costs, and memory.

The ways with tar files get the photos in files of six each.

    python -m benchmarks.scale [PHOTOS] [--images N] [--few N] [--ways NAME ...] [--json]

Each way is a run of `pixaff propagate` on ``--few`` photos and one on ``--images``, which are those of PHOTOS again and
again under new names. The difference of the two is the cost of a photo, and what remains is the start: loading the
models, and for Ray also starting it. Processor seconds are those of all processes of a way, Ray's own included, as
sampled from /proc; other programs on the machine change them less than the wall clock. Memory is the largest resident
process after a tenth of the photos and at the end. The masks of all ways are compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measuring import Row, arguments, show
from benchmarks.propagate import PHOTOS, link_photos

MARK = "PIXAFF_BENCHMARK_RUN"
PERIOD = 0.2
THREADS = 2
"""Of each way, all together."""
Line = tuple[list[str], int]
"""Options of a command, and its threads."""
WAYS: dict[str, list[Line]] = {
    "one process": [([], THREADS)],
    "two shards": [(["--shard", f"{index}/2"], 1) for index in (1, 2)],
    "two Ray workers": [(["--cluster", "ray", "--workers", "2", "--num-cpus", "1"], 1)],
    "one process, tar files": [([], THREADS)],
    "two Ray workers, tar files": [(["--cluster", "ray", "--workers", "2", "--num-cpus", "1"], 1)],
}
PACKED = 6
"""Photos in a tar file."""


@dataclass
class Spent:
    """What the processes of a run took.

    Attributes:
        wall: Seconds.
        cpu: Processor seconds by process.
        early, late: Bytes of the largest resident process up to a tenth of the photos, and after nine tenths.
    """

    wall: float = 0.0
    cpu: dict[int, float] = field(default_factory=dict)
    early: int = 0
    late: int = 0


def measured(way: str, photos: Path, labels: Path, out: Path, count: int) -> Spent:
    """Run a way, and sample its processes while it runs."""
    mark, spent, began = uuid.uuid4().hex, Spent(), time.monotonic()
    command = [sys.executable, "-m", "pixaff", "propagate", str(photos), "-o", str(out), "--labels", str(labels), "-q"]
    runs = [
        subprocess.Popen(
            [*command, *options],
            env={
                **os.environ,
                MARK: mark,
                "RAY_ADDRESS": "local",
                "OMP_NUM_THREADS": str(threads),
                "OMP_WAIT_POLICY": "PASSIVE",
            },
            stdout=subprocess.DEVNULL,
        )
        for options, threads in WAYS[way]
    ]
    known: dict[int, bool] = {}
    while any(run.poll() is None for run in runs):
        largest = _sample(mark, known, spent)
        done = len(list(out.glob("*.png"))) + PACKED * len(list(out.glob("*.tar")))
        if done <= count / 10:
            spent.early = max(spent.early, largest)
        elif done >= 0.9 * count:
            spent.late = max(spent.late, largest)
        time.sleep(PERIOD)
    spent.wall = time.monotonic() - began
    if any(run.returncode for run in runs):
        raise RuntimeError(f"{way}: exit {[run.returncode for run in runs]}")
    return spent


def _sample(mark: str, known: dict[int, bool], spent: Spent) -> int:
    """Take down the processor seconds of all marked processes; returns the bytes of the largest."""
    largest, wanted = 0, f"{MARK}={mark}".encode()
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal() or known.get(int(entry.name)) is False:
            continue
        process = int(entry.name)
        with suppress(OSError, IndexError):
            if process not in known:
                known[process] = wanted in Path(entry.path, "environ").read_bytes().split(b"\0")
            if known[process]:
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                spent.cpu[process] = (int(fields[11]) + int(fields[12])) / tick
                largest = max(largest, int(fields[21]) * page)
    return largest


def packed(photos: Path) -> Path:
    """A folder of tar files with the photos of another."""
    folder, files = photos.with_name("tars"), sorted(photos.iterdir())
    folder.mkdir()
    for number in range(0, len(files), PACKED):
        with tarfile.open(folder / f"{number:05}.tar", "w", dereference=True) as archive:
            for file in files[number : number + PACKED]:
                archive.add(file, file.name)
    return folder


def masks_in(out: Path) -> dict[str, bytes]:
    """The masks of a run, in tar files or not."""
    found = {path.name: path.read_bytes() for path in out.glob("*.png")}
    for path in out.glob("*.tar"):
        with tarfile.open(path) as archive:
            members = [(member.name, archive.extractfile(member)) for member in archive]
            found |= {name: file.read() for name, file in members if file is not None and name.endswith(".png")}
    return found


def compare(source: Path, few: int, images: int, ways: list[str]) -> tuple[list[Row], dict[str, Any]]:
    """A row for each way."""
    rows: list[Row] = []
    masks: list[dict[str, bytes]] = []
    first: dict[str, float] = {}
    for way in ways:
        with tempfile.TemporaryDirectory() as name:
            runs = []
            for count in (few, images):
                folder = Path(name, str(count))
                photos = link_photos(source, folder, count)
                photos = packed(photos) if "tar" in way else photos
                runs.append(measured(way, photos, folder / "labels.csv", folder / "masks", count))
            masks.append(masks_in(folder / "masks"))
        short, long = runs

        def each(value: Callable[[Spent], float], short: Spent = short, long: Spent = long) -> tuple[float, float]:
            """Of the start, and of a photo."""
            photo = (value(long) - value(short)) / (images - few)
            return value(short) - few * photo, photo

        cpu, wall = each(lambda spent: sum(spent.cpu.values())), each(lambda spent: spent.wall)
        total = sum(long.cpu.values())
        first = first or {"cpu": cpu[1], "wall": wall[1], "total": total}
        rows.append(
            {
                "way": way,
                "cpu_start_s": cpu[0],
                "cpu_photo_s": cpu[1],
                "cpu_photo_ratio": cpu[1] / first["cpu"],
                "cpu_whole_ratio": total / first["total"],
                "wall_start_s": wall[0],
                "wall_photo_s": wall[1],
                "wall_photo_ratio": wall[1] / first["wall"],
                "mb_early": long.early / 1e6,
                "mb_late": long.late / 1e6,
            }
        )
    equal = all(len(found) == images and found == masks[0] for found in masks)
    return rows, {"images": images, "few": few, "threads_of_each_way": THREADS, "masks_equal": equal}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("photos", nargs="?", type=Path, default=PHOTOS, help="folder of photos")
    parser.add_argument("--images", type=int, default=48, help="photos of the long run (default: %(default)s)")
    parser.add_argument("--few", type=int, default=8, help="photos of the short run (default: %(default)s)")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="default: all")
    options = parser.parse_args()
    rows, about = compare(options.photos, options.few, options.images, options.ways)
    show("Sharing the work", rows, about, options.json)


if __name__ == "__main__":
    main()
