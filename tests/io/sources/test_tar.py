from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from packed_photos import tar_of

from pixaff.errors import ImageError
from pixaff.io.labels import Wanted
from pixaff.io.sources import tar
from pixaff.io.sources.packed import Packed, safe_name


def read(path: Path) -> Packed:
    return tar.read(path, str(path), path.parent)


def labels(packed: Packed) -> dict[str, object]:
    entries = packed.labels(Wanted(name.rpartition(".")[0] for name in packed.members)).by_image
    return {key: entry.problem or entry.labels for key, entry in entries.items()}


def test_members_of_one_stem_are_a_photo_and_its_labels(tmp_path: Path) -> None:
    path = tar_of(
        tmp_path / "a.tar",
        {
            "./x/cat.jpg": b"1",
            "./x/cat.seg.png": b"no photo",
            "./x/cat.cls": b"3",
            "./x/cat.json": b'{"label": "other"}',
            "dog.v2.JPG": b"22",
            "dog.txt": b"dog; person\n",
            "IMG.2020.01.jpg": b"333",
            "IMG.2020.02.jpg": b"4444",
            "IMG.2020.02.json": b'{"labels": ["cat", "dog"], "width": 3}',
            "none.webp": b"5",
            "none.txt": b"",
            ".hidden.jpg": b"",
            "__index__": b"",
        },
    )
    packed = read(path)
    assert list(packed.members) == ["x/cat.jpg", "dog.v2.JPG", "IMG.2020.01.jpg", "IMG.2020.02.jpg", "none.webp"]
    blob = packed.open(packed.photos()[3])
    assert (blob.data, str(blob)) == (b"4444", f"{path}/IMG.2020.02.jpg")  # type: ignore[attr-defined]
    assert labels(packed) == {
        "x/cat": (3,), "dog.v2": ("dog", "person"), "IMG.2020.02": ("cat", "dog"), "none": ()
    }  # fmt: skip
    assert packed.problems == {}


def test_a_bad_member_costs_itself_alone(tmp_path: Path) -> None:
    path = tar_of(
        tmp_path / "a.tar",
        {
            "../out.jpg": b"1",
            "/etc/out.jpg": b"1",
            "a\\..\\out.jpg": b"1",
            "C:out.jpg": b"1",
            "twice.jpg": b"1",
            "twice.png": b"2",
            "twice.jpg ": b"no photo",
            f"{'x' * 240}.jpg": b"1",
            "good.jpg": b"good",
            "good.json": b"{}",
            "odd.jpg": b"odd",
            "odd.json": b"[" * 5000,
        },
    )
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("twice.jpg"))
    packed = read(path)
    assert list(packed.members) == ["twice.jpg", "good.jpg", "odd.jpg"]
    assert len(packed.problems) == 8
    assert sum("leads out of its shard" in reason for reason in packed.problems.values()) == 4
    assert "found a link" in packed.problems["link.jpg"]
    assert "a second photo called twice, after twice.jpg" in packed.problems["twice.png"]
    assert "twice.jpg (again)" in packed.problems
    found = labels(packed)
    assert "no label or labels" in str(found["good"])
    assert set(found) == {"good", "odd"}


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/x", "\\x", "..\\x", "C:\\x", "a\0b", "", ".", "x" * 250, "\ud800", "x.png/y.jpg"]
)
def test_names_that_are_no_paths_below_a_folder(name: str) -> None:
    with pytest.raises(ValueError, match="found a"):
        safe_name(name)


def test_a_truncated_shard_is_none(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "a.tar", {f"{i}.jpg": bytes(3000) for i in range(4)}).read_bytes()
    for cut in (5000, 4096 + 100, 100):
        (tmp_path / "b.tar").write_bytes(whole[:cut])
        with pytest.raises(ImageError, match=r"b\.tar: damaged or truncated tar file, after . photo"):
            read(tmp_path / "b.tar")
    (tmp_path / "b.tar").write_bytes(gzip.compress(whole))
    with pytest.raises(ImageError, match=r"compressed tar file \(decompress it"):
        read(tmp_path / "b.tar")
    (tmp_path / "b.tar").write_bytes(b"no tar file at all" * 100)
    with pytest.raises(ImageError, match="damaged"):
        read(tmp_path / "b.tar")


def test_headers_and_members_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        long = tarfile.TarInfo("././@LongLink")
        long.type, long.size = tarfile.GNUTYPE_LONGNAME, 20 << 20
        archive.addfile(long, io.BytesIO(bytes(20 << 20)))
    with pytest.raises(ImageError, match="header of over 16 MiB"):
        read(tmp_path / "a.tar")
    packed = read(tar_of(tmp_path / "b.tar", {"a.jpg": bytes(100)}))
    monkeypatch.setattr("pixaff.io.sources.packed.MOST", 99)
    with pytest.raises(ImageError, match=r"b\.tar/a\.jpg: found 100 bytes"):
        packed.open(packed.photos()[0])
