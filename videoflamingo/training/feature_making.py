"""Making what a feature cache holds: media are decoded by a pool of processes, encoded here, and written in shards."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from videoflamingo.clip import Clip
from videoflamingo.errors import SamplingError, VideoError
from videoflamingo.line_log import LogWriter
from videoflamingo.models.vision import VisionConfig, VisionTower
from videoflamingo.pipeline import choose_device, choose_dtype, distinct_frames
from videoflamingo.training.content import Content, ContentMemo, content_of, is_unchanged
from videoflamingo.training.feature_cache import (
    CONTENTS,
    check_cacheable,
    encode_frames,
    medium_key,
    section_key,
    section_name,
    settings_of,
    tower_key,
)
from videoflamingo.training.feature_shards import KEY, FeatureShards, ShardWriter, locked, sections
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.pool import DecodePool
from videoflamingo.video.sampling import Sampling

MEDIA_PER_SHARD = 1000
HASHING_DEADLINE_SECONDS = 3600.0  # reading every byte of a long film from a slow disk


@dataclass
class CacheReport:
    """What became of the media that were asked for.

    Args:
        num_media: distinct ones.
        num_made: encoded now.
        num_found: there already; a copy of another one's file is there, too.
        failed: name and reason of each that cannot be read.
        num_bytes: of features made now.
        seconds: since the beginning.
        repaired: damaged shards that were given up, each with the reason; those of their media that were asked for
            are made again.
    """

    num_media: int
    num_made: int = 0
    num_found: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    num_bytes: int = 0
    seconds: float = 0.0
    repaired: list[tuple[str, str]] = field(default_factory=list)

    @property
    def num_done(self) -> int:
        """Media that are made, found or failed."""
        return self.num_made + self.num_found + len(self.failed)


def cache_features(
    requests: Iterable[MediumRequest],
    folder: str | os.PathLike[str],
    vision: VisionConfig,
    *,
    num_workers: int | None = None,
    device: str = "auto",
    retry_failed: bool = False,
    checksums: bool = False,
    media_per_shard: int = MEDIA_PER_SHARD,
    progress: Callable[[CacheReport], None] = lambda report: None,
) -> CacheReport:
    """Decode and encode the media that are not in a cache yet.

    Broken off at any moment, even by a power cut, the next call goes on where it stopped.

    Args:
        requests: as they lie in their files; how they are changed (backwards, mirrored) does not matter.
        folder: made if it is not there.
        vision: the tower.
        num_workers: processes that decode; None for one per core, or a quarter of the cores where the tower needs
            the others itself.
        device: of the tower.
        retry_failed: try again what could not be read before.
        checksums: look for damage in every byte that is there, not only at sizes.
        media_per_shard: a shard is closed when it has so many, if not before.
        progress: called with the report so far when a medium is done.

    Raises:
        UsageError: if a request is of a kind that cannot be cached, the folder cannot be written, or another process
            is writing to it.
        ModelError: if there is no such tower or device, or its features are too large for float16.
    """
    distinct: dict[MediumRequest, None] = {}
    for request in requests:
        check_cacheable(request)
        distinct[request.unchanged()] = None
    place = choose_device(device)
    if num_workers is None:
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_workers = num_cores if place.type == "cuda" else max(1, num_cores // 4)
    folder = Path(folder)
    with locked(folder), _Maker(folder, vision, place, media_per_shard, len(distinct), progress) as maker:
        maker.repair(checksums)
        with DecodePool(num_workers) as pool, _threads_left_by(num_workers, place):
            maker.make(list(distinct), pool, retry_failed)
    return maker.report


class _Medium(NamedTuple):
    """A medium that is to be made."""

    request: MediumRequest
    content: Content
    shards: ShardWriter
    key: str


class _Maker:
    """One run over the media, with what it writes to."""

    def __init__(
        self,
        folder: Path,
        vision: VisionConfig,
        device: torch.device,
        media_per_shard: int,
        num_media: int,
        progress: Callable[[CacheReport], None],
    ) -> None:
        self.folder, self.vision, self.device = folder, vision, device
        self.media_per_shard, self.progress = media_per_shard, progress
        self.report = CacheReport(num_media)
        self._began = time.monotonic()
        self._contents = ContentMemo(folder / CONTENTS)
        self._writers: dict[tuple[Sampling, ReadOptions], ShardWriter] = {}
        self._files = ExitStack()
        self._tower: VisionTower | None = None
        self._under_way: set[tuple[Path, str]] = set()
        self._copies: list[_Medium] = []  # of media that are under way

    def __enter__(self) -> Self:
        self._log = self._files.enter_context(LogWriter(self.folder / CONTENTS))
        self._tower_key = tower_key(self.vision, self._contents)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._files.__exit__(*exc_info)  # writes what is made

    def repair(self, checksums: bool) -> None:
        """Give up damaged shards, of whatever tower."""
        for section in sections(self.folder):
            damaged = FeatureShards(section).damaged(checksums)
            if damaged:
                with ShardWriter(section, self.media_per_shard) as writer:
                    for damage in damaged:
                        writer.drop(damage)
                        self.report.repaired.append((str(damage.path), damage.reason))

    def make(self, requests: Sequence[MediumRequest], pool: DecodePool, retry_failed: bool) -> None:
        """Everything that is missing."""
        contents = pool.map_in_order(requests, lambda request: _begun(lambda: self._content(pool, request)))
        missing = self._missing(contents, retry_failed)
        clips = pool.map_in_order(missing, lambda medium: _begun(lambda: _decoding(pool, medium.request)))
        decoded: list[tuple[_Medium, Clip]] = []
        for medium, future in clips:
            clip = self._decoded(medium, future)
            if clip is not None:
                decoded.append((medium, clip))
            if sum(len(clip) for _, clip in decoded) >= self.vision.chunk_size:
                self._encode(decoded)
                decoded = []
        self._encode(decoded)
        for writer in self._writers.values():
            writer.finish_shard()
        for medium in self._copies:
            self._settle_known(medium)

    def _content(self, pool: DecodePool, request: MediumRequest) -> Future[Content]:
        known = self._contents.known(request.source)
        if known is None:
            source = request.source
            return pool.run(request.name, content_of, source, deadline_seconds=HASHING_DEADLINE_SECONDS)
        done: Future[Content] = Future()
        done.set_result(known)
        return done

    def _missing(
        self, contents: Iterable[tuple[MediumRequest, Future[Content]]], retry_failed: bool
    ) -> Iterator[_Medium]:
        for request, future in contents:
            try:
                content = future.result()
            except VideoError as error:  # nothing is known of it, so nothing can be recorded
                self._fail(request, str(error))
                continue
            line = self._contents.keep(content)
            if line is not None:
                self._log.add(line)
            shards = self._writer(request)
            medium = _Medium(request, content, shards, medium_key(content, request.sampling))
            mark = (shards.folder, medium.key)
            if mark in self._under_way:
                self._copies.append(medium)
            elif medium.key in shards or (medium.key in shards.failed and not retry_failed):
                self._settle_known(medium)
            else:
                self._under_way.add(mark)
                yield medium

    def _settle_known(self, medium: _Medium) -> None:
        if medium.key in medium.shards:
            self.report.num_found += 1
            self._tell()
        else:
            changed = "is a copy of a file that changed while it was read; run this again"
            self._fail(medium.request, medium.shards.failed.get(medium.key, changed))

    def _decoded(self, medium: _Medium, future: Future[Clip]) -> Clip | None:
        """The clip; None if it cannot be read, which is recorded."""
        name = medium.request.name
        try:
            clip = future.result()
            if not is_unchanged(medium.request.source, medium.content):
                self._fail(medium.request, "changed while it was read; wait until it is written, then try again")
                return None
        except (VideoError, SamplingError) as error:
            reason = str(error).removeprefix(f"{name}: ")
            medium.shards.add_failed(medium.key, reason)
            self._fail(medium.request, reason)
            return None
        return clip

    def _encode(self, decoded: Sequence[tuple[_Medium, Clip]]) -> None:
        if not decoded:
            return
        if self._tower is None:
            self._tower = VisionTower(self.vision).to(self.device, choose_dtype("auto", self.device))
        frames, frame_index = distinct_frames([clip for _, clip in decoded])
        features = encode_frames(self._tower, frames).cpu().numpy()  # [F, P, D]
        for (medium, _), index in zip(decoded, frame_index, strict=True):
            own = features[index[index >= 0]]  # [T, P, D]
            medium.shards.add(medium.key, own)
            self.report.num_made += 1
            self.report.num_bytes += own.nbytes
            self._tell()
        for writer in self._writers.values():
            writer.finish_old_shard()

    def _writer(self, request: MediumRequest) -> ShardWriter:
        settings = settings_of(request)
        if settings not in self._writers:
            key = section_key(self._tower_key, *settings)
            folder = self.folder / section_name(key)
            self._writers[settings] = self._files.enter_context(ShardWriter(folder, self.media_per_shard))
            (folder / KEY).write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
        return self._writers[settings]

    def _fail(self, request: MediumRequest, reason: str) -> None:
        self.report.failed.append((request.name, reason.removeprefix(f"{request.name}: ")))
        self._tell()

    def _tell(self) -> None:
        self.report.seconds = time.monotonic() - self._began
        self.progress(self.report)


def _begun(start: Callable[[], Future[Any]]) -> Future[Any]:
    """What cannot even begin, fails as what began."""
    try:
        return start()
    except VideoError as error:
        failed: Future[Any] = Future()
        failed.set_exception(error)
        return failed


def _decoding(pool: DecodePool, request: MediumRequest) -> Future[Clip]:
    return pool.read(request.opened(), request.sampling, request.reading)


@contextmanager
def _threads_left_by(num_workers: int, device: torch.device) -> Iterator[None]:
    """Torch's threads that wait for a core taken by a decoder hold up all others, so there are fewer."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(max(1, threads - num_workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
