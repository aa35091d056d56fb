"""Which times to take frames at: arithmetic on seconds, without any video.

By time, not by frame index: in a variable-rate file equal index steps crowd into the busy part. All times are seconds
after the first shown frame, and ranges are `[start, stop)`. Worked on a video of 8 s, 4 frames:

    uniform    centres of 4 equal parts            1.0  3.0  5.0  7.0
    endpoints  both ends, last frame at 7.96       0.0  2.653  5.307  7.96
    fps        one frame every 1 / 0.5 s           0.0  2.0  4.0  6.0
    random     one random time in each equal part  0.4  3.7  4.1  7.2   (for instance)
    window     one every 1 / 1.0 s, from anywhere  2.6  3.6  4.6  5.6   (for instance)

Short videos. A video of 2 frames, shown at 0 and 1 s, sampled uniformly with 4 frames, is asked for 0.25, 0.75, 1.25
and 1.75 s, so only 2 distinct frames answer. `short` names what happens then:

    "repeat"    4 frames, at 0, 0, 1, 1 s: each time gets the frame shown then
    "distinct"  2 frames, at 0, 1 s: each frame once
    "error"     SamplingError
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from videoflamingo.errors import SamplingError

SamplingMethod = Literal["uniform", "endpoints", "fps", "random", "window"]
ShortPolicy = Literal["repeat", "distinct", "error"]
DRAWN: tuple[SamplingMethod, ...] = ("random", "window")  # whose times are drawn anew for every clip

# Messages print times to 0.01 s, so a time copied from a message must be accepted.
PRINTED_SECONDS = 0.01


def uniform_times(duration_seconds: float, num_frames: int, start_seconds: float = 0.0) -> list[float]:
    """Centres of `num_frames` equal parts of `[start_seconds, start_seconds + duration_seconds)`.

    >>> uniform_times(8.0, 4)
    [1.0, 3.0, 5.0, 7.0]

    Raises:
        SamplingError: if `num_frames < 1` or the duration is not positive.
    """
    _check_request(duration_seconds, num_frames)
    part_seconds = duration_seconds / num_frames
    return [start_seconds + (index + 0.5) * part_seconds for index in range(num_frames)]


def endpoint_times(last_frame_seconds: float, num_frames: int, start_seconds: float = 0.0) -> list[float]:
    """`num_frames` evenly spaced times in `[start_seconds, last_frame_seconds]`, both ends included.

    One frame is the one at the start. Pass the time of the last frame, not the duration: at the very end of the video
    nothing is shown any more.

    >>> endpoint_times(6.0, 4)
    [0.0, 2.0, 4.0, 6.0]

    Raises:
        SamplingError: if `num_frames < 1` or the last frame comes before the start.
    """
    if last_frame_seconds < start_seconds:
        raise SamplingError(f"the last frame, at {last_frame_seconds} s, comes before the start, {start_seconds} s")
    _check_num_frames(num_frames)
    return [float(time) for time in np.linspace(start_seconds, last_frame_seconds, num_frames)]


def fps_times(
    duration_seconds: float, frames_per_second: float, max_frames: int | None = None, start_seconds: float = 0.0
) -> list[float]:
    """One time every `1 / frames_per_second` from the start; more than `max_frames` become that many uniform centres.

    >>> fps_times(2.0, 2.0)
    [0.0, 0.5, 1.0, 1.5]
    >>> fps_times(8.0, 2.0, max_frames=4)
    [1.0, 3.0, 5.0, 7.0]

    Args:
        max_frames: None for no cap: an hour at 2 frames per second is then 7200 frames in memory.

    Raises:
        SamplingError: if the rate, the duration or the cap is not positive.
    """
    _check_frames_per_second(frames_per_second)
    _check_request(duration_seconds, 1 if max_frames is None else max_frames)
    # A part of a step still shows a frame at its start; the 1e-9 keeps 2 s at 2 frames per second from giving 5.
    count = max(1, int(np.ceil(duration_seconds * frames_per_second - 1e-9)))
    if max_frames is not None and count > max_frames:
        return uniform_times(duration_seconds, max_frames, start_seconds)
    return [start_seconds + index / frames_per_second for index in range(count)]


def random_segment_times(
    duration_seconds: float, num_frames: int, rng: np.random.Generator, start_seconds: float = 0.0
) -> list[float]:
    """One uniformly random time in each of `num_frames` equal parts, in order; for training.

    Raises:
        SamplingError: if `num_frames < 1` or the duration is not positive.
    """
    _check_request(duration_seconds, num_frames)
    part_seconds = duration_seconds / num_frames
    offsets = rng.random(num_frames)  # [T] in [0, 1)
    return [start_seconds + (index + float(offset)) * part_seconds for index, offset in enumerate(offsets)]


def window_times(
    duration_seconds: float,
    num_frames: int,
    frames_per_second: float,
    rng: np.random.Generator,
    start_seconds: float = 0.0,
) -> list[float]:
    """`num_frames` times, one every `1 / frames_per_second`, beginning anywhere they fit; for training.

    Flamingo's training clips: 8 frames at 1 a second (v2 B.1.2). In a video too short for all of them it begins at the
    start, and has as many as fit.

    Raises:
        SamplingError: if the rate, the duration or the number is not positive.
    """
    _check_frames_per_second(frames_per_second)
    _check_request(duration_seconds, num_frames)
    room = duration_seconds - (num_frames - 1) / frames_per_second
    first = float(rng.random()) * max(0.0, room)  # below the room, so that the last one is within the video
    times = [first + index / frames_per_second for index in range(num_frames)]
    return [start_seconds + time for time in times if time < duration_seconds]


def resolve_range(
    source: str, duration_seconds: float, start_seconds: float | None = None, end_seconds: float | None = None
) -> tuple[float, float]:
    """The range `[start, stop)` a request means in a video of this duration.

    A range that leaves the video is an error, not a shorter clip; only an end within 0.01 s of the video's, as a
    message prints it, is taken as the end.

    Raises:
        SamplingError: if the range is empty, starts before 0 or leaves the video.
    """
    start = 0.0 if start_seconds is None else float(start_seconds)
    stop = duration_seconds if end_seconds is None else float(end_seconds)
    asked = f"{source}: asked for frames in [{start}, {'end' if end_seconds is None else stop}) s"
    if not (np.isfinite(start) and np.isfinite(stop)):
        raise SamplingError(f"{asked}, but times are finite numbers; give --start and --end in seconds")
    if start < 0:
        raise SamplingError(f"{asked}, but a video starts at 0 s; give --start 0 or more")
    if start >= duration_seconds:
        remedy = f"give --start below {duration_seconds:.2f}"
        if end_seconds is not None:
            remedy += f" and --end {duration_seconds:.2f} or less"
        raise SamplingError(f"{asked}, but the video ends at {duration_seconds:.2f} s; {remedy}")
    if stop > duration_seconds + PRINTED_SECONDS:
        raise SamplingError(
            f"{asked}, but the video ends at {duration_seconds:.2f} s; give --end {duration_seconds:.2f} or less"
        )
    if stop <= start:
        raise SamplingError(f"{asked}, which holds nothing; give an --end after --start")
    return start, min(stop, duration_seconds)


@dataclass(frozen=True)
class Sampling:
    """How to choose the times of a clip's frames.

    Args:
        method: see the module's table. `"random"` and `"window"` need a generator when times are drawn.
        num_frames: frames of a clip; `"fps"` ignores it.
        frames_per_second: for `"fps"` and `"window"` only, and needed there.
        max_frames: cap for `"fps"`; None for no cap.
        start_seconds, end_seconds: the part to sample, None for the video's own ends.
        short: what to do when fewer distinct frames exist than were asked for; see the module's table.

    Raises:
        SamplingError: if a name is unknown, a number is out of range, or an option does not go with the method.
    """

    method: SamplingMethod = "uniform"
    num_frames: int = 8
    frames_per_second: float | None = None
    max_frames: int | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    short: ShortPolicy = "repeat"

    def __post_init__(self) -> None:
        if self.method not in get_args(SamplingMethod):
            raise SamplingError(f"sampling={self.method!r}: use one of {', '.join(get_args(SamplingMethod))}")
        if self.short not in get_args(ShortPolicy):
            raise SamplingError(f"short={self.short!r}: use one of {', '.join(get_args(ShortPolicy))}")
        _check_num_frames(self.num_frames)
        has_rate = self.method in ("fps", "window")
        if has_rate:
            if self.frames_per_second is None:
                raise SamplingError(f"sampling={self.method!r} needs frames_per_second (--fps)")
            _check_frames_per_second(self.frames_per_second)
        if self.method == "fps" and self.max_frames is not None:
            _check_num_frames(self.max_frames, "max_frames")
        elif self.max_frames is not None or (self.frames_per_second is not None and not has_rate):
            raise SamplingError(
                f"sampling={self.method!r} takes num_frames; frames_per_second and max_frames need sampling='fps'"
            )

    def times(
        self,
        source: str,
        duration_seconds: float,
        last_frame_seconds: float,
        rng: np.random.Generator | None = None,
    ) -> list[float]:
        """The times to ask a reader for, in order.

        Args:
            source: for messages.
            duration_seconds, last_frame_seconds: as in `VideoInfo`.
            rng: where `"random"` and `"window"` draw from.

        Raises:
            SamplingError: if the range leaves the video, or `"random"` or `"window"` has no generator.
        """
        start, stop = resolve_range(source, duration_seconds, self.start_seconds, self.end_seconds)
        if self.method == "uniform":
            return uniform_times(stop - start, self.num_frames, start)
        if self.method == "endpoints":
            return endpoint_times(max(start, min(stop, last_frame_seconds)), self.num_frames, start)
        if self.method == "fps":
            assert self.frames_per_second is not None  # checked when made
            return fps_times(stop - start, self.frames_per_second, self.max_frames, start)
        if rng is None:
            raise SamplingError(f"sampling={self.method!r} needs rng, for instance rng=numpy.random.default_rng(seed)")
        if self.method == "window":
            assert self.frames_per_second is not None  # checked when made
            return window_times(stop - start, self.num_frames, self.frames_per_second, rng, start)
        return random_segment_times(stop - start, self.num_frames, rng, start)

    def kept(self, source: str, pts_seconds: np.ndarray) -> np.ndarray:
        """Which of the frames got stay in the clip, by the `short` policy.

        Args:
            source: for messages.
            pts_seconds: `[T]`, times of the frames got, in order.

        Returns:
            `[T]`, bool.

        Raises:
            SamplingError: if the policy is `"error"` and a frame repeats.
        """
        first = np.diff(pts_seconds, prepend=-np.inf) > 0  # [T], the first of each run of equal frames
        if self.short == "error" and not first.all():
            raise SamplingError(
                f"{source}: asked for {len(first)} distinct frames, but only {first.sum()} are shown there; "
                f"ask for {first.sum()}, or choose short='repeat' or short='distinct'"
            )
        return first if self.short == "distinct" else np.ones_like(first)


def _check_num_frames(num_frames: int, name: str = "num_frames") -> None:
    if isinstance(num_frames, bool) or not isinstance(num_frames, (int, np.integer)) or num_frames < 1:
        raise SamplingError(f"{name}={num_frames}: ask for a whole number of frames, 1 or more")


def _check_frames_per_second(frames_per_second: float) -> None:
    if not (np.isfinite(frames_per_second) and frames_per_second > 0):
        raise SamplingError(f"frames_per_second={frames_per_second}: give a rate above 0")


def _check_request(duration_seconds: float, num_frames: int) -> None:
    _check_num_frames(num_frames)
    if not (np.isfinite(duration_seconds) and duration_seconds > 0):
        raise SamplingError(
            f"duration_seconds={duration_seconds}: no frames can be sampled; the duration must be above 0"
        )
