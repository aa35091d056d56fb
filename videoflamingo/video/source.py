"""What video can be read from: a path, bytes, an open file, a URL, a folder of numbered pictures, or a part of one.

Readers open a source more than once (each decoding thread has a handle of its own) and a decode pool sends it to
another process. So everything a caller may give becomes one small object that can be pickled and opened many times.
"""

import io
import os
import re
import stat
from dataclasses import dataclass
from typing import BinaryIO

from videoflamingo.errors import UsageError, VideoError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_READ_AHEAD_BYTES = 1 << 20  # of remote files: an index at the end and pictures at the front want small blocks


@dataclass(frozen=True, repr=False)
class SourceFile:
    """One thing to read video from, openable any number of times, also in another process.

    Args:
        name: the path or URL, or words in angle brackets for bytes; every message begins with it.
        data: the content itself, for bytes and open files.

    >>> SourceFile.of(b"1234").name
    '<4 bytes>'
    """

    name: str
    data: bytes | None = None

    @classmethod
    def of(cls, source: object) -> "SourceFile":
        """What a caller gave, as a source.

        Args:
            source: a path, a URL (`http://`, `s3://`, whatever fsspec knows), bytes, or a binary file open for reading.
                A file that has a path is read from that path, from its beginning; another is read into memory.

        Raises:
            UsageError: if it is none of these.
        """
        if isinstance(source, SourceFile):
            return source
        if isinstance(source, (bytes, bytearray, memoryview)):
            data = bytes(source)
            return cls(f"<{len(data):,} bytes>", data)
        if isinstance(source, (str, os.PathLike)):
            name = os.fspath(source)
            if isinstance(name, str):
                return cls(name.removeprefix("file://"))
        if hasattr(source, "read"):
            return cls._of_open_file(source)  # type: ignore[arg-type]
        raise UsageError(
            f"source={source!r} is a {type(source).__name__}; give a path, a URL, bytes or a file open for reading "
            "in binary mode"
        )

    @classmethod
    def _of_open_file(cls, file: BinaryIO) -> "SourceFile":
        name = getattr(file, "name", None)
        if isinstance(name, str) and os.path.isfile(name):
            return cls(name)
        if hasattr(file, "seek"):
            file.seek(0)
        data = file.read()
        if not isinstance(data, bytes):
            raise UsageError(f"the open file {file!r} gives text; open it in binary mode ('rb')")
        return cls(name if isinstance(name, str) else f"<open file of {len(data):,} bytes>", data)

    def __repr__(self) -> str:
        return f"SourceFile({self.name})"

    @property
    def is_remote(self) -> bool:
        """Whether it is a URL, which fsspec opens."""
        return self.data is None and _URL.match(self.name) is not None

    @property
    def is_local(self) -> bool:
        """Whether `name` is a path on this machine."""
        return self.data is None and not self.is_remote

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder on this machine."""
        return self.is_local and os.path.isdir(self.name)

    def check(self) -> None:
        """Refuse what cannot be video before any library sees it. A URL is only asked when it is opened.

        Raises:
            VideoError: if the source is missing, neither a file nor a folder, unreadable or empty.
        """
        if self.is_local:
            if not os.path.exists(self.name):
                raise VideoError(f"{self.name}: no such file; check the path")
            mode = os.stat(self.name).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                kind = "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
                raise VideoError(f"{self.name}: is {kind}, not a file, and need never end; write it to a file first")
            if not os.access(self.name, os.R_OK):
                raise VideoError(f"{self.name}: permission to read it is denied; check the file's permissions")
        if not self.is_remote and not self.is_folder and self.num_bytes() == 0:
            raise VideoError(f"{self.name}: is empty (0 bytes); download or copy it again")

    def open(self) -> str | BinaryIO:
        """The path, or a new file object at its beginning: what PyAV, decord and Pillow open.

        Raises:
            UsageError: if a URL needs a package that is not installed.
            VideoError: if a URL cannot be opened.
        """
        if self.data is not None:
            return io.BytesIO(self.data)
        return self._open_remote() if self.is_remote else self.name

    def _open_remote(self) -> BinaryIO:
        try:
            import fsspec
        except ImportError as error:
            raise UsageError(f"{self.name}: URLs need fsspec: pip install 'videoflamingo[remote]'") from error
        try:
            system, path = fsspec.core.url_to_fs(self.name)
            return system.open(path, "rb", block_size=_READ_AHEAD_BYTES)
        except ImportError as error:  # fsspec names the package its protocol needs
            raise UsageError(f"{self.name}: {error}") from error
        except ValueError as error:
            raise UsageError(f"{self.name}: {error}; use http(s)://, s3:// or another protocol of fsspec") from error
        except Exception as error:  # each protocol has exceptions of its own; the cause is kept and named
            cause = str(error) or type(error).__name__
            raise VideoError(
                f"{self.name}: cannot be opened ({cause}); check the address and the connection"
            ) from error

    def head(self, num_bytes: int) -> bytes:
        """The first bytes, as many as there are up to this number.

        Raises:
            VideoError: if it cannot be read.
        """
        if self.data is not None:
            return self.data[:num_bytes]
        opened = self.open()
        try:
            with open(opened, "rb") if isinstance(opened, str) else opened as file:
                return file.read(num_bytes)
        except OSError as error:
            raise VideoError(f"{self.name}: cannot be read ({error.strerror or error}); check the file") from error

    def num_bytes(self) -> int:
        """Size in bytes; -1 if a URL does not tell."""
        if self.data is not None:
            return len(self.data)
        if not self.is_remote:
            return os.path.getsize(self.name)
        with self._open_remote() as file:
            size = getattr(file, "size", None)
        return -1 if size is None else int(size)


# What everything that reads video takes.
Source = str | os.PathLike[str] | bytes | BinaryIO | SourceFile


def split_range(
    source: Source | tuple[Source, float | None, float | None],
) -> tuple[Source, float | None, float | None]:
    """`(source, start_seconds, end_seconds)` of what may be such a triple; None for the video's own ends.

    Raises:
        UsageError: if it is a tuple of another length.
    """
    if not isinstance(source, tuple):
        return source, None, None
    if len(source) != 3:
        raise UsageError(f"source={source!r}: a part of a video is given as (source, start_seconds, end_seconds)")
    return source
