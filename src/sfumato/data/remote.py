"""Files behind URLs (s3://, gs://, az://, hf://, https://, ...), through fsspec: listed, told apart, read patiently."""

import io
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from sfumato.data.document import DataError

T = TypeVar("T")
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before each new attempt
BLOCK = 1 << 20  # bytes fetched at once; many files are open at the same time
# What names the content of a file without reading it, best first; stores call it differently.
_MARKS = (
    *("ETag", "etag", "md5Hash", "content_md5", "sha256", "blob_id"),
    *("LastModified", "Last-Modified", "mtime", "updated", "created"),
)
_SETTLED = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError, ValueError)


class Found(NamedTuple):
    """A file behind a URL."""

    url: str
    inside: str
    """Its path below what was asked for; "" for that itself."""
    size: int
    """Bytes; -1 where the server does not say, or gives it from its beginning alone."""
    mark: str
    """Changes whenever the content does; "" where the server has nothing like it."""


def is_url(name: str) -> bool:
    """Whether a source is named by a URL and not by a path."""
    return "://" in name


def without_query(name: str) -> str:
    """A path, or a URL without what stands behind ?, which may be a signature that nobody else should see."""
    return name.partition("?")[0] if name.startswith("http") else name


def shown(text: str) -> str:
    """A URL, or a message with some, for people to read: without what stands behind ? and without a password."""
    text = re.sub(r"""(https?://[^\s?'"]*)\?[^\s'")]*?(?=[:;,.]?([\s'")]|$))""", r"\1", text)
    return re.sub(r"(\w://)[^\s/@:]*:[^\s/@]*@", r"\1", text)


def listed(url: str) -> list[Found]:
    """The file itself, or all files in a folder or of a pattern, sorted by name; empty ones too.

    Raises:
        DataError: there is none, it may not be read, or a package is missing; one line.
    """
    system, path = _system(url)
    system.invalidate_cache()  # of earlier listings: what changed since is to be seen
    base = path.rstrip("/")
    if not url.startswith("http") and any(sign in path for sign in "*?["):  # whose ? begins a query
        found = _told(url, lambda: system.glob(path, detail=True))
        base = base[: min(base.index(sign) for sign in "*?[" if sign in base)].rpartition("/")[0]
    else:
        info = _told(url, lambda: system.info(path))
        if info["type"] != "directory":
            return [_found(url, "", info)]
        found = _told(url, lambda: system.find(path, detail=True))
    files = {name: info for name, info in found.items() if info["type"] == "file"}
    return [
        _found(system.unstrip_protocol(name), name.removeprefix(base).lstrip("/"), files[name])
        for name in sorted(files)
    ]


def opened(url: str, size: int) -> io.BufferedReader:
    """The bytes of a file, fetched as they are read, from where it broke off if the connection fails.

    Raises:
        DataError: it cannot be read; one line.
    """
    system, path = _system(url)
    block = BLOCK if size >= 0 else 0  # which asks for all of it, as one stream
    return io.BufferedReader(_Steady(url, lambda: system.open(path, "rb", block_size=block), size), 1 << 17)


def patiently(action: Callable[[], T]) -> T:
    """Do it; after a failure that may pass, such as one of the network, again after a while.

    Raises:
        Exception: what the last attempt raised, or one that no patience helps against.
    """
    for pause in PAUSES:
        try:
            return action()
        except Exception as error:
            if _settled(error):
                raise
            time.sleep(pause)
    return action()


def _settled(error: Exception) -> bool:
    """Whether trying again is useless."""
    status = getattr(error, "status", None)  # of an HTTP answer
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (408, 425, 429)
    return isinstance(error, _SETTLED) or "Credentials" in type(error).__name__


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it."""
    try:
        import fsspec
    except ImportError:
        raise DataError(f"{shown(url)}: reading from a URL needs fsspec; pip install 'sfumato[remote]'") from None
    return _told(url, lambda: fsspec.core.url_to_fs(url))


def _told(url: str, action: Callable[[], T]) -> T:
    """Do it patiently; what goes wrong becomes one line about the URL."""
    try:
        return patiently(action)
    except DataError:
        raise
    except Exception as error:  # each file system has kinds of its own
        raise DataError(shown(f"{url}: {_why(error)}")) from None


def _why(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    status = getattr(error, "status", None)
    if isinstance(error, ImportError):
        return f"a package is missing ({line}); pip install 'sfumato[remote]' and the one named here, such as s3fs"
    if isinstance(error, FileNotFoundError) or status == 404:
        return f"no such file, folder or bucket ({line})"
    if isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in type(error).__name__:
        return f"access denied ({line}); check the credentials and their rights to list and to read"
    return f"cannot be read ({line})"


def _found(url: str, inside: str, info: dict[str, Any]) -> Found:
    mark = next((str(info[name]) for name in _MARKS if info.get(name)), "")
    size = None if info.get("partial") is False else info.get("size")
    return Found(url, inside, -1 if size is None else int(size), mark)


class _Steady(io.RawIOBase):
    """A file that is opened again where it broke off."""

    def __init__(self, url: str, begin: Callable[[], Any], size: int):
        self._url, self._begin, self._size = url, begin, size
        self._file: Any = None
        self._at = self._begun = 0  # where the next bytes are wanted, and where a file that cannot seek is

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._size >= 0

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence != io.SEEK_END or self.seekable()
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = _told(self._url, lambda: self._read(len(buffer)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _read(self, count: int) -> bytes:
        try:
            if self._file is None:
                self._file = self._begin()
                self._begun = 0
            if self._size >= 0 and self._file.tell() != self._at:
                self._file.seek(self._at)
            while self._size < 0 and self._begun < self._at:  # what was read before it broke off
                self._begun += len(self._file.read(min(self._at - self._begun, BLOCK)))
            data = self._file.read(count)
            self._begun += len(data)
            return data
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def close(self) -> None:
        self._drop()
        super().close()
