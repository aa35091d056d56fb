"""Tiny real videos and pictures, written where a test asks for them."""

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

Write = Callable[[Path], Path]


@pytest.fixture(scope="session")
def video_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An mp4 of one second, of four frames of different grey."""
    path = tmp_path_factory.mktemp("video") / "grey.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.thread_count = 1
        for shade in (30, 90, 150, 210):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.fixture
def write_video(video_bytes: bytes) -> Write:
    """Write it to a path, with the folders above."""

    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video_bytes)
        return path

    return write


@pytest.fixture(scope="session")
def picture_bytes() -> bytes:
    """A PNG."""
    packed = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), 100, np.uint8)).save(packed, "PNG")
    return packed.getvalue()
