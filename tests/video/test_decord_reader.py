"""decord against PyAV and the drawn frame numbers, always in a process that can be killed; or a refusal of the file."""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videoflamingo.clip import VideoInfo
from videoflamingo.errors import SamplingError, UsageError, VideoError
from videoflamingo.video.decord_reader import DecordReader
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.pool import DecodePool
from videoflamingo.video.pyav import PyavReader
from videoflamingo.video.source import SourceFile

Encode = Callable[..., str]
ReadAt = Callable[..., tuple[np.ndarray, np.ndarray]]

VARIABLE_MS = [33 * index if index < 40 else 2000 + 250 * (index - 40) for index in range(60)]
CLOSED_HEVC = {"codec": "libx265", "encoder": {"x265-params": "log-level=none:pools=1:open-gop=0"}}
TIMES = [2.5, 0.0, 1.01, 2.5, 0.51, 99.0]

needs_decord = pytest.mark.skipif(importlib.util.find_spec("decord") is None, reason="needs the package decord")


def info_of(source: SourceFile) -> VideoInfo:
    with PyavReader(source) as video:
        return video.info


def frames_by_decord(
    source: SourceFile, options: ReadOptions, times: Sequence[float], more: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Runs in the worker: frames at `times`, then by the same reader at `more`."""
    with DecordReader(source, options, info_of(source)) as video:
        parts = [video.frames_at(part) for part in (times, more) if len(part)]
    return np.concatenate([frames for frames, _ in parts]), np.concatenate([seconds for _, seconds in parts])


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with DecodePool(num_workers=1) as pool:
        yield pool


@pytest.fixture
def read_at(pool: DecodePool) -> ReadAt:
    """`frames_at` of decord in the pool's worker."""

    def read_at(
        given: object, times: Sequence[float], more: Sequence[float] = (), **options: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        source = SourceFile.of(given)
        return pool.run(source.name, frames_by_decord, source, ReadOptions(**options), times, more).result()

    return read_at


@needs_decord
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("h264.mp4", {}),
        ("h264.mkv", {}),
        ("closed.mp4", CLOSED_HEVC),
        ("vp9.webm", {"codec": "libvpx-vp9"}),
        ("variable.mp4", {"num_frames": 60, "times_ms": VARIABLE_MS}),
        ("rotated90.mp4", {"num_frames": 6, "rotation": 90}),
        ("rotated180.mp4", {"num_frames": 6, "rotation": 180}),
        ("rotated270.mp4", {"num_frames": 6, "rotation": 270}),
        ("one.mp4", {"num_frames": 1}),
        ("with_sound.mp4", {"audio_seconds": 3.0}),
        ("fragmented.mp4", {"options": {"movflags": "frag_keyframe+empty_moov"}}),
    ],
)
def test_frames_are_those_of_pyav(name: str, options: dict, encode: Encode, read_at: ReadAt) -> None:
    path = encode(name, **options)
    frames, pts_seconds = read_at(path, TIMES, [0.1, 2.9, 1.7])
    with PyavReader(SourceFile.of(path)) as other:
        expected, seconds = other.frames_at([*TIMES, 0.1, 2.9, 1.7])
    np.testing.assert_allclose(pts_seconds, seconds, atol=1e-6)
    assert np.abs(frames.astype(int) - expected).max() <= 2


@needs_decord
def test_a_real_clip_equals_pyav(real_videos: Path, read_at: ReadAt) -> None:
    path = real_videos / "carphone_pristine.mp4"
    frames, _ = read_at(path, TIMES)
    with PyavReader(SourceFile.of(path)) as other:
        assert np.abs(frames.astype(int) - other.frames_at(TIMES)[0]).max() <= 2


@needs_decord
@pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
def test_its_clock_begins_at_the_first_shown_frame(
    name: str, encode: Encode, remux: Encode, indices_in: Callable, read_at: ReadAt
) -> None:
    frames, pts_seconds = read_at(remux(encode("h264.mp4"), name, shift_seconds=1.0), [0.0, 0.51, 2.9])
    assert indices_in(frames) == [0, 15, 87]
    np.testing.assert_allclose(pts_seconds, [0.0, 0.5, 2.9], atol=1e-3)


@needs_decord
def test_a_time_just_before_a_frame_shows_the_one_before(encode: Encode, indices_in: Callable, read_at: ReadAt) -> None:
    frames, _ = read_at(encode("h264.mp4"), [-5.0, 1 / 30 - 1e-4, 1 / 30, 58 / 30 - 4e-4, 99.0])
    assert indices_in(frames) == [0, 0, 1, 57, 89]


@needs_decord
def test_bytes_and_open_files_are_read_too(encode: Encode, indices_in: Callable, read_at: ReadAt) -> None:
    path = Path(encode("h264.mp4"))
    with path.open("rb") as file:
        assert indices_in(read_at(file, [1.0, 2.0])[0]) == [30, 60]
    assert indices_in(read_at(path.read_bytes(), [1.0, 2.0])[0]) == [30, 60]


@needs_decord
def test_short_side_scales_upright_frames(encode: Encode, read_at: ReadAt) -> None:
    path = encode("rotated90.mp4", num_frames=6, rotation=90)
    frames, _ = read_at(path, [0.0, 0.1], short_side=48)
    with PyavReader(SourceFile.of(path), ReadOptions(short_side=48)) as other:
        expected, _ = other.frames_at([0.0, 0.1])
    assert frames.shape == expected.shape == (2, 3, 64, 48)
    assert np.abs(frames.astype(int) - expected).mean() < 4


def memory_used(source: SourceFile) -> tuple[list[tuple[int, ...]], bool, tuple[int, ...]]:
    """Runs in the worker: the shapes asked of `allocate`, whether the frames lie in its memory, and their shape."""
    given: list[np.ndarray] = []

    def allocate(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        given.append(np.zeros(shape, dtype))
        return given[-1]

    with DecordReader(source, ReadOptions(), info_of(source)) as video:
        frames, _ = video.frames_at([0.0, 1.0, 1.0], allocate)
    return [memory.shape for memory in given], frames.base is given[0], frames.shape


@needs_decord
def test_frames_are_written_to_the_memory_given(encode: Encode, pool: DecodePool) -> None:
    source = SourceFile.of(encode("h264.mp4"))
    shapes, is_view, shape = pool.run(source.name, memory_used, source).result()
    assert (shapes, is_view, shape) == ([(3, 96, 128, 3)], True, (3, 3, 96, 128))


@needs_decord
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hevc.mp4", {"codec": "libx265"}),  # open GOPs by default
        ("open.mp4", {"encoder": {"x264-params": "open-gop=1:scenecut=0"}}),
    ],
)
def test_open_gops_are_refused(name: str, options: dict, encode: Encode, read_at: ReadAt) -> None:
    with pytest.raises(VideoError, match=r"decord would return wrong frames .* after a keyframe and shown before it"):
        read_at(encode(name, **options), TIMES)


@needs_decord
def test_an_edit_list_is_refused(encode: Encode, remux: Encode, read_at: ReadAt) -> None:
    path = remux(encode("h264.mp4"), "cut.mp4", shift_seconds=-1.5)
    with pytest.raises(VideoError, match=r"decord would return wrong frames .* edit list .*; use the reader 'pyav'"):
        read_at(path, TIMES)


@needs_decord
@pytest.mark.parametrize(("name", "codec"), [("h264.ts", "libx264"), ("mpeg4.avi", "mpeg4"), ("h264.flv", "libx264")])
def test_containers_where_its_seeks_go_astray_are_refused(
    name: str, codec: str, encode: Encode, read_at: ReadAt
) -> None:
    with pytest.raises(VideoError, match=r"decord would return wrong frames .* in this kind of container \((\w+)\)"):
        read_at(encode(name, codec=codec), TIMES)


@needs_decord
def test_rotation_in_matroska_is_refused(encode: Encode, read_at: ReadAt) -> None:
    path = encode("rotated180.mkv", num_frames=6, rotation=180)
    with pytest.raises(VideoError, match=r"decord would return wrong frames .* does not turn pictures as Matroska"):
        read_at(path, [0.0])


@needs_decord
def test_a_codec_it_does_not_know_is_named(encode: Encode, read_at: ReadAt) -> None:
    path = encode("av1.mp4", codec="libsvtav1", encoder={"svtav1-params": "lp=1"})
    with pytest.raises(VideoError, match=r"av1\.mp4: decord cannot read it \(its FFmpeg has no decoder for av1\); use"):
        read_at(path, TIMES)


@needs_decord
def test_a_damaged_file_says_so(encode: Encode, read_at: ReadAt, tmp_path: Path) -> None:
    data = bytearray(Path(encode("faststart.mp4", options={"movflags": "+faststart"})).read_bytes())
    data[-len(data) // 3 :: 7] = bytes(len(data[-len(data) // 3 :: 7]))
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with pytest.raises(
        VideoError, match=r"damaged\.mp4: decord cannot read it \(.+\); use the reader 'pyav' or 'auto'"
    ):
        read_at(path, np.linspace(0, 3, 60).tolist())


@needs_decord
def test_a_file_cut_off_is_refused(encode: Encode, read_at: ReadAt, tmp_path: Path) -> None:
    data = Path(encode("faststart.mp4", options={"movflags": "+faststart"})).read_bytes()
    path = tmp_path / "cut_off.mp4"
    path.write_bytes(data[: int(len(data) * 0.7)])
    with pytest.raises(VideoError, match=r"cut_off\.mp4: is damaged \(an incomplete packet\)"):
        read_at(path, [0.5])


@needs_decord
def test_a_time_that_is_no_number_is_refused(encode: Encode, read_at: ReadAt) -> None:
    with pytest.raises(SamplingError, match="finite numbers"):
        read_at(encode("h264.mp4"), [float("nan")])


def test_a_tolerance_is_refused(encode: Encode, read_at: ReadAt) -> None:
    with pytest.raises(UsageError, match=r"tolerance_seconds=0\.5: the reader 'decord' always reads exactly"):
        read_at(encode("h264.mp4"), [0.0], tolerance_seconds=0.5)


def test_without_decord_its_name_is_wrong_usage(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)  # as if it were not installed
    source = SourceFile.of(encode("h264.mp4"))
    with pytest.raises(UsageError, match="needs the decord package: pip install decord"):
        DecordReader(source, ReadOptions(), info_of(source))
