"""Sampling is arithmetic on seconds: tested without a video."""

from typing import Any

import numpy as np
import pytest

from videoflamingo.errors import SamplingError
from videoflamingo.video.sampling import (
    Sampling,
    endpoint_times,
    fps_times,
    random_segment_times,
    resolve_range,
    uniform_times,
    window_times,
)

REQUESTS = [
    (duration, num_frames, start)
    for duration in (0.04, 1.0, 9.97, 3600.0)
    for num_frames in (1, 2, 7, 32)
    for start in (0.0, 0.3, 1000.0)
]


def test_uniform_times_are_centres_of_equal_parts() -> None:
    assert uniform_times(8.0, 4) == [1.0, 3.0, 5.0, 7.0]
    assert uniform_times(8.0, 1, start_seconds=2.0) == [6.0]


@pytest.mark.parametrize(("duration", "num_frames", "start"), REQUESTS)
def test_uniform_times_lie_inside_and_are_even(duration: float, num_frames: int, start: float) -> None:
    times = np.array(uniform_times(duration, num_frames, start))
    assert len(times) == num_frames
    assert start < times[0]
    assert times[-1] < start + duration
    np.testing.assert_allclose(np.diff(times), duration / num_frames, rtol=1e-6)
    assert times[0] - start == pytest.approx(start + duration - times[-1])


def test_endpoint_times_include_both_ends() -> None:
    assert endpoint_times(6.0, 4) == [0.0, 2.0, 4.0, 6.0]
    assert endpoint_times(6.0, 2, start_seconds=3.0) == [3.0, 6.0]
    assert endpoint_times(6.0, 1) == [0.0]
    with pytest.raises(SamplingError, match="comes before the start"):
        endpoint_times(1.0, 2, start_seconds=2.0)


def test_fps_times_step_from_the_start() -> None:
    assert fps_times(2.0, 2.0) == [0.0, 0.5, 1.0, 1.5]
    assert fps_times(2.1, 2.0, start_seconds=1.0) == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert fps_times(0.04, 1.0) == [0.0]


@pytest.mark.parametrize("rate", [0.1, 1.0, 3.0, 29.97])
@pytest.mark.parametrize("duration", [0.5, 10.0, 77.7])
def test_fps_times_never_reach_the_end(rate: float, duration: float) -> None:
    times = fps_times(duration, rate)
    assert times[-1] < duration
    assert times[-1] + 1 / rate >= duration - 1e-6


def test_fps_times_over_the_cap_become_uniform_centres() -> None:
    assert fps_times(8.0, 2.0, max_frames=16) == [index / 2 for index in range(16)]
    assert fps_times(8.0, 2.0, max_frames=4) == uniform_times(8.0, 4)


@pytest.mark.parametrize(("duration", "num_frames", "start"), REQUESTS)
def test_random_times_fall_one_in_each_part(duration: float, num_frames: int, start: float) -> None:
    times = random_segment_times(duration, num_frames, np.random.default_rng(0), start)
    parts = [(time - start) / (duration / num_frames) for time in times]
    assert all(index - 1e-6 <= part <= index + 1 + 1e-6 for index, part in enumerate(parts))


@pytest.mark.parametrize("start", [0.0, 3.5])
def test_a_window_keeps_its_rate_and_lies_anywhere_within_the_video(start: float) -> None:
    firsts = []
    for seed in range(200):
        times = window_times(20.0, 8, 1.0, np.random.default_rng(seed), start)
        assert np.allclose(np.diff(times), 1.0)
        assert len(times) == 8
        assert start <= times[0]
        assert times[-1] < start + 20.0
        firsts.append(times[0] - start)
    assert min(firsts) < 1.0
    assert max(firsts) > 12.0


def test_a_window_in_a_short_video_has_as_many_frames_as_fit_from_the_start() -> None:
    assert window_times(2.5, 8, 1.0, np.random.default_rng(0)) == [0.0, 1.0, 2.0]


def test_random_times_are_a_function_of_the_generator() -> None:
    drawn = [random_segment_times(9.0, 5, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("num_frames", [0, -1, 2.5, True])
def test_a_wrong_number_of_frames_is_an_error(num_frames: int) -> None:
    with pytest.raises(SamplingError, match=f"num_frames={num_frames}: ask for a whole number of frames, 1 or more"):
        uniform_times(8.0, num_frames)


@pytest.mark.parametrize("duration", [0.0, -1.0, float("nan"), float("inf")])
def test_a_duration_that_is_not_positive_is_an_error(duration: float) -> None:
    with pytest.raises(SamplingError, match="the duration must be above 0"):
        uniform_times(duration, 4)


def test_a_range_defaults_to_the_whole_video() -> None:
    assert resolve_range("clip.mp4", 9.97) == (0.0, 9.97)
    assert resolve_range("clip.mp4", 9.97, 2, 5) == (2.0, 5.0)


def test_an_end_copied_from_a_rounded_message_is_the_end() -> None:
    assert resolve_range("clip.mp4", 9.9667, end_seconds=9.97) == (0.0, 9.9667)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (8.0, 15.0, "asked for frames in [8.0, 15.0) s, but the video ends at 9.97 s; give --end 9.97 or less"),
        (
            12.0,
            15.0,
            "asked for frames in [12.0, 15.0) s, but the video ends at 9.97 s; "
            "give --start below 9.97 and --end 9.97 or less",
        ),
        (12.0, None, "asked for frames in [12.0, end) s, but the video ends at 9.97 s; give --start below 9.97"),
        (-1.0, None, "asked for frames in [-1.0, end) s, but a video starts at 0 s; give --start 0 or more"),
        (3.0, 3.0, "asked for frames in [3.0, 3.0) s, which holds nothing; give an --end after --start"),
        (float("nan"), 3.0, "times are finite numbers; give --start and --end in seconds"),
    ],
)
def test_a_range_outside_the_video_names_value_rule_and_remedy(
    start: float | None, end: float | None, message: str
) -> None:
    with pytest.raises(SamplingError) as caught:
        resolve_range("clip.mp4", 9.97, start, end)
    assert str(caught.value).startswith("clip.mp4: ")
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dense"}, "sampling='dense': use one of uniform, endpoints, fps, random, window"),
        ({"short": "pad"}, "short='pad': use one of repeat, distinct, error"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"method": "fps"}, "sampling='fps' needs frames_per_second"),
        ({"method": "fps", "frames_per_second": 0.0}, "frames_per_second=0.0: give a rate above 0"),
        ({"method": "fps", "frames_per_second": 1.0, "max_frames": 0}, "max_frames=0"),
        ({"frames_per_second": 2.0}, "frames_per_second and max_frames need sampling='fps'"),
    ],
)
def test_a_sampling_checks_itself_when_made(options: dict, message: str) -> None:
    with pytest.raises(SamplingError, match=message.replace("(", r"\(")):
        Sampling(**options)


def test_each_method_samples_the_asked_part() -> None:
    rng = np.random.default_rng(0)
    part: dict[str, Any] = {"start_seconds": 2.0, "end_seconds": 6.0}
    assert Sampling("uniform", 2, **part).times("v", 8.0, 7.96) == [3.0, 5.0]
    assert Sampling("endpoints", 3, **part).times("v", 8.0, 7.96) == [2.0, 4.0, 6.0]
    assert Sampling("endpoints", 2).times("v", 8.0, 7.96) == [0.0, 7.96]
    assert Sampling("fps", frames_per_second=1.0, **part).times("v", 8.0, 7.96) == [2.0, 3.0, 4.0, 5.0]
    first, second = Sampling("random", 2, **part).times("v", 8.0, 7.96, rng)
    assert 2.0 <= first < 4.0 <= second < 6.0
    with pytest.raises(SamplingError, match="needs rng"):
        Sampling("random").times("v", 8.0, 7.96)


def test_the_short_policies() -> None:
    pts = np.array([0.0, 0.0, 1.0, 1.0])
    assert Sampling(short="repeat").kept("v", pts).tolist() == [True, True, True, True]
    assert Sampling(short="distinct").kept("v", pts).tolist() == [True, False, True, False]
    with pytest.raises(SamplingError, match="v: asked for 4 distinct frames, but only 2 are shown there; ask for 2"):
        Sampling(short="error").kept("v", pts)
    assert Sampling(short="error").kept("v", pts[::2]).all()
