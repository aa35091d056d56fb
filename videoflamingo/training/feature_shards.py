"""Features on disk: shards that are written once and never changed, and an index of what is in them.

    FOLDER/key.json       what the features depend on, for people to read
    FOLDER/index.jsonl    a line for each shard, for each medium that cannot be read, and for each shard given up
    FOLDER/000000.npy     features [F, P, D], float16, of some media, one after the other

A shard is written under another name, and renamed when it is whole; then its line is added to the index. So whatever
happens, what the index names is there, and what it does not name is as good as not there.
"""

import hashlib
import io
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from videoflamingo.errors import UsageError
from videoflamingo.line_log import LogWriter, read_log

INDEX, KEY, LOCK = "index.jsonl", "key.json", "lock"
SHARD_BYTES = 256 << 20
SHARD_SECONDS = 60.0  # a shard is closed after this time, so that no more work than this is lost
OPEN_SHARDS = 200  # each takes a file handle, and a process has about a thousand


class Damage(NamedTuple):
    """A shard that is not as it was written, and how that shows."""

    path: Path
    reason: str


class _Place(NamedTuple):
    """Frames `[start, stop)` of a shard."""

    shard: str
    start: int
    stop: int


class _Shard(NamedTuple):
    num_bytes: int
    sha256: str


class FeatureShards:
    """The shards of a folder, for reading.

    Attributes:
        failed: media that could not be read, each with the reason.

    Raises:
        UsageError: if the index is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failed: dict[str, str] = {}
        self._shards: dict[str, _Shard] = {}
        self._places: dict[str, _Place] = {}
        self._open: OrderedDict[str, np.ndarray] = OrderedDict()
        self.num_named = 0  # shards there ever were; no name is used twice
        for entry in read_log(folder / INDEX):
            self._take(entry)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> np.ndarray | None:
        """Features float16 `[T, P, D]` of a medium, mapped and read-only; None if there are none.

        Raises:
            UsageError: if the shard cannot be read.
        """
        place = self._places.get(key)
        if place is None:
            return None
        return self._shard(place.shard)[place.start : place.stop]

    def _shard(self, name: str) -> np.ndarray:
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        try:
            features = np.asarray(np.load(self.folder / name, mmap_mode="r"))
        except (OSError, ValueError) as error:
            raise UsageError(_remedied(Damage(self.folder / name, f"cannot be read ({error})"))) from error
        self._open[name] = features
        if len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)
        return features

    def damaged(self, checksums: bool) -> list[Damage]:
        """Shards that are gone or have another size; or also those that have another checksum, which reads them all."""
        found = []
        for name, shard in self._shards.items():
            path = self.folder / name
            if not path.is_file():
                found.append(Damage(path, "is gone"))
            elif path.stat().st_size != shard.num_bytes:
                found.append(Damage(path, f"has {path.stat().st_size:,} of {shard.num_bytes:,} bytes"))
            elif checksums:
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                        found.append(Damage(path, "has another checksum than when it was written"))
        return found

    def check(self) -> None:
        """See that every shard is there in its full size.

        Raises:
            UsageError: naming the first that is not.
        """
        for damage in self.damaged(checksums=False):
            raise UsageError(_remedied(damage))

    def _take(self, entry: dict[str, Any]) -> None:
        if "failed" in entry:
            self.failed[entry["failed"]] = entry["reason"]
        elif "dropped" in entry:
            name = entry["dropped"]
            self._shards.pop(name, None)
            self._places = {key: place for key, place in self._places.items() if place.shard != name}
        else:
            name = entry["shard"]
            self.num_named = int(Path(name).stem) + 1
            self._shards[name] = _Shard(entry["num_bytes"], entry["sha256"])
            for key, start, stop in entry["media"]:
                self._places[key] = _Place(name, start, stop)
                self.failed.pop(key, None)


class ShardWriter(FeatureShards, AbstractContextManager["ShardWriter"]):
    """The shards of a folder, for writing too. What was added is on disk when the `with` block ends, also by an error.

    Args:
        folder: made if it is not there.
        media_per_shard: a shard is closed when it has so many, or `SHARD_BYTES`, or is `SHARD_SECONDS` old.
    """

    def __init__(self, folder: Path, media_per_shard: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob("*.part"):
            unfinished.unlink()
        super().__init__(folder)
        self._media_per_shard = media_per_shard
        self._log = LogWriter(folder / INDEX)
        self._waiting: list[tuple[str, np.ndarray]] = []
        self._num_bytes = 0
        self._began = 0.0

    def add(self, key: str, features: np.ndarray) -> None:
        """Add a medium: features float16 `[T, P, D]`.

        Raises:
            UsageError: if a shard is to be closed and cannot be written.
        """
        if not self._waiting:
            self._began = time.monotonic()
        self._waiting.append((key, features))
        self._num_bytes += features.nbytes
        if len(self._waiting) >= self._media_per_shard or self._num_bytes >= SHARD_BYTES:
            self.finish_shard()
        else:
            self.finish_old_shard()

    def add_failed(self, key: str, reason: str) -> None:
        """Record a medium that cannot be read."""
        self._write({"failed": key, "reason": reason})

    def drop(self, damage: Damage) -> None:
        """Give a damaged shard up: its media are as if they had never been added."""
        self._open.pop(damage.path.name, None)
        self._write({"dropped": damage.path.name, "reason": damage.reason})
        damage.path.unlink(missing_ok=True)

    def finish_old_shard(self) -> None:
        """Close the shard that is being filled, if it is `SHARD_SECONDS` old."""
        if self._waiting and time.monotonic() - self._began >= SHARD_SECONDS:
            self.finish_shard()

    def finish_shard(self) -> None:
        """Write what was added since the last shard, if anything.

        Raises:
            UsageError: if it cannot be written.
        """
        if not self._waiting:
            return
        waiting, self._waiting, self._num_bytes = self._waiting, [], 0
        name = f"{self.num_named:06d}.npy"
        media, num_frames = [], 0
        for key, features in waiting:
            media.append((key, num_frames, num_frames + len(features)))
            num_frames += len(features)
        header = io.BytesIO()
        shape = (num_frames, *waiting[0][1].shape[1:])  # [F, P, D]
        np.lib.format.write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": shape})
        pieces: list[Any] = [
            header.getvalue(),
            *(np.ascontiguousarray(features, "<f2").data for _, features in waiting),
        ]
        sha256 = hashlib.sha256()
        for piece in pieces:
            sha256.update(piece)
        _write_whole(self.folder / name, pieces)
        num_bytes = (self.folder / name).stat().st_size
        self._write({"shard": name, "num_bytes": num_bytes, "sha256": sha256.hexdigest(), "media": media})

    def _write(self, entry: dict[str, Any]) -> None:
        self._log.add(entry, durable=True)
        self._take(entry)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._log:
            self.finish_shard()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep others from writing to a cache; the lock ends with the block, or with this process.

    Raises:
        UsageError: if another process writes to it, or the folder cannot be written.
    """
    import fcntl  # POSIX only, as is all that writes

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "ab")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); name another folder") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"{folder}: another `videoflamingo cache-features` is writing it; wait for that, or name another folder"
            ) from error
        yield


def verify(folder: str | os.PathLike[str]) -> list[Damage]:
    """Read every shard of a feature cache and compare checksums.

    Raises:
        UsageError: if there is no such folder, or an index is damaged.
    """
    return [damage for section in sections(Path(folder)) for damage in FeatureShards(section).damaged(checksums=True)]


def sections(folder: Path) -> list[Path]:
    """The folders of shards of a feature cache.

    Raises:
        UsageError: if there is no such cache.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{folder}: there is no such feature cache; make it with `videoflamingo cache-features --config RECIPE`"
        )
    return sorted(key.parent for key in folder.glob(f"*/{KEY}"))


def _write_whole(path: Path, pieces: list[Any]) -> None:
    """A file that is there in full or not at all, whatever happens."""
    unfinished = path.with_suffix(".part")
    try:
        with unfinished.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the new name, too
        finally:
            os.close(descriptor)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UsageError(f"{path}: cannot be written ({error.strerror}); make room, or name another folder") from error


def _remedied(damage: Damage) -> str:
    return (
        f"{damage.path}: {damage.reason}, so it is damaged; run `videoflamingo cache-features` with this recipe, which "
        "makes its media again"
    )
