"""Files behind URLs: ``s3://``, ``gs://``, ``hf://`` and whatever else fsspec knows.

A path may hold an address: ``Path("s3://bucket/a")`` keeps all of it but a slash, which `address_of` puts back.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pixaff.errors import OutputError, PixaffError, UsageError, shortened
from pixaff.io.blob import MOST

Stamp = tuple[int, str]
"""Size of a file in bytes, and what its store calls this version of it: a digest or a time."""

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(:/{1,3}|::)")  # two letters at least: "C:/" is a disk
_LOCAL = ("file", "local")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_PACKAGES = {**{name: f"'pixaff[{extra}]'" for name, extra in _EXTRAS.items()}, "hf": "huggingface_hub"}
_WHOLE = frozenset(("s3", "s3a", "gs", "gcs", "hf", "memory", "az", "abfs", "abfss", "adl", "oci", "oss", "r2"))
"""Stores in which a file appears with all its bytes or not at all."""
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; of a store other than Amazon's also "
    "AWS_ENDPOINT_URL",
    "gs": "log in: gcloud auth application-default login; or set GOOGLE_APPLICATION_CREDENTIALS",
    "hf": "log in: hf auth login; or set HF_TOKEN",
}
_REFUSED = re.compile(
    r"credential|anonymous|unauthorized|forbidden|access ?denied|permission|\b40[13]\b", re.IGNORECASE
)


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL of files that are elsewhere."""
    found = _ADDRESS.match(str(path))
    return found is not None and found[1].lower() not in _LOCAL


def local_path(path: str | os.PathLike[str]) -> str:
    """A path as it is; of ``file:///photos`` the path in it."""
    text = str(path)
    found = _ADDRESS.match(text)
    if found is None or found[1].lower() not in _LOCAL:
        return text
    return "/" + text[found.end() :] if found[2] != "::" else text


def address_of(path: str | os.PathLike[str]) -> str:
    """A path as text; of an address, with the two slashes of which a `Path` keeps one."""
    text = str(path)
    return re.sub(r":/+", "://", text, count=1) if is_address(text) else text


def listed(folder: str, recursive: bool = False) -> dict[str, Stamp]:
    """The files of a folder by their paths from it, in order of these; none where there is no such folder.

    Raises:
        PixaffError: It cannot be listed.
    """
    with _errors(folder, "read"):
        files, root = _opened(folder)
        root = root.rstrip("/")
        try:
            found = (
                files.find(root, detail=True)
                if recursive
                else {one["name"]: one for one in files.ls(root, detail=True)}
            )
        except FileNotFoundError:
            return {}
    names = {}
    for place, facts in found.items():
        name = place.strip("/").removeprefix(root.strip("/")).strip("/")
        if facts.get("type") == "file" and name:
            names[name] = _stamp(facts)
    return dict(sorted(names.items()))


def matching(pattern: str) -> list[str]:
    """The files that a pattern such as ``s3://bucket/*.tar`` means.

    Raises:
        PixaffError: The store cannot be asked.
    """
    with _errors(pattern, "read"):
        files, path = _opened(pattern)
        return [files.unstrip_protocol(found) for found in sorted(files.glob(path))]


def stamp_of(address: str) -> Stamp | None:
    """Size and version of a file; None where there is none.

    Raises:
        PixaffError: The store cannot be asked.
    """
    with _errors(address, "read"):
        files, path = _opened(address)
        try:
            facts = files.info(path)
        except FileNotFoundError:
            return None
    return _stamp(facts) if facts.get("type") == "file" else None


def read_address(address: str, error: type[PixaffError] = PixaffError) -> bytes:
    """The content of a file of at most 1 GiB.

    Raises:
        PixaffError: Of the class given: there is no such file, it is too large or cannot be read.
    """
    with _errors(address, "read", error):
        files, path = _opened(address)
        data: bytes = files.cat_file(path, start=0, end=MOST + 1)
    if len(data) > MOST:
        raise error(f"{_shown(address)}: found over {MOST >> 30} GiB, expected a photo", "shrink it first")
    return data


def fetch(address: str, path: Path) -> None:
    """Copy a file of any size to a local path.

    Raises:
        PixaffError: It cannot be read.
    """
    with _errors(address, "read"):
        files, place = _opened(address)
        files.get_file(place, os.fspath(path))


def put(address: str, path: Path) -> None:
    """Copy a local file to an address, where it appears with all its bytes or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    with _errors(address, "written", OutputError):
        files, place = _opened(address)
        kinds = {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)
        if kinds & _WHOLE:
            _send(files, path, place)
            return
        folder, _, name = place.rpartition("/")
        files.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.pixaff-{secrets.token_hex(4)}-{name}"
        try:
            _send(files, path, temporary)
            files.mv(temporary, place)
        except BaseException:
            if files.exists(temporary):
                files.rm_file(temporary)
            raise


def _send(files: Any, path: Path, place: str) -> None:
    if path.stat().st_size <= 64 << 20:  # one request
        files.pipe_file(place, path.read_bytes())
    else:
        files.put_file(os.fspath(path), place)


def _opened(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    import fsspec.core  # type: ignore[import-untyped]

    found = fsspec.core.url_to_fs(address_of(address), use_listings_cache=False)
    return found[0], str(found[1])


def _stamp(facts: dict[str, Any]) -> Stamp:
    version = next((facts[key] for key in ("ETag", "etag", "md5Hash", "blob_id") if facts.get(key)), "")
    if not version:
        version = next((facts[key] for key in ("LastModified", "updated", "mtime", "created") if facts.get(key)), "")
    return int(facts.get("size") or 0), str(version)


@contextmanager
def _errors(address: str, done: str, error: type[PixaffError] = PixaffError) -> Iterator[None]:
    """What a library says about a store, in one line that names the address."""
    shown, protocol = _shown(address), str(address_of(address)).split("://")[0].split("::")[-1].lower()
    try:
        yield
    except PixaffError:
        raise
    except FileNotFoundError:
        raise error(f"{shown}: no such file or folder", "check the address") from None
    except ImportError as cause:
        package = _PACKAGES.get(protocol)
        hint = f"pip install {package}" if package else f"install it: {shortened(cause)}"
        raise error(f"{shown}: {protocol}:// needs a package that is not installed", hint) from None
    except ValueError as cause:
        if "rotocol" in str(cause):
            raise UsageError(f"{shown}: found an unknown kind of address", "expected s3://, gs:// or hf://") from None
        raise error(f"{shown}: cannot be {done}: {shortened(cause)}", "check the address") from None
    except Exception as cause:  # each store's library has its own
        words = " ".join(f"{type(cause).__name__}: {cause}".split())
        if isinstance(cause, PermissionError) or _REFUSED.search(words):
            hint = _CREDENTIALS.get(_EXTRAS.get(protocol, protocol), "check your credentials")
            raise error(f"{shown}: no permission, or no credentials: {shortened(words, 160)}", hint) from None
        hint = "check the network and the address; the same command then continues"
        raise error(f"{shown}: cannot be {done}: {shortened(words, 160)}", hint) from None


def _shown(address: str) -> str:
    """An address without a password that it may contain."""
    return shortened(re.sub(r"//[^/@]*@", "//", address_of(address)), 200)
