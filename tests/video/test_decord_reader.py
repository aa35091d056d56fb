"""decord against PyAV: the same frames at the same times, always in a process of its own."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videoflamingo.clip import VideoInfo
from videoflamingo.errors import UsageError, VideoError
from videoflamingo.video import load_clip, open_video
from videoflamingo.video.decord_reader import decord_suits
from videoflamingo.video.reader import open_video_to_be_killed

Encode = Callable[..., str]

needs_decord = pytest.mark.skipif(importlib.util.find_spec("decord") is None, reason="needs the package decord")


def assert_same_clip(path: str, reader: str, expected_reader: str) -> None:
    expected = load_clip(path, num_frames=5, reader="pyav")
    clip = load_clip(path, num_frames=5, reader=reader, isolated=True)
    assert clip.reader == expected_reader
    np.testing.assert_allclose(clip.pts_seconds, expected.pts_seconds, atol=1e-3)
    assert np.abs(clip.frames.astype(int) - expected.frames).max() <= 2


@needs_decord
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("h264.mp4", {}),
        ("closed.mp4", {"codec": "libx265", "encoder": {"x265-params": "log-level=none:pools=1:open-gop=0"}}),
        ("vp9.mp4", {"codec": "libvpx-vp9"}),
        ("rotated90.mp4", {"num_frames": 6, "rotation": 90}),
    ],
)
def test_auto_in_isolation_is_decord_and_equals_pyav(name: str, options: dict, encode: Encode) -> None:
    assert_same_clip(encode(name, **options), "auto", "decord")


@needs_decord
def test_a_real_clip_equals_pyav(real_videos: Path) -> None:
    assert_same_clip(str(real_videos / "carphone_pristine.mp4"), "decord", "decord")


@needs_decord
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hevc.mp4", {"codec": "libx265"}),  # open GOPs by default
        ("open.mp4", {"encoder": {"x264-params": "open-gop=1:scenecut=0"}}),
    ],
)
def test_open_gops_are_refused_by_name_and_read_by_pyav_under_auto(name: str, options: dict, encode: Encode) -> None:
    path = encode(name, **options)
    with pytest.raises(VideoError, match=r"decord would return wrong frames .* after a keyframe and shown before it"):
        load_clip(path, reader="decord")
    assert_same_clip(path, "auto", "pyav")


@needs_decord
def test_an_edit_list_is_refused_by_name_and_read_by_pyav_under_auto(encode: Encode, remux: Encode) -> None:
    path = remux(encode("h264.mp4"), "cut.mp4", shift_seconds=-1.5)
    with pytest.raises(VideoError, match=r"decord would return wrong frames .* edit list .*; use the reader 'pyav'"):
        load_clip(path, reader="decord")
    assert_same_clip(path, "auto", "pyav")


@needs_decord
@pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
def test_named_it_is_tried_where_auto_would_not(name: str, encode: Encode, remux: Encode) -> None:
    path = remux(encode("h264.mp4"), name, shift_seconds=1.0)
    assert_same_clip(path, "decord", "decord")
    assert_same_clip(path, "auto", "pyav")


@needs_decord
def test_auto_falls_back_to_pyav_where_decord_fails(encode: Encode, tmp_path: Path) -> None:
    data = Path(encode("faststart.mp4", options={"movflags": "+faststart"})).read_bytes()
    path = tmp_path / "cut_off.mp4"
    path.write_bytes(data[: int(len(data) * 0.7)])
    part: dict[str, Any] = {"num_frames": 2, "end_seconds": 0.9}
    assert load_clip(path, isolated=True, **part).reader == "pyav"
    with pytest.raises(
        VideoError, match=r"cut_off\.mp4: decord cannot read it \(.+\); use the reader 'pyav' or 'auto'"
    ):
        load_clip(path, reader="decord", **part)


@pytest.fixture
def plain(encode: Encode) -> VideoInfo:
    with open_video(encode("h264.mp4")) as video:
        return video.info


@needs_decord
def test_it_suits_a_plain_file(plain: VideoInfo) -> None:
    assert decord_suits(plain)


@pytest.mark.parametrize(
    "trap",
    [
        {"codec": "av1"},
        {"variable_frame_rate": True},
        {"variable_frame_rate": None},
        {"edit_list": True},
        {"start_seconds": 0.5},
    ],
)
def test_it_does_not_suit_files_with_a_known_trap(trap: dict, plain: VideoInfo) -> None:
    assert not decord_suits(replace(plain, **trap))


def test_without_decord_auto_reads_with_pyav_and_its_name_is_wrong_usage(
    encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)  # as if it were not installed
    path = encode("h264.mp4")
    with open_video_to_be_killed(path, "auto") as video:
        assert video.name == "pyav"
    with pytest.raises(UsageError, match="needs the decord package: pip install decord"):
        open_video_to_be_killed(path, "decord")
