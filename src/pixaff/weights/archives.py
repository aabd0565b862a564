"""Archives that others made: unpacked member by member, each looked at first, within bounds."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import re
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from pixaff.errors import DownloadError, quoted, shortened
from pixaff.io.atomic import output_errors
from pixaff.io.zips import open_zip
from pixaff.weights.disk import ensure_space, size_words


class UntrustedError(DownloadError):
    """What came looks as if somebody meant harm, or is not what it was before: another copy is no way out."""


KEPT = (".npy", ".png")
CHUNK = 1 << 18
MOST_NAME, MOST_PATH = 255, 1000
"""Bytes of a name and of a path in an archive: what file systems take, and a part of the 4,096 of a whole path."""
_MAGIC = {
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "tar.gz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_NAMING = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ENOTDIR, errno.EISDIR)
_UNUSABLE = ("Cc", "Cs")  # control characters, and bytes that are no UTF-8
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)

_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,
    OverflowError,
    LookupError,
    OSError,  # of reading: zipfile seeks to wherever a header says
    RuntimeError,  # also a compression that zipfile does not know, and headers nested without end
)


@dataclass(frozen=True)
class Limits:
    """Bounds beyond which an archive is refused. The published ones hold 10,582 files, some 2 MB each.

    Attributes:
        members: Number of members, whether kept or not.
        total: Bytes unpacked in all.
        member: Bytes of one file.
        ratio: Bytes unpacked for each byte of the archive, counted from ``free`` on.
        free: Bytes for which the ratio is not looked at.
    """

    members: int = 200_000
    total: int = 100 << 30
    member: int = 1 << 30
    ratio: int = 200
    free: int = 64 << 20


LIMITS = Limits()


def archive_kind(path: Path) -> str:
    """ "zip", "tar" or "tar.gz", told by the content.

    Raises:
        DownloadError: It is of another kind, which is named, or no archive.
    """
    with output_errors(path), open(path, "rb") as file:
        head = file.read(512)
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")
    if head[257:262] == b"ustar":
        kind = "tar"
    if kind in ("zip", "tar", "tar.gz"):
        return kind
    found = f"a {kind} archive, which is not supported" if kind else "no archive"
    raise DownloadError(
        f"{path.name}: found {found}, expected zip, tar or tar.gz",
        "unpack it yourself and give --from-dir" * bool(kind),
    )


def extract(archive: Path, target: Path, limits: Limits = LIMITS) -> dict[str, tuple[int, str]]:
    """Unpack the `.npy` and `.png` members of an archive.

    Every member is looked at, kept or not; the first bad one ends it, and so does an archive that ends too early. What
    was unpacked until then stays in ``target`` for the caller to remove.

    Args:
        archive: A zip, tar or tar.gz file.
        target: An empty folder.
        limits: The bounds.

    Returns:
        For each file its size in bytes and SHA-256.

    Raises:
        DownloadError: A member has an absolute path or "..", is a link or a device, is there twice, or a bound is
            passed; or the archive is damaged or holds nothing to keep. Names archive and member.
        OutputError: The disk is full.
    """
    kind = archive_kind(archive)
    room = _Room(archive, limits, target)
    try:
        kept = _unzip(archive, room) if kind == "zip" else _untar(archive, kind, room)
    except _DAMAGED as error:
        reason = (
            str(error) if isinstance(error, (zipfile.BadZipFile, tarfile.TarError, OSError)) else type(error).__name__
        )
        raise DownloadError(f"{archive.name}: damaged {kind} archive: {shortened(reason)}", "fetch it again") from None
    if not kept:
        raise DownloadError(f"{archive.name}: found no {' or '.join(KEPT)} file in it")
    return kept


def content_folder(folder: Path) -> Path:
    """The folder that holds the files: archives often have all of them in one folder of their own."""
    while True:
        entries = list(folder.iterdir())
        if len(entries) != 1 or not entries[0].is_dir():
            return folder
        folder = entries[0]


def safe_path(name: str, what: str) -> PurePosixPath:
    """The path of a member, which stays inside the folder it is unpacked to on every system.

    Raises:
        DownloadError: It would not.
    """
    path = PurePosixPath(name)
    if not name or name.startswith("/") or re.match(r"[A-Za-z]:", name):
        wrong = "an absolute path"
    elif ".." in path.parts:
        wrong = '".." in its path'
    elif any(unicodedata.category(sign) in _UNUSABLE or sign in '\\:*?"<>|' for sign in name) or any(
        _RESERVED.fullmatch(part) or part.endswith((".", " ")) for part in path.parts
    ):
        wrong = "a name that is none on every system"
    elif any(_length(part) > MOST_NAME for part in path.parts) or _length(name) > MOST_PATH:
        wrong = "a name that is too long"
    else:
        return path
    raise UntrustedError(f"{what}: the member {quoted(name)} has {wrong}", "do not trust it; nothing of it is kept")


def _length(name: str) -> int:
    """Bytes of a name, by which file systems count."""
    return len(name.encode("utf-8", "surrogatepass"))


class _Room:
    """Where members go, and how much may still come.

    Args:
        archive: The archive, for its name and size.
        limits: The bounds.
        target: The folder.
    """

    def __init__(self, archive: Path, limits: Limits, target: Path) -> None:
        self.what, self.limits, self.target = archive.name, limits, target
        self.most = min(limits.total, limits.free + limits.ratio * archive.stat().st_size)
        self.members = self.bytes = self.checked = 0
        self.kept: dict[str, tuple[int, str]] = {}
        self.folders: set[PurePosixPath] = set()

    def admit(self, name: str, regular: bool, folder: bool, size: int) -> PurePosixPath | None:
        """Look at a member; the path to unpack it to, or None for one that is passed over."""
        self.members += 1
        if self.members > self.limits.members:
            self.refuse(f"more than {self.limits.members} members")
        path = safe_path(name, self.what)
        if folder:
            return None
        if not regular:
            raise UntrustedError(
                f"{self.what}: the member {quoted(name)} is neither file nor folder",
                "do not trust it; nothing of it is kept",
            )
        if size > self.limits.member:
            self.refuse(f"a member of {size_words(size)}, {quoted(name)}")
        if self.bytes + size > self.most:
            self.refuse(f"more than {size_words(self.most)} to unpack")
        return path if path.suffix.lower() in KEPT and not path.name.startswith(".") else None

    def write(self, path: PurePosixPath, content: IO[bytes]) -> None:
        """Unpack one file, counting what really comes."""
        place = self.target.joinpath(*path.parts)
        self.folders |= set(path.parents)
        if path in self.folders or any(str(folder) in self.kept for folder in path.parents):
            raise UntrustedError(
                f"{self.what}: the member {quoted(path)} is a file and a folder", "nothing of it is kept"
            )
        hasher, size = hashlib.sha256(), 0
        with contextlib.ExitStack() as stack:
            with output_errors(place):
                try:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    file = stack.enter_context(open(place, "xb"))
                except FileExistsError:
                    raise UntrustedError(f"{self.what}: the member {quoted(path)} is there twice") from None
                except OSError as error:
                    if error.errno not in _NAMING:
                        raise
                    reason = f"the member {quoted(path)} has a name that this file system does not take"
                    raise UntrustedError(f"{self.what}: {reason}: {error.strerror}") from None
            while piece := content.read(CHUNK):
                size += len(piece)
                self.count(len(piece))
                if size > self.limits.member:
                    self.refuse(f"a member of more than {size_words(self.limits.member)}, {quoted(path)}")
                hasher.update(piece)
                with output_errors(place):
                    file.write(piece)
        self.kept[str(path)] = (size, hasher.hexdigest())

    def count(self, size: int) -> None:
        self.bytes += size
        if self.bytes > self.most:
            self.refuse(f"more than {size_words(self.most)} to unpack")
        if self.bytes - self.checked > 1 << 28:
            ensure_space(self.target, 0)
            self.checked = self.bytes

    def refuse(self, found: str) -> None:
        raise UntrustedError(f"{self.what}: found {found}", "it may be an archive bomb; nothing of it is kept")


def _unzip(archive: Path, room: _Room) -> dict[str, tuple[int, str]]:
    with open_zip(archive) as file:
        members = file.infolist()
        if len(members) > room.limits.members:
            room.refuse(f"{len(members)} members, more than {room.limits.members}")
        ensure_space(room.target, min(sum(member.file_size for member in members), room.most))
        for member in members:
            if member.flag_bits & 1:
                raise DownloadError(f"{archive.name}: found an encrypted zip archive, expected an open one")
            mode = stat.S_IFMT(member.external_attr >> 16)
            folder = member.is_dir() and mode in (0, stat.S_IFDIR)
            # orig_filename: ZipFile has already replaced what it holds for separators in the other.
            path = room.admit(member.orig_filename, mode in (0, stat.S_IFREG), folder, member.file_size)
            if path is None:
                _check_header(file, member)
                continue
            with file.open(member) as content:
                room.write(path, content)
    return room.kept


def _check_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Whether a member that is passed over is called the same in both places: its name may be a damaged one.

    Raises:
        zipfile.BadZipFile: It is not.
    """
    with contextlib.suppress(NotImplementedError), archive.open(member):  # packed in a way that zipfile does not know
        pass


def _untar(archive: Path, kind: str, room: _Room) -> dict[str, tuple[int, str]]:
    ensure_space(room.target, archive.stat().st_size)
    with contextlib.ExitStack() as stack:
        raw: IO[bytes] = stack.enter_context(open(archive, "rb"))
        if kind == "tar.gz":
            raw = stack.enter_context(gzip.GzipFile(fileobj=raw))  # type: ignore[arg-type]
        # Passing over a member unpacks it too, and a header may ask for any amount of memory: both are bounded.
        bounded = _Bounded(raw, room)
        file = stack.enter_context(tarfile.open(fileobj=bounded, mode="r:"))
        for member in _members(file):
            regular = member.isreg() and not member.issparse()
            path = room.admit(member.name, regular, member.isdir(), member.size)
            content = None if path is None else file.extractfile(member)
            if path is not None and content is not None:
                room.write(path, content)
        _check_end(bounded)
    return room.kept


def _check_end(stream: _Bounded) -> None:
    """Whether a tar ends as it must: tarfile takes any header that is damaged or missing for the end.

    Raises:
        tarfile.TarError: It is cut, damaged, or goes on after its end.
    """
    if stream.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("a header is damaged" if stream.last else "it ends too early")
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it ends too early")
    while rest := stream.read(CHUNK):  # which also compares the checksum of a gzip stream
        if rest.count(0) != len(rest):
            raise tarfile.ReadError("something follows after its end")


def _members(file: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := file.next()) is not None:
        yield member
        file.members.clear()  # type: ignore[attr-defined]


class _Bounded(io.RawIOBase):
    """A stream for tarfile that no seek or read takes beyond the bounds."""

    def __init__(self, raw: IO[bytes], room: _Room) -> None:
        self.raw, self.room = raw, room
        # Headers and padding of each member come on top of the files' bytes.
        self.most = room.most + 10_240 + 4_096 * room.limits.members
        self.place, self.last = 0, b""

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > 1 << 20:
            self.room.refuse("a header of more than a megabyte")
        if self.place + size > self.most:
            self.room.refuse(f"more than {size_words(self.room.most)} to unpack")
        found = self.raw.read(size)
        self.place, self.last = self.place + len(found), found
        return found

    def seek(self, place: int, whence: int = 0) -> int:
        if whence or place > self.most:
            self.room.refuse(f"more than {size_words(self.room.most)} to unpack")
        self.place = self.raw.seek(place)
        return self.place

    def tell(self) -> int:
        return self.place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
