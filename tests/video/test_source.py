"""What video may be read from: files, bytes, open files and addresses give the same clip."""

import io
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from videoflamingo.clip import Clip
from videoflamingo.errors import UsageError, VideoError
from videoflamingo.video import DecodePool, Sampling, SourceFile, load_clip

Encode = Callable[..., str]


class RangeHandler(SimpleHTTPRequestHandler):
    """Serves files and parts of files, as every real server of videos does."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if asked is None or not path.is_file():
            return super().do_GET()
        size = path.stat().st_size
        first, last = (int(part) if part else None for part in asked.removeprefix("bytes=").split("-"))
        assert first is not None
        last = size - 1 if last is None else min(last, size - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        with path.open("rb") as file:
            file.seek(first)
            self.wfile.write(file.read(last - first + 1))

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *args: object) -> None:
        """Silent."""


@pytest.fixture
def served(encode: Encode) -> Iterator[str]:
    """Address of a folder with h264.mp4 in it, served from this machine."""
    folder = Path(encode("h264.mp4")).parent
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(RangeHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def assert_same(clip: Clip, expected: Clip) -> None:
    np.testing.assert_array_equal(clip.frames, expected.frames)
    np.testing.assert_array_equal(clip.pts_seconds, expected.pts_seconds)


def test_bytes_are_a_source(encode: Encode) -> None:
    path = Path(encode("h264.mp4"))
    clip = load_clip(path.read_bytes(), num_frames=3)
    assert_same(clip, load_clip(path, num_frames=3))
    assert clip.source == f"<{path.stat().st_size:,} bytes>"


def test_an_open_file_is_read_from_its_path_and_beginning(encode: Encode) -> None:
    path = encode("h264.mp4")
    with open(path, "rb") as file:
        file.seek(1000)
        clip = load_clip(file, num_frames=3)
    assert_same(clip, load_clip(path, num_frames=3))
    assert clip.source == path


def test_an_open_file_without_a_path_is_read_into_memory(encode: Encode) -> None:
    path = Path(encode("vp9.webm", codec="libvpx-vp9"))
    assert_same(load_clip(io.BytesIO(path.read_bytes()), num_frames=3), load_clip(path, num_frames=3))


def test_an_address_is_a_source(served: str, encode: Encode) -> None:
    clip = load_clip(f"{served}/h264.mp4", num_frames=3)
    assert_same(clip, load_clip(encode("h264.mp4"), num_frames=3))
    assert clip.source == f"{served}/h264.mp4"


def test_a_pool_reads_addresses_and_bytes(served: str, encode: Encode) -> None:
    path = Path(encode("h264.mp4"))
    expected = load_clip(path, num_frames=3)
    with DecodePool(1) as pool:
        for source in (f"{served}/h264.mp4", path.read_bytes()):
            assert_same(pool.read(source, Sampling(num_frames=3)).result(), expected)


def test_an_address_that_is_not_there_names_itself(served: str) -> None:
    with pytest.raises(VideoError, match=r"http://.*/none\.mp4: cannot be opened \(.*\); check the address"):
        load_clip(f"{served}/none.mp4")


def test_an_unknown_protocol_names_itself() -> None:
    with pytest.raises(UsageError, match=r"nonsense://clip\.mp4: .*use http\(s\)://, s3://"):
        load_clip("nonsense://clip.mp4")


def test_an_address_needs_fsspec_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)  # as if it were not installed
    with pytest.raises(UsageError, match=r"URLs need fsspec: pip install 'videoflamingo\[remote\]'"):
        load_clip("http://127.0.0.1/clip.mp4")


@pytest.mark.parametrize("source", [5, None, ["clip.mp4"]])
def test_what_is_no_source_names_its_type(source: object) -> None:
    with pytest.raises(UsageError, match=f"is a {type(source).__name__}; give a path, a URL, bytes or a file open"):
        SourceFile.of(source)


def test_a_file_open_for_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gives text; open it in binary mode"):
        SourceFile.of(io.StringIO("text"))


def test_a_tuple_of_another_length_is_refused() -> None:
    with pytest.raises(UsageError, match=r"a part of a video is given as \(source, start_seconds, end_seconds\)"):
        load_clip(("clip.mp4", 1.0))  # type: ignore[arg-type]


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match=r"pipe\.mp4: is a pipe, not a file, and need never end; write it to a file"):
        load_clip(tmp_path / "pipe.mp4")


def test_a_source_survives_the_way_to_another_process(tmp_path: Path) -> None:
    for source in (SourceFile.of(tmp_path / "clip.mp4"), SourceFile.of(b"content"), SourceFile.of("s3://a/b.mp4")):
        assert pickle.loads(pickle.dumps(source)) == source
