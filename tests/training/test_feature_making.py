"""Making a cache: everything once, whatever happens in between, and what cannot be read has a reason."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import TINY_CONFIG
from tests.training.videos import LONG_AGO_NS, aged, packed, write_video
from videoflamingo.errors import ModelError, UsageError, VideoError
from videoflamingo.models.vision import VisionTower
from videoflamingo.training import feature_making
from videoflamingo.training.feature_cache import FeatureCache, encode_frames
from videoflamingo.training.feature_making import CacheReport, cache_features
from videoflamingo.training.feature_shards import locked, verify
from videoflamingo.video.load import load_clip
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.sampling import Sampling

ROOT = Path(__file__).resolve().parents[2]
VISION = TINY_CONFIG.vision
FOUR = Sampling(num_frames=4)


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the CPU is faster in bfloat16, whose rounding would hide which frames were encoded."""
    monkeypatch.setattr(feature_making, "choose_dtype", lambda name, device: torch.float32)


@pytest.fixture
def videos(tmp_path: Path) -> list[MediumRequest]:
    """Three different ones."""
    return [request_for(write_video(tmp_path / f"{number}.mp4", first=20 * number)) for number in range(3)]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., CacheReport]:
    """Into one folder, with the tiny tower."""

    def make(requests: list[MediumRequest], vision: object = VISION, **options: object) -> CacheReport:
        return cache_features(requests, tmp_path / "cache", vision, num_workers=1, device="cpu", **options)

    return make


def request_for(path: Path | str, sampling: Sampling = FOUR) -> MediumRequest:
    return MediumRequest(str(path), sampling)


def counts(report: CacheReport) -> tuple[int, int, int]:
    assert report.num_done == report.num_media
    return report.num_made, report.num_found, len(report.failed)


def found(folder: Path, request: MediumRequest) -> np.ndarray:
    features = FeatureCache(folder, VISION).find(request)
    assert features is not None
    return features


def keys_in(folder: Path) -> list[str]:
    """Every medium in every index, as often as it was made."""
    lines = [json.loads(line) for index in folder.glob("*/index.jsonl") for line in index.read_text().splitlines()]
    return [key for line in lines for key, _, _ in line.get("media", [])]


def test_media_are_made_once(make: Callable[..., CacheReport], videos: list[MediumRequest], tmp_path: Path) -> None:
    first = make(videos)
    assert counts(first) == (3, 0, 0)
    assert first.num_bytes == 3 * 4 * 4 * 256 * 2  # media, frames, patches, width, bytes
    again = make([*videos, replace(videos[0], backwards=True)])
    assert (again.num_media, *counts(again), again.num_bytes) == (3, 0, 3, 0, 0)
    assert len(keys_in(tmp_path / "cache")) == 3


def test_each_medium_has_its_own_features(
    make: Callable[..., CacheReport], videos: list[MediumRequest], tmp_path: Path
) -> None:
    make(videos)
    tower = VisionTower(VISION)
    for request in videos:
        expected = encode_frames(tower, [load_clip(request.name, num_frames=4).frames]).numpy()
        atol = 2**-10 * np.abs(expected).max()  # sums in another order, by the number of frames encoded together
        np.testing.assert_allclose(found(tmp_path / "cache", request), expected, atol=atol, rtol=2**-10)


def test_a_copy_under_another_name_is_not_made_again(
    make: Callable[..., CacheReport], videos: list[MediumRequest], tmp_path: Path
) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(Path(videos[0].name).read_bytes())
    assert counts(make([videos[0], request_for(copy)])) == (1, 1, 0)
    np.testing.assert_array_equal(
        found(tmp_path / "cache", request_for(copy)), found(tmp_path / "cache", videos[0]), strict=True
    )


def test_a_frame_that_a_short_video_shows_twice_is_encoded_once_and_kept_twice(
    make: Callable[..., CacheReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    inner = VisionTower.forward

    def forward(self: VisionTower, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return inner(self, pixels)

    monkeypatch.setattr(VisionTower, "forward", forward)
    request = request_for(write_video(tmp_path / "short.mp4", num_frames=2))
    make([request])
    features = found(tmp_path / "cache", request)
    assert sizes == [2]
    assert len(features) == 4
    np.testing.assert_array_equal(features[[0, 2]], features[[1, 3]])
    assert not np.array_equal(features[0], features[2])


def test_parts_of_one_video_are_kept_apart_in_one_folder(
    make: Callable[..., CacheReport], videos: list[MediumRequest], tmp_path: Path
) -> None:
    whole = videos[0]
    parts = [
        replace(whole, sampling=Sampling(num_frames=4, start_seconds=start, end_seconds=start + 0.5))
        for start in (0.0, 0.5)
    ]
    assert counts(make([whole, *parts])) == (3, 0, 0)
    first, second, third = (found(tmp_path / "cache", request) for request in [whole, *parts])
    assert not np.array_equal(first, second) and not np.array_equal(second, third)
    assert len(list((tmp_path / "cache").glob("*/key.json"))) == 1


def test_two_towers_lie_side_by_side_with_readable_keys(
    make: Callable[..., CacheReport], videos: list[MediumRequest], tmp_path: Path
) -> None:
    small = replace(VISION, image_size=32)
    make(videos)
    assert counts(make(videos, small)) == (3, 0, 0)
    folder = tmp_path / "cache"
    assert found(folder, videos[0]).shape == (4, 4, 256)
    other = FeatureCache(folder, small).find(videos[0])
    assert other is not None and other.shape == (4, 1, 256)
    keys = [json.loads(path.read_text()) for path in folder.glob("*/key.json")]
    assert sorted(key["tower"]["image_size"] for key in keys) == [32, 64]
    assert {key["sampling"]["num_frames"] for key in keys} == {4}


def test_a_part_of_a_tar_file_is_made(make: Callable[..., CacheReport], tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4")
    request = MediumRequest(packed(video, tmp_path / "shard.tar"), FOUR)
    video.unlink()
    assert counts(make([request])) == (1, 0, 0)
    assert counts(make([request])) == (0, 1, 0)
    assert len(found(tmp_path / "cache", request)) == 4


def test_a_folder_of_numbered_pictures_is_made(make: Callable[..., CacheReport], tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (32, 32), (60 * number, 0, 0)).save(folder / f"{number}.png")
        aged(folder / f"{number}.png")
    aged(folder)
    request = MediumRequest(str(folder), FOUR, ReadOptions(images_per_second=1.0))
    assert counts(make([request])) == (1, 0, 0)
    assert len(np.unique(found(tmp_path / "cache", request)[:, 0, 0])) == 4


# Going on

KILLED_AFTER_ONE_SHARD = """
import os, signal, sys
from tests.tiny import TINY_CONFIG
from videoflamingo.training.feature_making import cache_features
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.sampling import Sampling

def progress(report):
    if report.num_made == 1:
        os.kill(os.getpid(), signal.SIGKILL)

requests = [MediumRequest(path, Sampling(num_frames=4)) for path in sys.argv[2:]]
cache_features(
    requests, sys.argv[1], TINY_CONFIG.vision, num_workers=1, device="cpu", media_per_shard=1, progress=progress
)
"""


def test_after_a_kill_nothing_is_made_twice(
    make: Callable[..., CacheReport], videos: list[MediumRequest], tmp_path: Path
) -> None:
    paths = [request.name for request in videos]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AFTER_ONE_SHARD, str(tmp_path / "cache"), *paths],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (shard,) = (tmp_path / "cache").glob("*/*.npy")
    before = shard.stat()
    assert counts(make(videos)) == (2, 1, 0)
    assert (shard.stat().st_ino, shard.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(keys_in(tmp_path / "cache")) == len(set(keys_in(tmp_path / "cache"))) == 3
    assert verify(tmp_path / "cache") == []


def test_what_is_done_is_kept_after_ctrl_c(make: Callable[..., CacheReport], videos: list[MediumRequest]) -> None:
    def interrupt(report: CacheReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(videos, progress=interrupt)
    assert counts(make(videos)) == (2, 1, 0)


@pytest.mark.parametrize("checksums", [False, True])
def test_media_of_a_damaged_shard_are_made_again(
    make: Callable[..., CacheReport], videos: list[MediumRequest], tmp_path: Path, checksums: bool
) -> None:
    make(videos, media_per_shard=1)
    expected = [found(tmp_path / "cache", request).copy() for request in videos]
    (shard,) = (tmp_path / "cache").glob("*/000001.npy")
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + (bytes([data[-1] ^ 1]) if checksums else b""))
    report = make(videos, checksums=checksums)
    assert counts(report) == (1, 2, 0)
    assert [path for path, _ in report.repaired] == [str(shard)]
    for request, features in zip(videos, expected, strict=True):
        atol = 2**-10 * np.abs(features).max()
        np.testing.assert_allclose(found(tmp_path / "cache", request), features, atol=atol, rtol=2**-10)
    assert verify(tmp_path / "cache") == []


def test_a_changed_file_is_made_again(
    make: Callable[..., CacheReport], videos: list[MediumRequest], tmp_path: Path
) -> None:
    make(videos)
    before = found(tmp_path / "cache", videos[1]).copy()
    aged(write_video(Path(videos[1].name), first=100), LONG_AGO_NS + 10**10)
    assert counts(make(videos)) == (1, 2, 0)
    assert not np.array_equal(found(tmp_path / "cache", videos[1]), before)


def test_two_at_a_time_are_refused(
    make: Callable[..., CacheReport], videos: list[MediumRequest], tmp_path: Path
) -> None:
    with locked(tmp_path / "cache"), pytest.raises(UsageError, match="another `videoflamingo cache-features`"):
        make(videos)


# Failing


@pytest.fixture
def unreadable(tmp_path: Path) -> MediumRequest:
    path = tmp_path / "text.mp4"
    path.write_text("not found\n" * 100)
    return request_for(aged(path))


def test_an_unreadable_file_is_recorded_and_the_others_made(
    make: Callable[..., CacheReport], videos: list[MediumRequest], unreadable: MediumRequest, tmp_path: Path
) -> None:
    report = make([unreadable, *videos])
    assert counts(report) == (3, 0, 1)
    ((name, reason),) = report.failed
    assert name == unreadable.name and "is a text file, not a video" in reason
    with pytest.raises(VideoError, match=r"text\.mp4: is a text file, not a video.*--retry-failed"):
        FeatureCache(tmp_path / "cache", VISION).find(unreadable)


def test_a_failure_is_tried_again_only_when_asked_or_when_the_file_changes(
    make: Callable[..., CacheReport], unreadable: MediumRequest, tmp_path: Path
) -> None:
    def num_recorded() -> int:
        return sum(index.read_text().count('"failed"') for index in (tmp_path / "cache").glob("*/index.jsonl"))

    assert counts(make([unreadable])) == counts(make([unreadable])) == (0, 0, 1)
    assert num_recorded() == 1
    assert counts(make([unreadable], retry_failed=True)) == (0, 0, 1)
    assert num_recorded() == 2
    write_video(Path(unreadable.name))
    assert counts(make([unreadable])) == (1, 0, 0)
    assert len(found(tmp_path / "cache", unreadable)) == 4


def test_a_missing_file_fails_and_is_made_once_it_is_there(make: Callable[..., CacheReport], tmp_path: Path) -> None:
    request = request_for(tmp_path / "late.mp4")
    report = make([request])
    assert report.failed == [(request.name, "no such file; check the path")]
    write_video(tmp_path / "late.mp4")
    assert counts(make([request])) == (1, 0, 0)


def test_a_part_beyond_the_end_of_the_video_fails_and_others_of_it_are_made(
    make: Callable[..., CacheReport], videos: list[MediumRequest]
) -> None:
    beyond = replace(videos[0], sampling=Sampling(num_frames=4, start_seconds=5.0))
    report = make([beyond, videos[0]])
    assert counts(report) == (1, 0, 1)
    assert "the video ends at 1.20 s" in report.failed[0][1]


def test_copies_of_an_unreadable_file_fail_with_it(
    make: Callable[..., CacheReport], unreadable: MediumRequest, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(Path(unreadable.name).read_bytes())
    report = make([unreadable, request_for(aged(copy))])
    assert counts(report) == (0, 0, 2)
    assert [name for name, _ in report.failed] == [unreadable.name, str(copy)]


@pytest.mark.parametrize(
    "request_", [MediumRequest("a.mp4", Sampling("random"), seed=1), MediumRequest("a.mp4", colour_seed=1)]
)
def test_what_cannot_be_cached_is_refused_before_anything_is_written(
    make: Callable[..., CacheReport], tmp_path: Path, request_: MediumRequest
) -> None:
    with pytest.raises(UsageError, match="cannot be cached"):
        make([request_])
    assert not (tmp_path / "cache").exists()


def test_a_url_is_refused(make: Callable[..., CacheReport]) -> None:
    with pytest.raises(UsageError, match="features of a URL cannot be cached"):
        make([request_for("https://example.org/a.mp4")])


def test_features_that_float16_cannot_hold_end_it(
    make: Callable[..., CacheReport], videos: list[MediumRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = VisionTower.forward
    monkeypatch.setattr(VisionTower, "forward", lambda self, pixels: inner(self, pixels) * 1e9)
    with pytest.raises(ModelError, match="float16"):
        make(videos)


def test_torch_keeps_its_threads(make: Callable[..., CacheReport], videos: list[MediumRequest]) -> None:
    before = torch.get_num_threads()
    make(videos)
    assert torch.get_num_threads() == before
