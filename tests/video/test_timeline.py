"""When frames are shown, from packets alone, against a decode of the whole file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from videoflamingo.errors import SamplingError, VideoError
from videoflamingo.video.pyav import PyavReader
from videoflamingo.video.source import SourceFile
from videoflamingo.video.timeline import Timeline, checked_times, number_shown_at, read_timeline

Encode = Callable[..., str]

VARIABLE_MS = [33 * index if index < 40 else 2000 + 250 * (index - 40) for index in range(60)]
OPEN_GOPS = {"encoder": {"x264-params": "open-gop=1:scenecut=0"}}
INTRA_REFRESH = {"encoder": {"x264-params": "intra-refresh=1:keyint=30"}}


def timeline_of(path: str | Path) -> Timeline:
    return read_timeline(SourceFile.of(path))


def decoded_seconds(path: str) -> np.ndarray:
    with av.open(path) as container:
        return np.array([float(frame.pts * frame.time_base) for frame in container.decode(video=0)])


def why_not(path: str | Path) -> str:
    source = SourceFile.of(path)
    with PyavReader(source) as video:
        return read_timeline(source).why_not(video.info)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("h264.mp4", {}),
        ("h264.mkv", {}),
        ("open.mp4", OPEN_GOPS),
        ("hevc.mp4", {"codec": "libx265"}),
        ("vp9.webm", {"codec": "libvpx-vp9"}),
        ("variable.mp4", {"num_frames": 60, "times_ms": VARIABLE_MS}),
        ("one.mp4", {"num_frames": 1}),
    ],
)
def test_it_lists_the_times_a_decode_of_the_whole_file_shows(name: str, options: dict, encode: Encode) -> None:
    path = encode(name, **options)
    shown = decoded_seconds(path)
    timeline = timeline_of(path)
    np.testing.assert_allclose(timeline.shown_seconds, shown - shown[0], atol=1e-9)
    assert timeline.start_seconds == pytest.approx(shown[0])


def test_frames_hidden_by_an_edit_list_are_not_in_it(encode: Encode, remux: Encode) -> None:
    path = remux(encode("h264.mp4"), "cut.mp4", shift_seconds=-1.5)
    shown = decoded_seconds(path)
    timeline = timeline_of(path)
    assert timeline.hides_frames
    np.testing.assert_allclose(timeline.shown_seconds, shown - shown[0], atol=1e-9)
    assert not timeline_of(encode("h264.mp4")).hides_frames


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_times_count_from_the_first_shown_frame(name: str, encode: Encode, remux: Encode) -> None:
    path = remux(encode("h264.mp4"), name, shift_seconds=2.0)
    timeline = timeline_of(path)
    assert timeline.shown_seconds[0] == 0.0
    assert timeline.start_seconds == pytest.approx(decoded_seconds(path)[0])
    assert timeline.start_seconds >= 2.0


def test_bytes_have_the_timeline_of_the_file(encode: Encode) -> None:
    path = Path(encode("h264.mp4"))
    np.testing.assert_array_equal(
        timeline_of(path).shown_seconds, read_timeline(SourceFile.of(path.read_bytes())).shown_seconds
    )


def test_it_tells_open_gops(encode: Encode) -> None:
    assert timeline_of(encode("open.mp4", **OPEN_GOPS)).open_gops
    assert timeline_of(encode("hevc.mp4", codec="libx265")).open_gops  # x265 writes them by default
    assert not timeline_of(encode("h264.mp4")).open_gops


@pytest.mark.parametrize("name", ["refresh.mp4", "refresh.mkv", "refresh.ts"])
def test_keyframes_that_only_begin_to_renew_the_picture_are_told(name: str, encode: Encode) -> None:
    path = encode(name, **INTRA_REFRESH)
    assert timeline_of(path).refreshes_slowly
    assert "intra refresh" in why_not(path)


@pytest.mark.parametrize("name", ["open.mp4", "h264.mp4", "h264.ts"])
def test_keyframes_that_are_whole_are_not_taken_for_those(name: str, encode: Encode) -> None:
    assert not timeline_of(encode(name, **(OPEN_GOPS if name == "open.mp4" else {}))).refreshes_slowly


def copied(path: str, to: Path, change: Callable[[int, av.Packet], bool]) -> Path:
    """Copy the packets for which `change` is true, after it changed them."""
    with av.open(path) as read, av.open(str(to), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for number, packet in enumerate(read.demux(video=0)):
            if packet.dts is not None and change(number, packet):
                packet.stream = stream
                written.mux(packet)
    return to


def test_packets_before_the_first_keyframe_are_a_reason_against_it(encode: Encode, tmp_path: Path) -> None:
    path = copied(encode("h264.mp4"), tmp_path / "starts_inside.mkv", lambda number, _: number >= 10)
    assert "packets that are not shown" in why_not(path)


def test_times_that_go_back_are_a_reason_against_it(encode: Encode, tmp_path: Path) -> None:
    def swap(number: int, packet: av.Packet) -> bool:
        assert packet.pts is not None and packet.duration is not None
        moved = {1: 1, 2: -1}.get(number % 3, 0)
        packet.pts += (5 + moved) * packet.duration  # all later, so that none is shown before it is decoded
        return True

    plain = encode("plain.mkv", num_frames=20, encoder={"bf": "0"})
    assert why_not(plain) == ""
    assert "order they are decoded" in why_not(copied(plain, tmp_path / "swapped.mkv", swap))


def test_a_file_cut_off_between_packets_is_a_reason_against_it(encode: Encode, tmp_path: Path) -> None:
    whole = Path(encode("faststart.mp4", options={"movflags": "+faststart"}))
    with av.open(str(whole)) as container:
        end = max(packet.pos + packet.size for packet in container.demux(video=0) if packet.pts and packet.pts < 20000)
    cut = tmp_path / "cut_off.mp4"
    cut.write_bytes(whole.read_bytes()[:end])
    assert "it was cut off" in why_not(cut)


def test_nothing_speaks_against_a_plain_file(encode: Encode) -> None:
    assert why_not(encode("h264.mp4")) == ""


def test_a_file_cut_off_inside_a_packet_is_damaged(encode: Encode, tmp_path: Path) -> None:
    data = Path(encode("faststart.mp4", options={"movflags": "+faststart"})).read_bytes()
    path = tmp_path / "cut_off.mp4"
    path.write_bytes(data[: int(len(data) * 0.7)])
    with pytest.raises(VideoError, match=r"cut_off\.mp4: is damaged \(an incomplete packet\); download or copy"):
        timeline_of(path)


def test_a_hole_of_zeros_is_damage(encode: Encode, tmp_path: Path) -> None:
    data = bytearray(Path(encode("faststart.mp4", options={"movflags": "+faststart"})).read_bytes())
    data[len(data) // 2 : len(data) // 2 + len(data) // 5] = bytes(len(data) // 5)
    path = tmp_path / "hole.mp4"
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"hole\.mp4: is damaged"):
        timeline_of(path)


def test_a_raw_stream_has_no_times(encode: Encode) -> None:
    with pytest.raises(VideoError, match=r"raw\.h264: some of its packets carry no times; .* ffmpeg -i"):
        timeline_of(encode("raw.h264"))


def test_the_frame_shown_at_a_time_is_the_last_that_starts_by_then() -> None:
    starts = np.array([0.0, 0.1, 0.4])
    times = np.array([-1.0, 0.0, 0.0999, 0.1 - 1e-7, 0.1, 0.39, 0.4, 99.0])
    assert number_shown_at(times, starts).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("times", [[], [float("nan")], [0.0, float("inf")], [[0.0]]])
def test_times_that_are_none_are_refused(times: Any) -> None:
    with pytest.raises(SamplingError, match=r"clip\.mp4: times_seconds must be one or more finite numbers"):
        checked_times("clip.mp4", times)
