"""torchcodec against a decode of the whole file: the same pixels at the same times, or a refusal of the file."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from videoflamingo.clip import VideoInfo
from videoflamingo.errors import SamplingError, UsageError, VideoError
from videoflamingo.video import torchcodec_reader
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.pyav import PyavReader
from videoflamingo.video.source import SourceFile
from videoflamingo.video.torchcodec_reader import TorchcodecReader

Encode = Callable[..., str]

VARIABLE_MS = [33 * index if index < 40 else 2000 + 250 * (index - 40) for index in range(60)]
CLOSED_HEVC = {"codec": "libx265", "encoder": {"x265-params": "log-level=none:pools=1:open-gop=0"}}


@pytest.fixture(scope="module")
def torchcodec_works() -> None:
    """Skip without a working torchcodec; fail where one was promised."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        reason = f"needs the package torchcodec, in a release that fits torch, and FFmpeg's shared libraries ({error})"
        if os.environ.get("VIDEOFLAMINGO_REQUIRE_TORCHCODEC") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


needs_torchcodec = pytest.mark.usefixtures("torchcodec_works")


def info_of(source: SourceFile) -> VideoInfo:
    with PyavReader(source) as video:
        return video.info


def opened(given: object, **options: Any) -> TorchcodecReader:
    source = SourceFile.of(given)
    return TorchcodecReader(source, ReadOptions(**options), info_of(source))


def decoded(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Every frame of the file, `[n, height, width, 3]` upright, and when it is shown after the first."""
    frames, seconds = [], []
    with av.open(path) as container:
        for frame in container.decode(container.streams.best("video")):
            frames.append(np.rot90(frame.to_ndarray(format="rgb24"), k=frame.rotation // 90))
            seconds.append(float(frame.pts * frame.time_base))
    return np.stack(frames), np.array(seconds) - seconds[0]


@needs_torchcodec
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("h264.mp4", {}),
        ("open.mp4", {"encoder": {"x264-params": "open-gop=1:scenecut=0"}}),
        ("hevc.mp4", {"codec": "libx265"}),
        ("closed.mp4", CLOSED_HEVC),
        ("vp9.webm", {"codec": "libvpx-vp9"}),
        ("av1.mp4", {"codec": "libsvtav1", "encoder": {"svtav1-params": "lp=1"}}),
        ("variable.mp4", {"num_frames": 60, "times_ms": VARIABLE_MS}),
        ("rotated90.mp4", {"num_frames": 6, "rotation": 90}),
        ("rotated180.mp4", {"num_frames": 6, "rotation": 180}),
        ("rotated270.mp4", {"num_frames": 6, "rotation": 270}),
        ("one.mp4", {"num_frames": 1}),
        ("with_sound.mp4", {"audio_seconds": 3.0}),
        ("fragmented.mp4", {"options": {"movflags": "frag_keyframe+empty_moov"}}),
    ],
)
def test_each_frame_is_that_of_a_whole_decode(name: str, options: dict, encode: Encode) -> None:
    path = encode(name, **options)
    expected, seconds = decoded(path)
    with opened(path) as video:
        frames, pts_seconds = video.frames_at(seconds.tolist())
    np.testing.assert_allclose(pts_seconds, seconds, atol=1e-6)
    assert np.abs(frames.transpose(0, 2, 3, 1).astype(int) - expected).max() <= 2


@needs_torchcodec
@pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
def test_its_clock_begins_at_the_first_shown_frame(
    name: str, encode: Encode, remux: Encode, indices_in: Callable
) -> None:
    with opened(remux(encode("h264.mp4"), name, shift_seconds=1.0)) as video:
        frames, pts_seconds = video.frames_at([0.0, 0.51, 2.9])
    assert indices_in(frames) == [0, 15, 87]
    np.testing.assert_allclose(pts_seconds, [0.0, 0.5, 2.9], atol=1e-3)


@needs_torchcodec
def test_a_time_between_frames_shows_the_one_before(encode: Encode, indices_in: Callable) -> None:
    with opened(encode("h264.mp4")) as video:
        frames, _ = video.frames_at([-5.0, 0.0, 1 / 30 - 1e-4, 1 / 30, 1.0 - 1e-4, 99.0])
    assert indices_in(frames) == [0, 0, 0, 1, 29, 89]


@needs_torchcodec
def test_a_variable_rate_is_read_by_time(encode: Encode, indices_in: Callable) -> None:
    with opened(encode("variable.mp4", num_frames=60, times_ms=VARIABLE_MS)) as video:
        frames, pts_seconds = video.frames_at([6.75, 2.3, 1.9])
    assert indices_in(frames) == [59, 41, 39]
    np.testing.assert_allclose(pts_seconds, [6.75, 2.25, 1.287], atol=1e-6)


@needs_torchcodec
def test_frames_come_in_the_order_asked_for_also_when_going_back(encode: Encode, indices_in: Callable) -> None:
    with opened(encode("closed.mp4", **CLOSED_HEVC)) as video:
        assert indices_in(video.frames_at([2.5, 0.5, 2.5, 1.5])[0]) == [75, 15, 75, 45]
        assert indices_in(video.frames_at([1.4, 0.1])[0]) == [42, 3]


@needs_torchcodec
def test_bytes_and_open_files_are_read_too(encode: Encode, indices_in: Callable) -> None:
    path = Path(encode("h264.mp4"))
    with path.open("rb") as file, opened(path.read_bytes()) as from_bytes, opened(file) as from_file:
        assert indices_in(from_bytes.frames_at([1.0, 2.0])[0]) == [30, 60]
        assert indices_in(from_file.frames_at([1.0, 2.0])[0]) == [30, 60]


@needs_torchcodec
def test_of_two_video_streams_it_reads_the_one_that_pyav_reads(encode: Encode, tmp_path: Path) -> None:
    path = tmp_path / "two.mp4"
    with (
        av.open(encode("one.mp4", num_frames=1)) as first,
        av.open(encode("h264.mp4")) as second,
        av.open(str(path), "w") as written,
    ):
        streams = [written.add_stream_from_template(read.streams.video[0]) for read in (first, second)]
        for read, stream in zip((first, second), streams, strict=True):
            for packet in read.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    written.mux(packet)
    with PyavReader(SourceFile.of(path)) as other, opened(path) as video:
        np.testing.assert_array_equal(video.frames_at([0.0, 2.0])[0], other.frames_at([0.0, 2.0])[0])


@needs_torchcodec
def test_frames_are_written_to_the_memory_given(encode: Encode) -> None:
    given = []

    def allocate(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        given.append(np.zeros(shape, dtype))
        return given[-1]

    with opened(encode("h264.mp4")) as video:
        frames, _ = video.frames_at([0.0, 1.0, 1.0], allocate)
    assert [memory.shape for memory in given] == [(3, 96, 128, 3)]
    assert frames.shape == (3, 3, 96, 128)
    assert frames.base is given[0]


@needs_torchcodec
def test_short_side_scales_upright_frames(encode: Encode, indices_in: Callable) -> None:
    path = encode("rotated90.mp4", num_frames=6, rotation=90)
    with opened(path, short_side=48) as video, PyavReader(SourceFile.of(path), ReadOptions(short_side=48)) as other:
        frames, _ = video.frames_at([0.0, 0.1])
        expected, _ = other.frames_at([0.0, 0.1])
    assert frames.shape == expected.shape == (2, 3, 64, 48)
    assert np.abs(frames.astype(int) - expected).mean() < 4


@needs_torchcodec
def test_an_edit_list_is_refused(encode: Encode, remux: Encode) -> None:
    path = remux(encode("h264.mp4"), "cut.mp4", shift_seconds=-1.5)
    with pytest.raises(
        VideoError, match=r"cut\.mp4: torchcodec would return wrong frames .* edit list .* 'pyav' or 'auto'"
    ):
        opened(path)


@needs_torchcodec
@pytest.mark.parametrize(
    ("name", "options"),
    [("h264.ts", {}), ("mpeg4.avi", {"codec": "mpeg4"}), ("mpeg2.mpg", {"codec": "mpeg2video"})],
)
def test_containers_where_its_seeks_go_astray_are_refused(name: str, options: dict, encode: Encode) -> None:
    with pytest.raises(VideoError, match=r"torchcodec would return wrong frames|carry no times"):
        opened(encode(name, **options))


@needs_torchcodec
def test_intra_refresh_is_refused(encode: Encode) -> None:
    path = encode("refresh.mp4", encoder={"x264-params": "intra-refresh=1:keyint=30"})
    with pytest.raises(VideoError, match=r"torchcodec would return wrong frames .*intra refresh"):
        opened(path)


@needs_torchcodec
def test_a_frame_that_comes_with_another_time_is_refused(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchcodec_reader, "_SAFE_CONTAINERS", ("mpegts",))
    with (
        opened(encode("h264.ts")) as video,
        pytest.raises(
            VideoError, match=r"for the frame at 0\.000 s it gives the one at \d\.\d+ s; use the reader 'pyav'"
        ),
    ):
        video.frames_at([0.0])


@needs_torchcodec
def test_a_damaged_file_says_so(encode: Encode, tmp_path: Path) -> None:
    data = bytearray(Path(encode("faststart.mp4", options={"movflags": "+faststart"})).read_bytes())
    data[-len(data) // 3 :: 7] = bytes(len(data[-len(data) // 3 :: 7]))
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with (
        opened(path) as video,
        pytest.raises(
            VideoError, match=r"damaged\.mp4: torchcodec cannot read it \([A-Z].+\); use the reader 'pyav' or 'auto'"
        ),
    ):
        video.frames_at(np.linspace(0, 3, 60).tolist())


@needs_torchcodec
def test_a_tolerance_is_refused(encode: Encode) -> None:
    with pytest.raises(UsageError, match=r"tolerance_seconds=0\.5: the reader 'torchcodec' always reads exactly"):
        opened(encode("h264.mp4"), tolerance_seconds=0.5)


@needs_torchcodec
def test_a_time_that_is_no_number_is_refused(encode: Encode) -> None:
    with opened(encode("h264.mp4")) as video, pytest.raises(SamplingError, match="finite numbers"):
        video.frames_at([float("nan")])


MISSING = r"reader 'torchcodec' needs the torchcodec package .*pip install torchcodec.* FFmpeg's shared libraries"


def test_without_torchcodec_its_name_is_wrong_usage(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)  # as if it were not installed
    with pytest.raises(UsageError, match=MISSING):
        opened(encode("h264.mp4"))


def test_without_ffmpegs_libraries_its_name_is_wrong_usage(
    encode: Encode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("raise RuntimeError('Could not load libtorchcodec.')")
    monkeypatch.syspath_prepend(tmp_path)  # what torchcodec does where it finds no FFmpeg
    with pytest.raises(UsageError, match=MISSING) as caught:
        opened(encode("h264.mp4"))
    assert "libtorchcodec" in str(caught.value.__cause__)
