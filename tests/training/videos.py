"""Small videos for tests of what reads them: frame i shows its number (see `tests.video.kinds`)."""

import os
import tarfile
from fractions import Fraction
from pathlib import Path

import av

from tests.video.kinds import HEIGHT, WIDTH, picture_of
from videoflamingo.video.medium import FilePart

LONG_AGO_NS = 1_500_000_000_000_000_000


def write_video(path: Path, first: int = 0, num_frames: int = 12) -> Path:
    """Frames `first`, `first + 1`, ..., ten a second, in a file that is old enough to be relied on."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture_of(first + index), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return aged(path)


def aged(path: Path, time_ns: int = LONG_AGO_NS) -> Path:
    """The file, last changed at a time long ago."""
    os.utime(path, ns=(time_ns, time_ns))
    return path


def packed(video: Path, tar_path: Path) -> FilePart:
    """The video as part of a tar file, after another file."""
    with tarfile.open(tar_path, "w") as tar:
        tar.add(__file__, "other.txt")
        tar.add(video, "clip.mp4")
    with tarfile.open(tar_path) as tar:
        member = tar.getmember("clip.mp4")
    aged(tar_path)
    return FilePart(str(tar_path), member.offset_data, member.size, "clip.mp4")
