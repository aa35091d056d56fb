"""Frames by time against the plainest oracle: decode everything in order and look up what is shown when."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from videoflamingo.errors import SamplingError, VideoError
from videoflamingo.video.pyav import PyavReader

Encode = Callable[..., str]
IndicesIn = Callable[[np.ndarray], list[int]]

BUSY_THEN_SLOW_MS = [*range(0, 3000, 100), *range(3000, 9000, 1000)]

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "h264": ("h264.mp4", {}),
    "hevc": ("hevc.mp4", {"codec": "libx265"}),
    "vp9": ("vp9.webm", {"codec": "libvpx-vp9"}),
    "mpeg4": ("mpeg4.mp4", {"codec": "mpeg4"}),
    "avi": ("mpeg4.avi", {"codec": "mpeg4"}),
    "mkv": ("h264.mkv", {}),
    "ts": ("h264.ts", {}),
    "10-bit": ("ten.mp4", {"pixel_format": "yuv420p10le"}),
    "variable rate": ("vfr.mp4", {"times_ms": BUSY_THEN_SLOW_MS, "num_frames": len(BUSY_THEN_SLOW_MS)}),
    "variable rate webm": (
        "vfr.webm",
        {"codec": "libvpx-vp9", "times_ms": BUSY_THEN_SLOW_MS, "num_frames": len(BUSY_THEN_SLOW_MS)},
    ),
    "gif": ("frames.gif", {"codec": "gif", "pixel_format": "rgb8", "num_frames": 20}),
    "open GOPs": ("open.mp4", {"encoder": {"x264-params": "open-gop=1:scenecut=0"}}),
    "one frame": ("one.mp4", {"num_frames": 1}),
    "one keyframe": ("long.mp4", {"gop": 90}),
}


def sequential_times(path: str) -> np.ndarray:
    with av.open(path) as container:
        times = np.array([frame.time for frame in container.decode(video=0)])
    return times - times[0]


def shown_at(times: np.ndarray, asked: Sequence[float]) -> list[int]:
    """Index of the last frame that starts at or before each asked time; the first before all."""
    return [max(0, sum(time <= ask + 1e-6 for time in times) - 1) for ask in asked]


def cut_off(source: str, path: Path, kept: float) -> str:
    data = Path(source).read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    return str(path)


@pytest.mark.parametrize("name", FORMATS)
def test_frames_are_those_shown_at_the_asked_times(name: str, encode: Encode, indices_in: IndicesIn) -> None:
    file, options = FORMATS[name]
    path = encode(file, **options)
    times = sequential_times(path)
    with PyavReader(path) as reader:
        rng = np.random.default_rng(0)
        asked = [-1.0, 0.0, *rng.uniform(0, reader.info.duration_seconds, 25), reader.info.duration_seconds, 1e4]
        frames, pts_seconds = reader.frames_at(asked)
    expected = shown_at(times, asked)
    np.testing.assert_allclose(pts_seconds, times[expected], atol=1e-9)
    assert frames.dtype == np.uint8
    assert frames.shape == (len(asked), 3, 96, 128)
    assert indices_in(frames) == expected


def test_a_frames_own_time_gives_that_frame(encode: Encode, indices_in: IndicesIn) -> None:
    path = encode("h264.mp4")
    with PyavReader(path) as reader:
        frames, pts_seconds = reader.frames_at(sequential_times(path).tolist())
    assert indices_in(frames) == list(range(90))
    np.testing.assert_allclose(pts_seconds, np.arange(90) / 30, atol=1e-9)


def test_times_may_go_back_between_calls(encode: Encode, indices_in: IndicesIn) -> None:
    with PyavReader(encode("h264.mp4")) as reader:
        assert [indices_in(reader.frames_at([time])[0])[0] for time in (2.9, 0.0, 1.5, 1.51, 0.99, 2.0)] == [
            87,
            0,
            45,
            45,
            29,
            60,
        ]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_frames_are_upright(rotation: int, encode: Encode, picture: Callable[[int], np.ndarray]) -> None:
    with PyavReader(encode(f"rotated{rotation}.mp4", num_frames=6, rotation=rotation)) as reader:
        frames, _ = reader.frames_at([0.1])
        assert reader.info.rotation == rotation
        assert frames.shape[2:] == (reader.info.height, reader.info.width)
    clockwise = np.rot90(picture(3), k=-rotation // 90).transpose(2, 0, 1)  # [3, height, width]
    assert np.abs(frames[0].astype(int) - clockwise).mean() < 6


def test_info_of_a_plain_file(encode: Encode) -> None:
    path = encode("h264.mp4")
    with PyavReader(path) as reader:
        info = reader.info
    assert (info.width, info.height, info.codec, info.pixel_format) == (128, 96, "h264", "yuv420p")
    assert (info.duration_seconds, info.duration_from) == (pytest.approx(3.0), "stream")
    assert info.last_frame_seconds == pytest.approx(89 / 30)
    assert (info.frames_per_second, info.num_frames_from_header) == (30.0, 90)
    assert (info.variable_frame_rate, info.edit_list, info.rotation, info.start_seconds) == (False, False, 0, 0.0)
    assert info.num_bytes == Path(path).stat().st_size


def test_webm_has_a_duration_without_a_frame_count(encode: Encode) -> None:
    with PyavReader(encode("vp9.webm", codec="libvpx-vp9")) as reader:
        assert reader.info.num_frames_from_header is None
        assert (reader.info.duration_seconds, reader.info.duration_from) == (pytest.approx(3.0), "container")


def test_frames_are_trusted_over_a_header_that_is_too_short(encode: Encode) -> None:
    file, options = FORMATS["variable rate"]
    path = encode(file, **options)
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.duration
        assert stream.time_base
        assert stream.duration * stream.time_base < 7  # the trap: the last frame is shown at 8 s
    with PyavReader(path) as reader:
        assert reader.info.variable_frame_rate is True
        assert (reader.info.last_frame_seconds, reader.info.duration_from) == (8.0, "frames")


def test_sound_that_lasts_longer_is_not_part_of_the_video(encode: Encode) -> None:
    with PyavReader(encode("sound.mkv", audio_seconds=6.0)) as reader:
        assert (reader.info.duration_seconds, reader.info.duration_from) == (pytest.approx(3.0, abs=0.01), "frames")


def test_frames_that_an_edit_list_hides_are_not_shown(encode: Encode, remux: Encode, indices_in: IndicesIn) -> None:
    path = remux(encode("h264.mp4"), "cut.mp4", shift_seconds=-1.5)
    with PyavReader(path) as reader:
        frames, pts_seconds = reader.frames_at([0.0, 0.7, 1.49])
        assert reader.info.edit_list is True
        assert reader.info.num_frames_from_header == 60  # the trap: 15 of them are never shown
        assert reader.info.duration_seconds == pytest.approx(1.5)
    assert indices_in(frames) == [45, 66, 89]
    np.testing.assert_allclose(pts_seconds, [0.0, 0.7, 44 / 30], atol=1e-6)


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_times_count_from_the_first_shown_frame(
    name: str, encode: Encode, remux: Encode, indices_in: IndicesIn
) -> None:
    with PyavReader(remux(encode("h264.mp4"), name, shift_seconds=1.0)) as reader:
        frames, pts_seconds = reader.frames_at([0.0, 1.51, 2.99])
        assert reader.info.start_seconds == pytest.approx(1.0, abs=0.1)
        assert reader.info.duration_seconds == pytest.approx(3.0, abs=0.01)
    assert indices_in(frames) == [0, 45, 89]
    np.testing.assert_allclose(pts_seconds, [0.0, 1.5, 89 / 30], atol=1e-3)


@pytest.mark.parametrize("name", ["h264.mkv", "vp9.webm", "faststart.mp4"])
def test_a_file_cut_off_fails_where_frames_are_missing(
    name: str, encode: Encode, tmp_path: Path, indices_in: IndicesIn
) -> None:
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    options = {"movflags": "+faststart"} if name.endswith("mp4") else {}
    path = cut_off(encode(name, codec=codec, options=options), tmp_path / name, kept=0.7)
    with PyavReader(path) as reader:
        assert reader.info.duration_seconds == pytest.approx(3.0)
        assert indices_in(reader.frames_at([0.5])[0]) == [15]
        with pytest.raises(VideoError) as caught:
            reader.frames_at([2.9])
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "cut off" in message or "is damaged after" in message
    assert "--end" in message


def test_damage_in_the_middle_names_the_file_and_the_cause(encode: Encode, tmp_path: Path) -> None:
    data = bytearray(Path(encode("faststart.mp4", options={"movflags": "+faststart"})).read_bytes())
    with av.open(encode("faststart.mp4")) as container:
        middle = [packet for packet in container.demux(video=0) if packet.is_keyframe][1]
    assert middle.pos is not None
    data[middle.pos : middle.pos + middle.size] = b"\xff" * middle.size
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with PyavReader(str(path)) as reader:
        reader.frames_at([0.5])
        with pytest.raises(VideoError, match=r"damaged\.mp4: is damaged after \d\.\d\d s .* \(Invalid data found"):
            reader.frames_at([1.5])


def test_a_raw_stream_without_times_says_how_to_get_some(encode: Encode) -> None:
    with pytest.raises(VideoError, match=r"carry no times.*-c copy video\.mp4"):
        PyavReader(encode("raw.h264"))


@pytest.mark.parametrize("times", [[], [float("nan")], [[0.0]]])
def test_times_must_be_finite_numbers(times: list[float], encode: Encode) -> None:
    with (
        PyavReader(encode("one.mp4", num_frames=1)) as reader,
        pytest.raises(SamplingError, match="one or more finite numbers"),
    ):
        reader.frames_at(times)


@pytest.mark.parametrize("name", ["bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4"])
def test_real_clips_against_sequential_decoding(name: str, real_videos: Path) -> None:
    path = str(real_videos / name)
    with av.open(path) as container:
        decoded = [(frame.time, frame) for frame in container.decode(video=0)]
        times = np.array([time for time, _ in decoded])
        with PyavReader(path) as reader:
            asked = np.random.default_rng(1).uniform(0, reader.info.duration_seconds, 6)
            frames, pts_seconds = reader.frames_at(asked.tolist())
        for position, index in enumerate(shown_at(times, asked.tolist())):
            assert pts_seconds[position] == pytest.approx(times[index])
            expected = decoded[index][1].to_ndarray(format="rgb24").transpose(2, 0, 1)
            np.testing.assert_array_equal(frames[position], expected)
