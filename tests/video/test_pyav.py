"""Frames by time against the plainest oracle: decode everything in order and look up what is shown when."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from videoflamingo.errors import SamplingError, VideoError
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.pyav import PyavReader
from videoflamingo.video.pyav_decoder import PyavDecoder

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
    whole = encode("faststart.mp4", options={"movflags": "+faststart"})
    data = bytearray(Path(whole).read_bytes())
    with av.open(whole) as container:
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


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_frames(
    num_threads: int, real_videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videoflamingo.video.pyav._PIXELS_WORTH_A_THREAD", 1)  # as if every file were large
    path = str(real_videos / "bikes.mp4")
    asked = np.random.default_rng(2).uniform(0, 9.9, 12).tolist()
    with PyavReader(path, ReadOptions(num_threads=1)) as reader:
        expected, expected_seconds = reader.frames_at(asked)
        assert len(reader._decoders) == 1
    with PyavReader(path, ReadOptions(num_threads=num_threads)) as reader:
        frames, pts_seconds = reader.frames_at(asked)
        alone = reader.frames_at(asked[:1])[0]  # one group of pictures: its frames are decoded in parallel
        assert (len(reader._decoders) > 1) == (num_threads > 1)
    np.testing.assert_array_equal(frames, expected)
    np.testing.assert_array_equal(pts_seconds, expected_seconds)
    np.testing.assert_array_equal(alone[0], expected[0])


def test_an_error_in_a_thread_reaches_the_caller(encode: Encode, tmp_path: Path) -> None:
    path = cut_off(encode("faststart.mp4", options={"movflags": "+faststart"}), tmp_path / "cut.mp4", kept=0.7)
    with PyavReader(path, ReadOptions(num_threads=4)) as reader, pytest.raises(VideoError, match=r"cut\.mp4: "):
        reader.frames_at([0.1, 1.1, 2.1, 2.9])


def test_frames_are_written_to_the_memory_given(encode: Encode) -> None:
    made: list[np.ndarray] = []

    def allocate(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        made.append(np.zeros(shape, dtype))
        return made[-1]

    with PyavReader(encode("h264.mp4")) as reader:
        frames, _ = reader.frames_at([0.5, 1.5], allocate)
    assert [memory.shape for memory in made] == [(2, 96, 128, 3)]
    assert np.shares_memory(frames, made[0])


@pytest.mark.parametrize(("rotation", "shape"), [(0, (48, 64)), (90, (64, 48))])
def test_frames_are_scaled_while_colours_are_converted(
    rotation: int, shape: tuple[int, int], encode: Encode, picture: Callable[[int], np.ndarray]
) -> None:
    path = encode(f"rotated{rotation}.mp4", num_frames=6, rotation=rotation)
    with PyavReader(path, ReadOptions(short_side=48)) as reader:
        frames, _ = reader.frames_at([0.1])
    assert frames.shape == (1, 3, *shape)
    upright = np.rot90(picture(3), k=-rotation // 90)
    halved = upright.reshape(shape[0], 2, shape[1], 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)  # [3, height, width]
    assert np.abs(frames[0] - halved).mean() < 6


def test_small_frames_are_not_enlarged(encode: Encode) -> None:
    with PyavReader(encode("h264.mp4"), ReadOptions(short_side=200)) as reader:
        assert reader.frames_at([0.0])[0].shape == (1, 3, 96, 128)


def test_within_a_tolerance_keyframes_are_taken(encode: Encode, indices_in: IndicesIn) -> None:
    asked = [0.1, 0.5, 0.95, 1.4, 2.3, 2.95]  # keyframes are at 0, 1 and 2 s
    with PyavReader(encode("h264.mp4"), ReadOptions(tolerance_seconds=0.2)) as reader:
        frames, pts_seconds = reader.frames_at(asked)
    assert indices_in(frames) == [0, 15, 30, 42, 69, 88]
    np.testing.assert_allclose(pts_seconds, [0, 0.5, 1, 1.4, 2.3, 88 / 30], atol=1e-9)


def test_within_a_large_tolerance_only_keyframes_are_decoded(encode: Encode, indices_in: IndicesIn) -> None:
    with PyavReader(encode("h264.mp4"), ReadOptions(tolerance_seconds=10.0)) as reader:
        frames, _ = reader.frames_at([0.3, 0.6, 1.4, 2.9])
    assert indices_in(frames) == [0, 30, 30, 60]


def test_a_tolerance_without_listed_keyframes_is_exact(encode: Encode, indices_in: IndicesIn) -> None:
    with PyavReader(encode("h264.ts"), ReadOptions(tolerance_seconds=0.2)) as reader:
        assert indices_in(reader.frames_at([0.5, 1.5])[0]) == [15, 45]


def test_frames_nobody_needs_are_left_out(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = PyavDecoder._decode

    def counting(self: PyavDecoder, packet: av.Packet | None) -> Sequence[av.VideoFrame]:
        frames = original(self, packet)
        decoded.extend(frame.pts for frame in frames if frame.pts is not None)
        return frames

    path = encode("bframes.mp4", gop=90, encoder={"bf": "3"})
    with PyavReader(path, ReadOptions(num_threads=1)) as reader:
        monkeypatch.setattr(PyavDecoder, "_decode", counting)
        reader.frames_at([0.5, 1.0])
    assert len(decoded) < 20  # of the 30 frames until 1 s, and of the 90 in the group


def test_damage_is_found_by_any_number_of_threads(
    real_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videoflamingo.video.pyav._PIXELS_WORTH_A_THREAD", 1)
    content = (real_videos / "bikes.mp4").read_bytes()
    for seed in range(6):
        rng, data = np.random.default_rng(seed), bytearray(content)
        for place in rng.integers(len(data) // 4, len(data) * 3 // 4, 3):
            data[place] ^= 1 << int(rng.integers(8))
        answers = []
        for num_threads in (1, 3):
            with PyavReader(bytes(data), ReadOptions(num_threads=num_threads)) as reader:
                try:
                    answers.append(reader.frames_at([9.5])[0].tobytes())
                except VideoError as error:
                    answers.append(str(error).encode())
        assert answers[0] == answers[1]


@pytest.mark.parametrize("name", ["refresh.mp4", "refresh.mkv", "refresh.ts"])
def test_a_keyframe_that_only_begins_to_renew_the_picture_is_no_place_to_begin(name: str, encode: Encode) -> None:
    path = encode(name, encoder={"x264-params": "intra-refresh=1:keyint=20"})
    with av.open(path) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        times = sequential_times(path)
    for index in (25, 45, 70):
        with PyavReader(path) as reader:
            frames, _ = reader.frames_at([times[index]])
        np.testing.assert_array_equal(frames[0].transpose(1, 2, 0), decoded[index])


def test_h264_with_frames_out_of_order_in_avi_is_refused(encode: Encode) -> None:
    with pytest.raises(VideoError, match=r"\(avi\) keeps no times at which frames are shown.*ffmpeg -i .* video\.mp4"):
        PyavReader(encode("h264.avi"))


def test_an_empty_packet_in_an_mp4_is_damage(encode: Encode, tmp_path: Path) -> None:
    data = bytearray(Path(encode("h264.mp4")).read_bytes())
    sizes = data.index(b"stsz") + 16  # after name, version, common size and count
    data[sizes + 4 * 40 : sizes + 4 * 41] = bytes(4)
    path = tmp_path / "sizes.mp4"
    path.write_bytes(data)
    with PyavReader(str(path)) as reader:
        reader.frames_at([0.5])
        with pytest.raises(VideoError, match="is damaged after"):
            reader.frames_at([1.9])
