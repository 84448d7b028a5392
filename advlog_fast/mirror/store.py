"""The remote store: a folder at a URL, through fsspec. It holds one folder for each mirror."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..exceptions import AdvlogError
from ..store.files import SCRATCH, scratch_name
from ..store.paths import URL

_PACKAGES = {
    "file": "'advlog-fast[remote]'",
    "s3": "'advlog-fast[remote]'",
    "gs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
"""For each scheme what to install, where its package is missing."""

_FOLDER = "advlog-mirror"
_MANIFEST = "manifest.json"
_MIRROR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_OBJECT = re.compile(r"[0-9a-f]{64}\Z")
_OWN = re.compile(rf"(?:[0-9a-f]{{64}}|{re.escape(_MANIFEST)}){SCRATCH}\Z")


class RemoteError(AdvlogError, OSError):
    """A remote store cannot be used, or holds what no mirror writes."""


def checked_url(url: str) -> str:
    """Returns a URL that a mirror may have.

    :raises ValueError: it has another scheme, chains protocols, or holds credentials. The message shows no part of it
        that may be a secret.
    """
    match = URL.match(url)
    scheme = match[1].lower() if match else ""
    if "::" in url:
        raise ValueError("url: expected one protocol, got several, chained by '::'")
    if match is None or scheme not in _PACKAGES:
        raise ValueError(f"url: expected a URL of {', '.join(_PACKAGES)}, got one of {scheme or 'no scheme'!r}")
    place = url[len(scheme) + 1 :]
    if not place.startswith("//"):
        raise ValueError(f"url: expected {scheme}:// and a place, got one slash or none")
    host = place[2:].partition("/")[0]
    # abfs names a container as CONTAINER@ACCOUNT.
    if "?" in url or "#" in url or ("@" in host and (":" in host.split("@")[0] or not scheme.startswith("abfs"))):
        raise ValueError(
            "url: expected a URL without a user, a password or keys after '?' or '#': the store's own package finds "
            "credentials in the environment and in its files"
        )
    parts = place[2:].rstrip("/").split("/")
    if any(part in (".", "..") or not part.isprintable() for part in parts) or (scheme == "file") != (not host):
        raise ValueError(
            f"url: expected {scheme}://{'/FOLDER' if scheme == 'file' else 'BUCKET/FOLDER'} without '.' and '..' in it"
        )
    return f"{scheme}://{'/'.join(parts)}"


class Store:
    """The mirrors at a URL.

    :raises ValueError: see :func:`checked_url`.
    :raises RemoteError: the package for the scheme is not installed, or cannot be used.

    Every method raises RemoteError where the store fails, however its package says so.
    """

    def __init__(self, url: str) -> None:
        self.url = checked_url(url)
        scheme = self.url.partition(":")[0]
        try:
            import fsspec

            # Of the objects' names and sizes no process but this one knows when they change.
            self._files: Any = fsspec.filesystem(scheme, use_listings_cache=False)
        except ImportError:
            command = f"pip install {_PACKAGES[scheme]}"
            raise RemoteError(f"{scheme}:// needs a package that is not installed: {command}") from None
        except Exception as error:
            raise RemoteError(f"{scheme}:// cannot be used: {type(error).__name__}: {error}") from error
        self._is_local = scheme == "file"
        self._root = f"{self._files._strip_protocol(self.url)}/{_FOLDER}"

    def mirrors(self) -> list[str]:
        """Returns the names of the mirrors."""
        names = (os.path.basename(entry["name"].rstrip("/")) for entry in self._entries(self._root, "directory"))
        return sorted(filter(_MIRROR.match, names))

    def manifest(self, mirror: str, limit: int) -> bytes | None:
        """Returns the content of a mirror's manifest, cut behind so many bytes; None if it has none."""
        return self.get(mirror, _MANIFEST, limit)

    def put_manifest(self, mirror: str, data: bytes) -> None:
        """Replaces a mirror's manifest, at once."""
        self.put(mirror, _MANIFEST, data)

    def objects(self, mirror: str) -> dict[str, int]:
        """Returns the sizes of a mirror's objects, and of what a kill left of an upload."""
        entries = {os.path.basename(each["name"]): each for each in self._entries(f"{self._root}/{mirror}", "file")}
        return {name: int(e["size"]) for name, e in entries.items() if _OBJECT.match(name) or _OWN.match(name)}

    def get(self, mirror: str, name: str, limit: int) -> bytes | None:
        """Returns the content of an object, cut behind so many bytes; None if there is none."""
        path = f"{self._root}/{mirror}/{name}"
        with self._told():
            if self._is_local and not os.path.isfile(path):  # a pipe would be waited for
                return None
            try:
                return bytes(self._files.cat_file(path, start=0, end=limit))
            except FileNotFoundError:
                return None

    def put(self, mirror: str, name: str, data: bytes) -> None:
        """Writes an object, at once."""
        folder = f"{self._root}/{mirror}"
        with self._told():
            if not self._is_local:
                self._files.pipe_file(f"{folder}/{name}", data)
                return
            # A file can be seen while it is written; what a server stores appears whole.
            scratch = str(scratch_name(Path(folder), name))
            self._files.makedirs(folder, exist_ok=True)
            self._files.pipe_file(scratch, data)
            self._files.mv(scratch, f"{folder}/{name}")

    def remove(self, mirror: str, name: str) -> None:
        """Removes an object, if it is there."""
        with self._told(), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{mirror}/{name}")

    def _entries(self, folder: str, kind: str) -> list[dict[str, Any]]:
        with self._told():
            try:
                self._files.invalidate_cache()
                entries = self._files.ls(folder, detail=True)
            except FileNotFoundError:
                return []
            return [entry for entry in entries if entry["type"] == kind and not entry.get("islink")]

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the packages raise errors of many types
            raise RemoteError(f"{self.url}: {type(error).__name__}: {error}") from error
