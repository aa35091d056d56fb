"""Pictures are upright, opaque RGB, whatever their format; animations show each frame as a browser would."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from videoflamingo.errors import SamplingError, VideoError
from videoflamingo.video import load_clip, open_video
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.picture import AnimationReader, PictureReader, is_animated_webp, is_picture
from videoflamingo.video.source import SourceFile

RED_LEFT = np.zeros((16, 32, 3), np.uint8)
RED_LEFT[:, :16] = (220, 20, 20)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tiff", "a.gif"])
def test_formats_are_known_by_content_not_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    Image.fromarray(RED_LEFT).save(path)
    renamed = path.rename(tmp_path / "misnamed.mp4")
    frames = load_clip(renamed).frames
    assert frames.shape == (1, 3, 16, 32)
    assert np.abs(frames[0].transpose(1, 2, 0)[:, 2:12].astype(int) - RED_LEFT[:, 2:12]).max() < 12


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise
    Image.fromarray(RED_LEFT).save(path, exif=exif)
    frame = load_clip(path).frames[0]
    assert frame.shape == (3, 32, 16)
    assert frame[0, 4, 8] > 200 > 50 > frame[0, 28, 8]


@pytest.mark.parametrize(("mode", "clear"), [("RGBA", (0, 0, 0, 0)), ("LA", (0, 0))])
def test_transparency_shows_white(mode: str, clear: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "clear.png"
    Image.new(mode, (4, 4), clear).save(path)
    assert load_clip(path).frames.min() == 255


def test_a_palette_with_transparency_shows_white(tmp_path: Path) -> None:
    path = tmp_path / "palette.png"
    Image.new("P", (4, 4), 0).save(path, transparency=0)
    assert load_clip(path).frames.min() == 255


def test_sixteen_bit_grey_is_scaled(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(path)
    assert load_clip(path).frames.tolist() == np.full((1, 3, 4, 4), 0x80).tolist()


def test_info_of_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RED_LEFT).save(path)
    with open_video(path) as video:
        info = video.info
        frames, pts_seconds = video.frames_at([0.0, 5.0])
    assert (info.width, info.height, info.codec, info.duration_from, info.duration_seconds) == (
        32,
        16,
        "png",
        "picture",
        0.0,
    )
    assert (len(frames), pts_seconds.tolist()) == (2, [0.0, 0.0])


def test_an_animated_gif_is_a_video(tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    pictures = [Image.new("RGB", (16, 16), (50 * index, 0, 0)) for index in range(4)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    clip = load_clip(path, num_frames=4)
    assert (len(clip), clip.reader) == (4, "pyav")
    np.testing.assert_allclose(clip.pts_seconds, [0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg"])
def test_a_damaged_picture_says_so(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(VideoError, match=r"the picture cannot be decoded \(.+\); save or download it again"):
        load_clip(path)


def noise(width: int, height: int) -> np.ndarray:
    """Smooth noise, `[height, width, 3]`: what photographs compress like."""
    small = np.random.default_rng(0).integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_short_side_is_bicubic(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    Image.fromarray(noise(640, 480)).save(path)
    with PictureReader(SourceFile.of(path), ReadOptions(short_side=60)) as video:
        frame = video.frames_at([0.0])[0][0]
        assert (video.info.width, video.info.height) == (640, 480)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB").resize((80, 60), Image.Resampling.BICUBIC))
    assert frame.shape == (3, 60, 80)
    # A JPEG is decoded at a quarter of its size first.
    assert np.abs(frame.transpose(1, 2, 0).astype(int) - expected).max() <= (8 if name == "a.jpg" else 1)


def test_short_side_of_a_turned_jpeg_is_that_of_the_upright_picture(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(640, 320)).save(path, exif=exif)
    with PictureReader(SourceFile.of(path), ReadOptions(short_side=40)) as video:
        assert (video.info.width, video.info.height) == (320, 640)
        assert video.frames_at([0.0])[0].shape == (1, 3, 80, 40)


def test_bytes_and_open_files_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RED_LEFT).save(path)
    for source in (SourceFile.of(path.read_bytes()), SourceFile.of(io.BytesIO(path.read_bytes()))):
        assert is_picture(source, source.head(12))
        with PictureReader(source) as video:
            np.testing.assert_array_equal(video.frames_at([0.0])[0][0].transpose(1, 2, 0), RED_LEFT)
            assert video.info.num_bytes == path.stat().st_size


def test_frames_are_written_to_the_memory_given(tmp_path: Path) -> None:
    given = []

    def allocate(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        given.append(np.zeros(shape, dtype))
        return given[-1]

    path = tmp_path / "a.png"
    Image.fromarray(RED_LEFT).save(path)
    with PictureReader(SourceFile.of(path)) as video:
        frames, _ = video.frames_at([0.0, 3.0], allocate)
    assert [memory.shape for memory in given] == [(2, 16, 32, 3)]
    assert frames.base is given[0]


def test_a_time_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RED_LEFT).save(path)
    with PictureReader(SourceFile.of(path)) as video, pytest.raises(SamplingError, match="finite numbers"):
        video.frames_at([])


def test_a_decompression_bomb_is_refused_with_its_size(tmp_path: Path) -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    source = SourceFile.of(path)
    assert is_picture(source, source.head(12))
    with pytest.raises(VideoError, match=r"bomb\.png: the picture is too large to open safely \(.*400000000 pixels"):
        PictureReader(source)


SHOWN_MS = [100, 250, 50, 100]


def moving(index: int) -> Image.Image:
    """A red square on nothing, further right in each frame."""
    frame = Image.new("RGBA", (48, 32), (0, 0, 0, 0))
    frame.paste((220, 40 * index, 20, 255), (8 * index, 4, 8 * index + 16, 20))
    return frame


def over_white(index: int) -> np.ndarray:
    """`[height, width, 3]`: what a viewer with a white page shows."""
    frame = moving(index)
    white = Image.new("RGBA", frame.size, "white")
    return np.asarray(Image.alpha_composite(white, frame).convert("RGB"))


@pytest.fixture
def webp(tmp_path: Path) -> SourceFile:
    path = tmp_path / "moving.webp"
    frames = [moving(index) for index in range(4)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=SHOWN_MS, lossless=True)
    return SourceFile.of(path)


def test_an_animated_webp_is_a_video_and_a_still_one_a_picture(webp: SourceFile, tmp_path: Path) -> None:
    still = tmp_path / "still.webp"
    moving(0).save(still)
    assert is_animated_webp(webp, webp.head(12)) and not is_picture(webp, webp.head(12))
    still_source = SourceFile.of(still)
    assert is_picture(still_source, still_source.head(12))
    assert not is_animated_webp(still_source, still_source.head(12))


def test_an_animated_webp_shows_its_frames_by_time_over_white(webp: SourceFile) -> None:
    with AnimationReader(webp) as video:
        frames, pts_seconds = video.frames_at([0.36, -1.0, 0.1, 0.349, 9.0, 0.05])
    np.testing.assert_allclose(pts_seconds, [0.35, 0.0, 0.1, 0.1, 0.4, 0.0])
    for frame, index in zip(frames, [2, 0, 1, 1, 3, 0], strict=True):
        np.testing.assert_array_equal(frame.transpose(1, 2, 0), over_white(index))


def test_info_of_an_animated_webp(webp: SourceFile) -> None:
    with AnimationReader(webp) as video:
        info = video.info
    assert (info.width, info.height, info.codec, info.duration_from) == (48, 32, "webp", "frames")
    assert (info.duration_seconds, info.last_frame_seconds) == (pytest.approx(0.5), pytest.approx(0.4))
    assert info.variable_frame_rate is True


def test_frames_of_no_duration_are_shown_for_a_tenth_of_a_second(tmp_path: Path) -> None:
    path = tmp_path / "hasty.webp"
    frames = [moving(index) for index in range(4)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=0, lossless=True)
    with AnimationReader(SourceFile.of(path)) as video:
        np.testing.assert_allclose(video.frames_at([0.0, 0.1, 0.25, 0.3])[1], [0.0, 0.1, 0.2, 0.3])


def test_an_animated_webp_from_bytes_with_short_side(webp: SourceFile) -> None:
    with open(webp.name, "rb") as file:
        source = SourceFile.of(file.read())
    with AnimationReader(source, ReadOptions(short_side=16)) as video:
        frames, _ = video.frames_at([0.0, 0.4])
    assert frames.shape == (2, 3, 16, 24)
    for frame, index in zip(frames, (0, 3), strict=True):
        expected = np.asarray(Image.fromarray(over_white(index)).resize((24, 16), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(frame.transpose(1, 2, 0), expected)


def test_a_cut_off_animated_webp_says_so(webp: SourceFile) -> None:
    with open(webp.name, "rb") as file:
        data = file.read()
    with pytest.raises(VideoError, match=r"the picture cannot be decoded \(.+\); save or download it again"):
        AnimationReader(SourceFile.of(data[: len(data) // 2]))


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
def test_a_gif_with_partial_frames_shows_what_a_browser_would(disposal: int, tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    frames = [moving(index) for index in range(4)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=SHOWN_MS, disposal=disposal)
    with Image.open(path) as image:
        expected = []
        for number in range(4):
            image.seek(number)
            rgba = image.convert("RGBA")
            expected.append(np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba))[..., :3])
    with open_video(path) as video:
        shown, pts_seconds = video.frames_at([0.0, 0.1, 0.35, 0.4])
    np.testing.assert_allclose(pts_seconds, [0.0, 0.1, 0.35, 0.4])
    np.testing.assert_array_equal(shown.transpose(0, 2, 3, 1), np.stack(expected))
