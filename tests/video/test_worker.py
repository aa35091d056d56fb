"""Reading in a process that can be killed: same clips, and no hang or crash gets past the deadline."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from videoflamingo.errors import SamplingError, UsageError, VideoError
from videoflamingo.video import load_clip
from videoflamingo.video.sampling import uniform_times
from videoflamingo.video.worker import run_isolated

Encode = Callable[..., str]


def test_a_hang_is_killed_at_the_deadline_and_names_the_file() -> None:
    with pytest.raises(VideoError, match=r"clip\.mp4: not read within 0\.5 s, so its decoding process was killed"):
        run_isolated("clip.mp4", time.sleep, 3600, deadline_seconds=0.5)


def test_a_crash_names_the_file_and_the_signal() -> None:
    with pytest.raises(VideoError, match=r"clip\.mp4: its decoding process died with signal 6"):
        run_isolated("clip.mp4", os.abort, deadline_seconds=60)


def test_a_bug_is_reported_with_its_last_line() -> None:
    with pytest.raises(VideoError, match=r"died with code 1 \(TypeError: .*\)"):
        run_isolated("clip.mp4", len, 5, deadline_seconds=60)


def test_our_own_errors_arrive_unchanged() -> None:
    with pytest.raises(SamplingError, match="num_frames=0"):
        run_isolated("clip.mp4", uniform_times, 8.0, 0, deadline_seconds=60)


def test_what_a_library_prints_does_not_disturb_the_answer() -> None:
    assert run_isolated("clip.mp4", os.system, "echo noise", deadline_seconds=60) == 0


def test_a_missing_file_is_the_same_error_as_in_this_process(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"none\.mp4: no such file; check the path"):
        load_clip(tmp_path / "none.mp4", isolated=True)


def test_an_unknown_reader_starts_no_process() -> None:
    with pytest.raises(UsageError, match="use one of auto, pyav, decord"):
        load_clip("clip.mp4", reader="torchcodec", isolated=True)


def test_a_relative_path_means_the_same_file(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(encode("h264.mp4"))
    monkeypatch.chdir(path.parent)
    clip = load_clip(path.name, num_frames=1, reader="pyav", isolated=True)
    assert (clip.source, clip.reader) == ("h264.mp4", "pyav")


def test_random_times_do_not_depend_on_the_process(encode: Encode) -> None:
    path = encode("h264.mp4")
    here, isolated = (
        load_clip(path, sampling="random", rng=np.random.default_rng(3), isolated=isolated, reader="pyav")
        for isolated in (False, True)
    )
    assert here.pts_seconds.tolist() == isolated.pts_seconds.tolist()
    np.testing.assert_array_equal(here.frames, isolated.frames)
