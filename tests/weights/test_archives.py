from __future__ import annotations

import errno
import gzip
import hashlib
import io
import shutil
import stat
import tarfile
import zipfile

import pytest

from pixaff.errors import DownloadError
from pixaff.weights.archives import Limits, archive_kind, content_folder, extract, safe_path

GOOD = {"out/2007_000032.npy": b"\x93NUMPY maps", "out/2007_000039.npy": b"\x93NUMPY more", "out/a.png": b"\x89PNG"}


def zipped(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name), content, compression)
    return path


def tarred(path, members, mode="w"):
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def packers():
    return [
        ("zip", zipped),
        ("tar", tarred),
        ("tar.gz", lambda path, members: tarred(path, members, "w:gz")),
    ]


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def there(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("kind", "pack"), packers())
def test_maps_and_pictures_are_kept_and_the_rest_is_not(tmp_path, target, kind, pack):
    others = {"out/": b"", "readme.txt": b"hello", "out/run.py": b"import os", "out/._x.npy": b"mac", "b.NPY": b"upper"}
    others = {name: content for name, content in others.items() if name[-1] != "/"}
    archive = pack(tmp_path / "a.archive", {**GOOD, **others})
    assert archive_kind(archive) == kind
    files = extract(archive, target)
    assert there(target) == sorted([*GOOD, "b.NPY"])
    assert files["out/a.png"] == (4, hashlib.sha256(b"\x89PNG").hexdigest())
    assert (target / "out/2007_000032.npy").read_bytes() == GOOD["out/2007_000032.npy"]
    (target / "b.NPY").unlink()
    assert content_folder(target) == target / "out"


@pytest.mark.parametrize(("kind", "pack"), packers())
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../evil.npy", '".." in its path'),
        ("out/../../evil.npy", '".." in its path'),
        ("/tmp/evil.npy", "an absolute path"),
        ("C:/evil.npy", "an absolute path"),
        ("..\\evil.npy", "a name that is none on every system"),
        ("out/evil\n.npy", "a name that is none on every system"),
        ("out/nul.npy", "a name that is none on every system"),
        ("out /evil.npy", "a name that is none on every system"),
        ("../readme.txt", '".." in its path'),
    ],
)
def test_members_that_lead_elsewhere_are_refused(tmp_path, target, kind, pack, name, words):
    archive = pack(tmp_path / "a.archive", {**GOOD, name: b"evil"})
    with pytest.raises(DownloadError, match=f"a.archive: the member .* has {words}.*do not trust it"):
        extract(archive, target)
    assert there(tmp_path) == ["a.archive", *(f"target/{each}" for each in GOOD)]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize(
    "member",
    [
        special("link.npy", tarfile.SYMTYPE, "/etc/passwd"),
        special("link.npy", tarfile.LNKTYPE, "../../etc/passwd"),
        special("link.npy", tarfile.LNKTYPE, "out/a.png"),
        special("pipe.npy", tarfile.FIFOTYPE),
        special("device.npy", tarfile.CHRTYPE),
        special("device.npy", tarfile.BLKTYPE),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, target, mode, member):
    archive = tarred(tmp_path / "a.tar", {**GOOD, member: b""}, mode)
    with pytest.raises(DownloadError, match="is neither file nor folder"):
        extract(archive, target)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
@pytest.mark.parametrize("name", ["link.npy", "link/"])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, target, kind, name):
    member = zipfile.ZipInfo(name)
    member.external_attr = (kind | 0o777) << 16
    archive = zipped(tmp_path / "a.zip", {member: b"/etc"})
    with pytest.raises(DownloadError, match="is neither file nor folder"):
        extract(archive, target)


def test_a_folder_that_is_a_link_is_not_written_through(tmp_path, target):
    (tmp_path / "outside").mkdir()
    (target / "out").symlink_to(tmp_path / "outside")
    archive = tarred(tmp_path / "a.tar", {special("out", tarfile.SYMTYPE, str(tmp_path)): b"", **GOOD})
    with pytest.raises(DownloadError, match="is neither file nor folder"):
        extract(archive, target)
    assert there(tmp_path / "outside") == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_overwrites_nothing(tmp_path, target):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.npy", b"first")
        file.writestr("a.npy", b"second")
    with pytest.raises(DownloadError, match=r"\"a\.npy\" is there twice"):
        extract(tmp_path / "a.zip", target)
    assert (target / "a.npy").read_bytes() == b"first"


SMALL = Limits(members=20, total=1 << 20, member=1 << 19, ratio=10, free=1 << 16)


@pytest.mark.parametrize(("kind", "pack"), packers())
def test_a_bomb_stops_early(tmp_path, target, kind, pack):
    # 512 kB of zeros in each of twenty members, 10 MB in all, packed to some kilobytes.
    archive = pack(tmp_path / "bomb", {f"{index}.npy": bytes(1 << 19) for index in range(20)})
    with pytest.raises(DownloadError, match=r"more than .* to unpack .it may be an archive bomb"):
        extract(archive, target, SMALL)
    assert sum(path.stat().st_size for path in target.iterdir()) <= 1 << 20
    with pytest.raises(DownloadError, match="a member of 600"):
        extract(pack(tmp_path / "one", {"a.npy": bytes(600_000)}), target, SMALL)
    with pytest.raises(DownloadError, match="more than 20"):
        extract(pack(tmp_path / "many", {f"{index}.txt": b"" for index in range(21)}), target, SMALL)


def test_a_zip_that_understates_its_sizes_stops_early(tmp_path, target):
    archive = zipped(tmp_path / "bomb.zip", {"a.npy": bytes(3 << 20)})
    honest = (3 << 20).to_bytes(4, "little")
    content = archive.read_bytes()
    assert content.count(honest) == 2
    archive.write_bytes(content.replace(honest, (100).to_bytes(4, "little")))
    with pytest.raises(DownloadError):
        extract(archive, target, SMALL)
    assert sum(path.stat().st_size for path in target.iterdir()) <= 1 << 19


def test_nested_bombs_are_not_opened(tmp_path, target):
    inner = zipped(tmp_path / "inner.zip", {"a.npy": bytes(1 << 20)}).read_bytes()
    archive = zipped(tmp_path / "42.zip", {f"lib {index}.zip": inner for index in range(16)})
    with pytest.raises(DownloadError, match=r"42\.zip: found no \.npy or \.png file"):
        extract(archive, target, SMALL)
    assert there(target) == []


def test_what_is_passed_over_in_a_tar_is_bounded_too(tmp_path, target):
    archive = tarred(tmp_path / "a.tar.gz", {f"{index}.txt": bytes(1 << 19) for index in range(20)}, "w:gz")
    with pytest.raises(DownloadError, match="to unpack"):
        extract(archive, target, SMALL)


def test_a_tar_header_does_not_take_all_memory(tmp_path, target):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    with pytest.raises(DownloadError, match="a header of more than a megabyte"):
        extract(tmp_path / "a.tar", target)


def test_a_sparse_member_is_refused(tmp_path, target):
    header = tarfile.TarInfo("a.npy")
    header.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"00000000000\000000000000\0"
    block[483:495] = b"77777777777\0"
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(bytes(block) + bytes(10_240))
    with pytest.raises(DownloadError, match="is neither file nor folder"):
        extract(tmp_path / "a.tar", target)


@pytest.mark.parametrize(("kind", "pack"), packers())
def test_damaged_archives_are_named(tmp_path, target, kind, pack):
    whole = pack(tmp_path / "whole", {f"{index}.npy": bytes(range(256)) * 99 for index in range(9)}).read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DownloadError, match=f"cut: damaged {kind} archive"):
        extract(tmp_path / "cut", target)


def test_an_encrypted_zip_is_named(tmp_path, target):
    archive = zipped(tmp_path / "a.zip", {"a.npy": b"1234"}, zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(bytes(content))
    with pytest.raises(DownloadError, match="an encrypted zip archive"):
        extract(archive, target)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive, which is not supported, expected zip, tar or tar.gz"),
        (b"Rar!\x1a\x07\x01\x00", "a rar archive, which is not supported"),
        (b"BZh9", "a bzip2 archive, which is not supported"),
        (b"\xfd7zXZ\x00", "a xz archive, which is not supported"),
        (b"hello", "found no archive"),
    ],
)
def test_other_archives_are_named(tmp_path, head, words):
    (tmp_path / "a").write_bytes(head + bytes(600))
    with pytest.raises(DownloadError, match=words):
        archive_kind(tmp_path / "a")


def test_good_paths_pass():
    assert safe_path("./out/2007_000032.npy", "a").parts == ("out", "2007_000032.npy")
    with pytest.raises(DownloadError):
        safe_path("", "a")


MAPS = {f"crf/{index}.npy": bytes([index]) * 700 for index in range(6)}


@pytest.mark.parametrize("packed", [False, True])
def test_case_tar_that_ends_early(tmp_path, target, packed):
    whole = tarred(tmp_path / "whole.tar", MAPS).read_bytes()
    end = 6 * (512 + 1024)
    assert whole[end:].count(0) == len(whole) - end

    def refused(content, words):
        (tmp_path / "a.tar").write_bytes(gzip.compress(content) if packed else content)
        shutil.rmtree(target)
        target.mkdir()
        with pytest.raises(DownloadError, match=f"a.tar: damaged tar(.gz)? archive: .*{words}"):
            extract(tmp_path / "a.tar", target)

    for place in range(512, end + 512, 512):
        refused(whole[:place], "ends too early|unexpected end of data|truncated header")
    for header in range(1536, end, 1536):
        changed = bytearray(whole)
        changed[header + 5] ^= 1
        refused(bytes(changed), "a header is damaged")
    refused(whole[:end] + bytes(512), "ends too early")
    refused(whole + b"more", "something follows after its end")
    refused(whole + whole, "something follows after its end")
    (tmp_path / "a.tar").write_bytes(gzip.compress(whole) if packed else whole)
    shutil.rmtree(target)
    target.mkdir()
    assert len(extract(tmp_path / "a.tar", target)) == 6
    (tmp_path / "least.tar").write_bytes(whole[: end + 1024])  # no padding beyond the two blocks
    shutil.rmtree(target)
    target.mkdir()
    assert len(extract(tmp_path / "least.tar", target)) == 6


def test_case_tar_that_ends_early_in_its_packing(tmp_path, target):
    content = bytearray(tarred(tmp_path / "a.tar.gz", MAPS, "w:gz").read_bytes())
    content[-6] ^= 1  # the checksum at the end of the stream
    (tmp_path / "a.tar.gz").write_bytes(bytes(content))
    with pytest.raises(DownloadError, match=r"a\.tar\.gz: damaged tar\.gz archive"):
        extract(tmp_path / "a.tar.gz", target)


@pytest.mark.parametrize(("kind", "pack"), packers())
@pytest.mark.parametrize("names", [("a.npy", "a.npy/b.npy"), ("a.npy/b.npy", "a.npy"), ("a.npy/b/c/d.npy", "a.npy/b")])
def test_case_archive_with_a_file_as_folder(tmp_path, target, kind, pack, names):
    if names[1].endswith("/b"):
        names = (names[0], "a.npy")
    archive = pack(tmp_path / "a.archive", dict.fromkeys(names, b"\x93NUMPY"))
    with pytest.raises(DownloadError, match=r"a\.archive: the member \"a\.npy.*\" is a file and a folder"):
        extract(archive, target)


@pytest.mark.parametrize(("kind", "pack"), packers())
@pytest.mark.parametrize("name", ["猫" * 100 + ".npy", "a/" * 2500 + "a.npy", "x" * 256 + ".npy"])
def test_case_archive_with_a_file_as_folder_or_names_too_long(tmp_path, target, kind, pack, name):
    archive = pack(tmp_path / "a.archive", {**GOOD, name: b"\x93NUMPY"})
    with pytest.raises(DownloadError, match=r"a\.archive: the member .* has a name that is too long") as caught:
        extract(archive, target)
    assert len(str(caught.value)) < 300


def test_a_name_that_the_file_system_refuses_is_the_archives_fault(tmp_path, target, monkeypatch):
    archive = zipped(tmp_path / "a.zip", GOOD)

    def refuse(self, **options):
        raise OSError(errno.ENAMETOOLONG, "File name too long")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(DownloadError, match="has a name that this file system does not take: File name too long"):
        extract(archive, target)


def test_a_directory_beyond_all_bounds_is_not_read(tmp_path, target, monkeypatch):
    archive = zipped(tmp_path / "a.zip", {f"{index}.npy": b"1" for index in range(200)})
    monkeypatch.setattr("pixaff.io.zips.MOST_DIRECTORY", 9_000)
    with pytest.raises(DownloadError, match="found a directory of over 0 MiB"):
        extract(archive, target)
    monkeypatch.setattr("pixaff.io.zips.MOST_DIRECTORY", 90_000)
    assert len(extract(archive, target)) == 200


def test_a_zip_whose_directory_is_damaged_loses_no_member_in_silence(tmp_path, target):
    content = zipped(tmp_path / "a.zip", GOOD).read_bytes()
    directory = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    second = content.index(b"PK\x01\x02", directory + 4)

    def refused(changed):
        (tmp_path / "a.zip").write_bytes(changed)
        shutil.rmtree(target)
        target.mkdir()
        with pytest.raises(DownloadError, match=r"a\.zip: damaged zip archive|is neither file nor folder") as caught:
            extract(tmp_path / "a.zip", target)
        assert len(str(caught.value)) < 300

    name = content.index(b"out/2007_000032.npy", directory)
    refused(content[: name + 18] + b"x" + content[name + 19 :])  # a suffix that is passed over
    shorter = bytearray(content[:directory] + content[second:])  # one entry less, and the lengths fit
    place = shorter.index(b"PK\x05\x06")
    shorter[place + 12 : place + 16] = (end - second).to_bytes(4, "little")
    refused(bytes(shorter))
    for offset in (directory + 42, end + 16):  # where a member, and the directory, begin
        refused(content[:offset] + b"\xff\xff\xff\xff" + content[offset + 4 :])
