"""What crosses the boundary between files and models: frames with the times they were really shown."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of one video or picture, in order of time.

    A picture is a clip of one frame at 0 seconds. Frames are NumPy, never torch, so that decode workers need no torch.

    Args:
        frames: `[T, 3, height, width]`, uint8, RGB, upright (rotation metadata already applied).
        pts_seconds: `[T]`, float64; presentation time of each frame, in seconds after the video's first shown frame.
        source: what was read, for messages.
        reader: the reader that answered (`"pyav"`, `"decord"`, ...), or `"array"` for frames made in memory.
        reader_reason: why that one answered.
        tolerance_seconds: how far a frame may be from the time asked for; 0 for exact reading.

    Raises:
        ValueError: if the shapes or types are not the above, or there is no frame.
    """

    frames: np.ndarray
    pts_seconds: np.ndarray
    source: str = "<array>"
    reader: str = "array"
    reader_reason: str = ""
    tolerance_seconds: float = 0.0

    def __post_init__(self) -> None:
        frames, times = self.frames, self.pts_seconds
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
            raise ValueError(
                f"{self.source}: Clip.frames must be uint8 [T, 3, height, width], "
                f"got {frames.dtype} {list(frames.shape)}"
            )
        if min(frames.shape) < 1:
            raise ValueError(
                f"{self.source}: Clip.frames must hold at least one frame and pixel, got {list(frames.shape)}"
            )
        if times.dtype != np.float64 or times.shape != (len(frames),):
            raise ValueError(
                f"{self.source}: Clip.pts_seconds must be float64 [{len(frames)}], one time a frame, "
                f"got {times.dtype} {list(times.shape)}"
            )

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        count, _, height, width = self.frames.shape
        first, last = self.pts_seconds[0], self.pts_seconds[-1]
        return f"Clip({self.source}: {count} frames {width}x{height}, {first:.3f} to {last:.3f} s, {self.reader})"


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of itself, before any frame is asked for.

    Args:
        source: path or name of the source.
        width, height: pixels of an upright frame (after rotation).
        duration_seconds: from the first shown frame to the end of the last; see `duration_from`. 0 for a picture.
        duration_from: where the duration was found: `"stream"`, `"container"`, `"frames"` (the end of the last frame in
            the file, where the headers are silent or wrong), `"folder"` or `"picture"`.
        last_frame_seconds: presentation time of the last frame, after the first shown one.
        start_seconds: time of the first shown frame in the file's own clock, from which every other time counts.
        frames_per_second: average rate, or None if the file does not say.
        num_frames_from_header: the header's count, None where it has none; never trusted for seeking.
        variable_frame_rate: whether frame durations differ, None if unknown.
        edit_list: whether the file hides frames that must be decoded but not shown, None if unknown.
        rotation: degrees clockwise a player turns the stored picture, one of 0, 90, 180, 270.
        codec: short codec name, such as `h264`.
        pixel_format: such as `yuv420p`.
        num_bytes: size of the file.
    """

    source: str
    width: int
    height: int
    duration_seconds: float
    duration_from: str
    last_frame_seconds: float
    start_seconds: float
    frames_per_second: float | None
    num_frames_from_header: int | None
    variable_frame_rate: bool | None
    edit_list: bool | None
    rotation: int
    codec: str
    pixel_format: str
    num_bytes: int
