"""Scenes -> files that stay on disk: H.264 videos and PNG pictures, made where they are missing, a thousand a folder.

Imports no torch, for the processes that make them.
"""

import logging
import os
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

from datamodules.world.render import write_picture, write_video
from datamodules.world.sampling import sample_scene
from videoflamingo.errors import UsageError

logger = logging.getLogger(__name__)

FILES_VERSION = 1  # raised whenever the same scenes would give other pixels; older files are then left alone
FOLDER_FILES = 1000
FILES_TOGETHER = 8  # given to a process at once
REPORT_SECONDS = 10.0


class WorldFile(Protocol):
    """Something made from a seed that has its place on disk."""

    def path(self, folder: Path) -> Path:
        """Where it lies below a folder."""

    def write(self, path: Path) -> None:
        """Make it."""


@dataclass(frozen=True)
class SceneFile:
    """One scene's place on disk.

    Args:
        split: the name of its folder.
        seed, kind: of the scene.
        size: pixels of the square frame's side.
    """

    split: str
    seed: int
    kind: str
    size: int = 192

    def path(self, folder: Path) -> Path:
        """Where it lies below a folder: a function of its fields and of `FILES_VERSION`.

        >>> SceneFile("train", 1007, "move").path(Path("world")).as_posix()
        'world/train-192-v1/00001/00001007-move.mp4'
        """
        name = f"{self.seed:08d}-{self.kind}{'.png' if self.kind == 'picture' else '.mp4'}"
        return folder / f"{self.split}-{self.size}-v{FILES_VERSION}" / f"{self.seed // FOLDER_FILES:05d}" / name

    def write(self, path: Path) -> None:
        """Make the video or picture."""
        scene = sample_scene(self.seed, self.kind, size=self.size)
        (write_picture if self.kind == "picture" else write_video)(scene, path)


def make_files(files: Iterable[WorldFile], folder: Path, *, num_workers: int = 2) -> int:
    """Make those that are missing; a run that was broken off is gone on with.

    Args:
        num_workers: processes that make them; 0 makes them in this one.

    Returns:
        how many were made.

    Raises:
        UsageError: if a file cannot be written.
    """
    jobs = [(file, path) for file in files if not (path := file.path(folder)).exists()]
    if not jobs:
        return 0
    logger.info("world: making %s files in %s", f"{len(jobs):,}", folder)
    if num_workers == 0:
        _report(map(_make, jobs), len(jobs))
        return len(jobs)
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        _report(pool.map(_make, jobs, chunksize=FILES_TOGETHER), len(jobs))
    return len(jobs)


def _report(made: Iterable[None], total: int) -> None:
    """Take what is made, and log how far it is."""
    started = reported = time.monotonic()
    for count, _ in enumerate(made, start=1):
        now = time.monotonic()
        if now - reported >= REPORT_SECONDS or count == total:
            rate = count / max(now - started, 1e-9)
            minutes = (total - count) / rate / 60
            text = "world: %s of %s files made, %.1f a second, %.0f minutes left"
            logger.info(text, f"{count:,}", f"{total:,}", rate, minutes)
            reported = now


def _make(job: tuple[WorldFile, Path]) -> None:
    file, path = job
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(file, path)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{path}: cannot be written ({reason}); make room, or choose another folder") from error


def _write(file: WorldFile, path: Path) -> None:
    """Under another name first, so that a file that has its name is whole."""
    unfinished = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.part{path.suffix}")
    try:
        file.write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
