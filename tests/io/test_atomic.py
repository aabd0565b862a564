from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from pixaff.errors import OutputError
from pixaff.io import atomic
from pixaff.io.atomic import atomic_path, atomic_stream, scratch_folder, write_bytes, write_text

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals and permissions")


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_file_appears_whole_and_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "mask.png"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        assert not target.exists()
        assert temporary.parent == target.parent
        assert temporary.name.startswith(".")
        assert str(os.getpid()) in temporary.name
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"
    assert names(target.parent) == ["mask.png"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def interrupted() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("new")
            raise error

    with pytest.raises(error):
        interrupted()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("where", ["write", "replace"])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((Path, "write_bytes") if where == "write" else (os, "replace")), full)
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written: No space left on device \(free some space"):
        write_text(tmp_path / "a.txt", "text")
    assert names(tmp_path) == []


@posix
def test_a_real_write_error_half_way_leaves_nothing(tmp_path: Path) -> None:
    code = """
        import resource, sys
        import numpy as np
        from pixaff.errors import OutputError
        from pixaff.io.masks import write_mask
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_mask(sys.argv[1], np.random.default_rng(0).integers(0, 255, (100, 100)).astype(np.uint8))
        except OutputError as error:
            print(error)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "m.png")], capture_output=True, text=True
    )
    assert "m.png: cannot be written: File too large" in run.stdout
    assert run.stderr == ""
    assert names(tmp_path) == []


@posix
def test_a_killed_process_leaves_a_hidden_file_that_the_next_one_removes(tmp_path: Path) -> None:
    code = """
        import os, signal, sys
        from pixaff.io.atomic import atomic_path
        with atomic_path(sys.argv[1]) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "a.npz")])
    assert run.returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.startswith(".pixaff-")
    write_text(tmp_path / "b.txt", "b")
    assert names(tmp_path) == ["b.txt"]


@posix
def test_temporary_files_of_living_processes_stay(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.txt") as mine:
        mine.write_text("a")
    alive = tmp_path / mine.name.replace(f"-{os.getpid()}-", f"-{os.getppid()}-")
    elsewhere = tmp_path / mine.name.replace(mine.name[8:16], "0" * 8).replace(f"-{os.getpid()}-", "-999999999-")
    for path in (alive, elsewhere):
        path.write_text("half")
    code = "import sys; from pixaff.io.atomic import write_text; write_text(sys.argv[1], 'b')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b.txt")], check=True)
    assert set(names(tmp_path)) == {"a.txt", "b.txt", alive.name, elsewhere.name}


def test_threads_writing_one_file_do_not_mix(tmp_path: Path) -> None:
    texts = [str(number) * 10_000 for number in range(8)]
    threads = [threading.Thread(target=write_text, args=(tmp_path / "a.txt", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.txt").read_text() in texts
    assert names(tmp_path) == ["a.txt"]


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    write_text(tmp_path / "out", "a file")
    with pytest.raises(OutputError, match=r"out.b\.txt: cannot be written: .*a part of the path is a file"):
        write_text(tmp_path / "out" / "b.txt", "b")


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written"):
        write_text(tmp_path / "a.txt", "a")
    assert names(tmp_path) == ["a.txt"]


@posix
@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write anywhere")
def test_no_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match=r"Permission denied \(choose an output folder"):
            write_text(tmp_path / "a.txt", "a")
    finally:
        tmp_path.chmod(0o700)


def test_the_longest_legal_name_works(tmp_path: Path) -> None:
    target = tmp_path / ("ä" * 125 + ".png")
    write_text(target, "a")
    assert target.read_text() == "a"


def test_text_is_utf8_with_its_own_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "ä\nb\r\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa4\nb\r\n"


def test_case_outputs_that_no_longer_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the rename finds the bytes on the disk: they are flushed before the file gets its name."""
    seen: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def flushed(file: int) -> None:
        seen.append(("fsync", os.fstat(file).st_ino))
        fsync(file)

    def renamed(old: Path, new: Path) -> None:
        seen.append(("replace", os.stat(old).st_ino))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    write_text(tmp_path / "a.txt", "text")
    file, folder = (tmp_path / "a.txt").stat().st_ino, tmp_path.stat().st_ino
    assert seen[:2] == [("fsync", file), ("replace", file)]
    assert seen[2:] in ([("fsync", folder)], [])  # Windows opens no folders


def test_file_systems_that_do_not_flush_are_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", cannot)
    write_text(tmp_path / "a.txt", "text")
    assert (tmp_path / "a.txt").read_text() == "text"


def test_a_disk_that_is_found_full_when_it_is_flushed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_bytes(tmp_path / "a.txt", b"text")
    assert names(tmp_path) == []


@posix
@pytest.mark.parametrize("what", ["picture", "torch", "arrays"])
def test_case_half_an_overlay_on_a_full_disk(tmp_path: Path, what: str) -> None:
    """Pillow takes a short write for a whole one, and torch hides the reason: no half file gets its name."""
    code = """
        import resource, sys
        import numpy as np
        from pixaff.errors import OutputError
        what, path = sys.argv[1:]
        noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)
        if what == "torch":
            import torch
            from pixaff.io.atomic import atomic_stream
        elif what == "picture":
            from PIL import Image
            from pixaff.io.images import write_picture
        else:
            from pixaff.io.cams import write_cams
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            if what == "torch":
                with atomic_stream(path) as stream:
                    torch.save({"weights": torch.rand(100_000)}, stream)
            elif what == "picture":
                write_picture(path, Image.fromarray(noise), quality=90)
            else:
                write_cams(path, [1], np.random.default_rng(0).random((1, 200, 200)), (200, 200))
        except OutputError as error:
            print(error)
    """
    path = tmp_path / {"picture": "a.jpg", "torch": "a.pt", "arrays": "a.npz"}[what]
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code), what, path], capture_output=True, text=True)
    assert f"{path}: cannot be written: File too large" in run.stdout, run.stderr
    assert names(tmp_path) == []


def test_a_stream_is_written_whole(tmp_path: Path) -> None:
    with atomic_stream(tmp_path / "a.bin") as stream:
        stream.write(b"whole")
        assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin").read_bytes() == b"whole"

    def interrupted() -> None:
        with atomic_stream(tmp_path / "a.bin") as stream:
            stream.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert (tmp_path / "a.bin").read_bytes() == b"whole"
    assert names(tmp_path) == ["a.bin"]


@posix
def test_a_link_in_the_place_of_an_output_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("precious")
    (tmp_path / "a.txt").symlink_to("precious.txt")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "precious.txt").read_text() == "precious"
    assert (tmp_path / "a.txt").read_text() == "new"
    assert not (tmp_path / "a.txt").is_symlink()


@posix
@pytest.mark.parametrize(
    ("mode", "owner", "refused"),
    [(0o777, 1, True), (0o1777, 1, True), (0o770, 1, True), (0o755, 1, False), (0o777, 0, False), (0o777, None, False)],
)
def test_a_planted_link_is_not_followed_out_of_a_shared_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, owner: int | None, refused: bool
) -> None:
    """`overlays` leads elsewhere: who made that link, in a folder to which others may write?"""
    shared, elsewhere = tmp_path / "shared", tmp_path / "elsewhere"
    shared.mkdir()
    shared.chmod(mode)
    elsewhere.mkdir()
    (shared / "overlays").symlink_to(elsewhere)
    lstat = os.lstat

    def owned(path: Path) -> os.stat_result:
        found = lstat(path)
        another = found.st_uid + 4321 if owner else owner
        if Path(path).name != "overlays" or owner is None:
            return found
        return os.stat_result((*found[:4], another, *found[5:]))

    monkeypatch.setattr(atomic.os, "lstat", owned)
    if not refused:
        write_text(shared / "overlays" / "a.txt", "a")
        assert names(elsewhere) == ["a.txt"]
        return
    for _ in range(2):
        with pytest.raises(OutputError, match=r"overlays: found a link to .*elsewhere that another user made"):
            write_text(shared / "overlays" / "a.txt", "a")
    assert names(elsewhere) == []


def test_a_long_suffix_is_legal(tmp_path: Path) -> None:
    target = tmp_path / ("a." + "b" * 250)
    write_text(target, "a")
    assert names(tmp_path) == [target.name]


@posix
def test_case_file_name_that_is_no_utf8(tmp_path: Path) -> None:
    """A name of Latin-1 goes out as the bytes that it came in as."""
    name = os.fsdecode(b"caf\xe9")
    write_text(tmp_path / f"{name}.txt", f"{name}\n")
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9.txt"]
    assert (tmp_path / f"{name}.txt").read_bytes() == b"caf\xe9\n"


def test_scratch_folders_of_killed_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    died = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    with scratch_folder() as mine:
        left = Path(mine.replace(f"-{os.getpid()}-", f"-{died.stdout.strip()}-"))
        (left / "inner").mkdir(parents=True)
        other = tmp_path / f"pixaff-00000000-{died.stdout.strip()}-x"  # of another machine
        other.mkdir()
        with scratch_folder() as second:
            assert sorted(map(str, tmp_path.iterdir())) == sorted([mine, second, str(other)])
    assert list(tmp_path.iterdir()) == [other]
