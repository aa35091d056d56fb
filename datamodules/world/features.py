"""Scenes -> files -> clips -> frozen tower features, kept on disk so that training pays for them once.

Every video is really encoded and really decoded: what the trained parts see here is what they see in a user's file.
"""

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from datamodules.world.clips import NUM_FRAMES, frames_of
from datamodules.world.sampling import sample_scene
from datamodules.world.scene import Scene
from videoflamingo.models.vision import VisionConfig, VisionTower
from videoflamingo.pipeline import choose_dtype

logger = logging.getLogger(__name__)

SHARD_SCENES = 250
FEATURES_VERSION = 2  # raised whenever the same scenes would give other features; older caches are then left alone
PICTURE_SEEDS = 500_000  # pictures' seeds follow the videos' at this distance
BESIDE_SEEDS = 250_000  # and those of more movers beside a drawing at rest at this one
# Share of each kind among the videos; pictures are counted apart.
VIDEO_KINDS = {"move": 0.4, "sequence": 0.3, "event": 0.15, "pair": 0.15}


def plan_scenes(num_videos: int, num_pictures: int, first_seed: int, num_beside: int = 0) -> list[tuple[int, str]]:
    """Seed and kind of each scene: videos of all kinds interleaved in fixed shares, then pictures, then movers beside
    a drawing at rest.

    A larger plan starts with the smaller one's videos and pictures, so that a cache grows without being made again
    (by whole shards: where the counts are multiples of `SHARD_SCENES`).
    """
    kinds = list(VIDEO_KINDS)
    given = dict.fromkeys(kinds, 0)
    plan: list[tuple[int, str]] = []
    for index in range(num_videos):
        kind = max(kinds, key=lambda name: VIDEO_KINDS[name] * (index + 1) - given[name])  # furthest behind its share
        given[kind] += 1
        plan.append((first_seed + index, kind))
    pictures = [(first_seed + PICTURE_SEEDS + index, "picture") for index in range(num_pictures)]
    seeds = (first_seed + BESIDE_SEEDS + index for index in itertools.count())
    beside = ((seed, "move") for seed in seeds if sample_scene(seed, "move").bystander is not None)
    return [*plan, *pictures, *itertools.islice(beside, num_beside)]


@dataclass(frozen=True, eq=False)
class CachedScene:
    """One scene with its raw tower features `[T, P, D]`, float16."""

    scene: Scene
    features: np.ndarray


def cached_features(
    folder: Path,
    vision: VisionConfig,
    scenes: list[tuple[int, str]],
    *,
    split: str = "train",
    num_workers: int = 2,
    in_memory: bool = False,
) -> list[CachedScene]:
    """Features of all scenes, made where they are missing; a broken-off run goes on where it stopped.

    Args:
        folder: the cache; each tower configuration and split has a folder of its own below it.
        scenes: seed and kind of each, see `plan_scenes`.
        num_workers: processes that make and decode videos, beside this one, which encodes frames.
        in_memory: read everything now, instead of mapping the files and leaving it to the system what it keeps.
    """
    tower = {name: value for name, value in asdict(vision).items() if name not in ("chunk_size", "standardise")}
    if tower["features"] == "final":  # as before there was a choice, so that older caches stay valid
        del tower["features"]
    key = {"vision": tower, "split": split, "num_frames": NUM_FRAMES, "version": FEATURES_VERSION}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = folder / digest
    folder.mkdir(parents=True, exist_ok=True)
    shards = [scenes[start : start + SHARD_SCENES] for start in range(0, len(scenes), SHARD_SCENES)]
    missing = [shard for shard in shards if not _shard_path(folder, shard).exists()]
    if missing:
        _make_shards(folder, vision, missing, split, num_workers)
    return [cached for shard in shards for cached in _read_shard(folder, shard, split, in_memory)]


def _shard_path(folder: Path, shard: list[tuple[int, str]]) -> Path:
    digest = hashlib.sha256(json.dumps(shard).encode()).hexdigest()[:12]
    return folder / f"scenes-{shard[0][0]:08d}-{digest}.npy"


def _make_shards(
    folder: Path, vision: VisionConfig, shards: list[list[tuple[int, str]]], split: str, num_workers: int
) -> None:
    import torch

    tower = VisionTower(vision).to(choose_dtype("auto", torch.device("cpu")))
    jobs = [(seed, kind, split) for shard in shards for seed, kind in shard]
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - num_workers))  # threads that wait for a busy core hold up all others
    try:
        with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
            clips: Iterator[np.ndarray] = pool.map(frames_of, jobs, chunksize=8)
            for number, shard in enumerate(shards, start=1):
                pixels = [tower.preprocess(next(clips)) for _ in shard]
                features = torch.cat([tower(clip).to(torch.float16) for clip in pixels])  # [F, P, D]
                path = _shard_path(folder, shard)
                unfinished = path.with_suffix(".part")
                with unfinished.open("wb") as file:
                    np.save(file, features.numpy())
                unfinished.rename(path)
                logger.info("features of the world: %d of %d shards of %d scenes", number, len(shards), SHARD_SCENES)
    finally:
        torch.set_num_threads(threads)


def _read_shard(folder: Path, shard: list[tuple[int, str]], split: str, in_memory: bool) -> Iterator[CachedScene]:
    features = np.load(_shard_path(folder, shard), mmap_mode=None if in_memory else "r")
    start = 0
    for seed, kind in shard:
        count = 1 if kind == "picture" else NUM_FRAMES
        yield CachedScene(sample_scene(seed, kind, split), features[start : start + count])
        start += count
