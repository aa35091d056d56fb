"""What a medium consists of, whatever its name: a moved file is found again, and a changed one is another.

Reading all bytes of a file to know it takes long, so what was read is remembered until its size or time changes.
"""

import hashlib
import os
import stat
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from videoflamingo.errors import UsageError, VideoError
from videoflamingo.line_log import read_log
from videoflamingo.video.medium import FilePart
from videoflamingo.video.source import SourceFile

# A file this young may change once more and keep its time, because some file systems count time in steps of 2 s.
SETTLED_NS = 2_000_000_000
_new_hash = partial(hashlib.blake2b, digest_size=20)


class Content(NamedTuple):
    """What was at a place at some time.

    Args:
        place: absolute path, and which part of the file.
        stamp: of sizes and times; what changes the content changes it.
        digest: of all bytes, 40 hexadecimal digits. A folder of numbered pictures: of names, sizes and bytes.
        settled: whether the stamp is to be relied on later.
    """

    place: str
    stamp: str
    digest: str
    settled: bool


def content_of(source: str | FilePart) -> Content:
    """Read all bytes of a file, of a part of one, or of a folder's files.

    Raises:
        UsageError: if it is a URL.
        VideoError: if it cannot be read, is empty, or changes meanwhile.
    """
    now_ns = time.time_ns()
    stamp, newest_ns = _stamp(source)
    digest = _digest(source)
    if _stamp(source)[0] != stamp:
        raise VideoError(f"{source}: changed while it was read; wait until it is written, then try again")
    return Content(_place(source), stamp, digest, abs(now_ns - newest_ns) > SETTLED_NS)


def is_unchanged(source: str | FilePart, content: Content) -> bool:
    """Whether size and time are still those of the content.

    Raises:
        VideoError: if it is gone.
    """
    return _stamp(source)[0] == content.stamp


class ContentMemo:
    """What is known of files, so that none is read twice.

    Args:
        path: a log of what others found out.
    """

    def __init__(self, path: Path) -> None:
        self._known = {place: (stamp, digest) for place, stamp, digest in read_log(path)}

    def known(self, source: str | FilePart) -> Content | None:
        """The content, without reading it; None if it was not seen since it changed.

        Raises:
            UsageError, VideoError: as `content_of`.
        """
        place = _place(source)
        stamp = _stamp(source)[0]
        known_stamp, digest = self._known.get(place, ("", ""))
        return Content(place, stamp, digest, True) if stamp == known_stamp else None

    def of(self, source: str | FilePart) -> Content:
        """The content, read if need be.

        Raises:
            UsageError, VideoError: as `content_of`.
        """
        content = self.known(source)
        if content is None:
            content = content_of(source)
            self.keep(content)
        return content

    def keep(self, content: Content) -> list[str] | None:
        """Remember it. Returns what to write to the log: None if nothing, as it is known or not settled yet."""
        if not content.settled or self._known.get(content.place) == (content.stamp, content.digest):
            return None
        self._known[content.place] = content.stamp, content.digest
        return [content.place, content.stamp, content.digest]


def _path(source: str | FilePart) -> str:
    if isinstance(source, FilePart):
        return os.path.abspath(source.path)
    file = SourceFile.of(source)
    if file.is_remote:
        raise UsageError(
            f"{source}: features of a URL cannot be cached, because what is there may change unseen; download it and "
            "name the file, or leave out data.features"
        )
    return os.path.abspath(file.name)


def _place(source: str | FilePart) -> str:
    part = f"#{source.offset}+{source.num_bytes}" if isinstance(source, FilePart) else ""
    return _path(source) + part


def _stamp(source: str | FilePart) -> tuple[str, int]:
    """Sizes and times as text; and the newest time, in nanoseconds."""
    path = _path(source)
    try:
        status = os.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            return f"{status.st_size}:{status.st_mtime_ns}", status.st_mtime_ns
        listing, newest_ns = _new_hash(), status.st_mtime_ns
        for name in _names(path):
            status = os.stat(os.path.join(path, name))
            listing.update(f"{name}\0{status.st_size}:{status.st_mtime_ns}\0".encode())
            newest_ns = max(newest_ns, status.st_mtime_ns)
        return listing.hexdigest(), newest_ns
    except OSError as error:
        SourceFile.of(source.path if isinstance(source, FilePart) else source).check()  # says what is wrong, as a rule
        raise VideoError(f"{source}: cannot be read ({error.strerror}); check the file") from error


def _digest(source: str | FilePart) -> str:
    if isinstance(source, FilePart):
        data = source.read().data
        assert data is not None  # bytes were read
        return _new_hash(data).hexdigest()
    path = _path(source)
    SourceFile.of(source).check()
    try:
        if not os.path.isdir(path):
            with open(path, "rb") as file:
                return hashlib.file_digest(file, _new_hash).hexdigest()
        whole = _new_hash()
        for name in _names(path):
            inner = os.path.join(path, name)
            if os.path.isdir(inner):  # no folder of pictures, as its reader will say
                whole.update(f"{name}/\0".encode())
                continue
            with open(inner, "rb") as file:
                own = hashlib.file_digest(file, _new_hash).hexdigest()
            whole.update(f"{name}\0{os.path.getsize(inner)}\0{own}\0".encode())
        return whole.hexdigest()
    except OSError as error:
        raise VideoError(f"{source}: cannot be read ({error.strerror}); check the file") from error


def _names(folder: str) -> list[str]:
    """What a reader of numbered pictures looks at."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))
