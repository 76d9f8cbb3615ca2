"""Object storage for archived log: a local folder or an S3 bucket, written once, read back.

1. An object is created and never overwritten; creating it again with the same bytes is no error.
2. `put` returns when the bytes would survive a power loss: a folder's files are synced.
3. The calls block and are made in threads: the library's own coroutines were seen to abort the
   interpreter at its end, its blocking calls were not (ADR 0019).
"""

import ipaddress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, S3Store

from .tiles import sync_files

__all__ = ["Depot", "DepotAway", "InvalidDepot", "ObjectDiffers", "depot_of"]

TIMEOUT = "60s"


class DepotAway(ConnectionError):
    """The object storage does not answer as it must; whoever asks tries again."""


class ObjectDiffers(Exception):
    """An object of this name stands already, with other bytes."""


class InvalidDepot(ValueError):
    """The storage's address cannot be used."""


def away(place: str, error: Exception) -> DepotAway:
    """The storage's complaint, in a line."""
    return DepotAway(f"{place}: {str(error).partition(chr(10))[0]}")


class Entry(NamedTuple):
    """One stored object."""

    name: str
    size_bytes: int


class Depot:
    """One folder or bucket. Every call blocks."""

    def __init__(self, url: str, endpoint: str = "", login: tuple[str, str] = ("", "")) -> None:
        """Connects to nothing yet; raises InvalidDepot."""
        self.url = url
        self._folder: Path | None = None
        if url.startswith("s3://"):
            self._store: Any = s3(url, endpoint, login)
        elif "://" in url.removeprefix("file://"):
            raise InvalidDepot(f"archive is {url!r}: want a folder or s3://bucket/prefix")
        else:
            self._folder = Path(url.removeprefix("file://"))
            if not self._folder.is_absolute():
                raise InvalidDepot(f"archive is {url!r}: want an absolute folder")
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._store = LocalStore(str(self._folder))

    def put(self, name: str, content: bytes) -> None:
        """Create an object; raises ObjectDiffers where another stands under the name."""
        try:
            obstore.put(self._store, name, content, mode="create")
        except AlreadyExistsError:
            if self.get(name) != content:
                raise ObjectDiffers(
                    f"{self.url}/{name} stands already with other content: it is never overwritten"
                ) from None
        except (BaseError, OSError) as error:
            raise away(f"{self.url}/{name}", error) from error
        if self._folder is not None:
            sync_files([self._folder / name], self._folder)

    def get(self, name: str) -> bytes:
        """An object's bytes; FileNotFoundError where there is none."""
        try:
            return bytes(obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            raise away(f"{self.url}/{name}", error) from error

    def list(self, prefix: str) -> list[Entry]:
        """The objects below a prefix, which is a whole path segment, sorted by name."""
        try:
            found = [
                Entry(str(one["path"]), int(one["size"]))
                for page in obstore.list(self._store, prefix=prefix)
                for one in page
            ]
        except (BaseError, OSError) as error:
            raise away(f"{self.url}/{prefix}", error) from error
        return sorted(found)

    def remove(self, name: str) -> None:
        """Remove an object; one that is not there is no error."""
        try:
            obstore.delete(self._store, name)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise away(f"{self.url}/{name}", error) from error

    def path(self, name: str) -> Path | None:
        """The object as a local file, where the storage is a folder."""
        return None if self._folder is None else self._folder / name


def s3(url: str, endpoint: str, login: tuple[str, str]) -> S3Store:
    """The bucket of an `s3://` address; clear text is for loopback only."""
    parts = urlsplit(url)
    if not parts.netloc:
        raise InvalidDepot(f"archive is {url!r}: want s3://bucket/prefix")
    given: dict[str, Any] = {"region": "us-east-1", "virtual_hosted_style_request": False}
    options: Any = {"timeout": TIMEOUT}
    if endpoint:
        host = urlsplit(endpoint).hostname or ""
        if endpoint.startswith("http://") and not on_loopback(host):
            raise InvalidDepot(f"archive endpoint is {endpoint!r}: want https:// off loopback")
        given["endpoint"] = endpoint
        options["allow_http"] = endpoint.startswith("http://")
    if login[0]:
        given["access_key_id"], given["secret_access_key"] = login
    return S3Store(
        parts.netloc, prefix=parts.path.strip("/") or None, client_options=options, **given
    )


def on_loopback(host: str) -> bool:
    """Whether a host is this machine and no other."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def depot_of(place: object) -> Depot | None:
    """Where the archived log of a process lies, or None where its settings name no place."""
    url = getattr(place, "archive", "")
    if not url:
        return None
    return Depot(
        url, getattr(place, "archive_endpoint", ""), getattr(place, "archive_login", ("", ""))
    )
