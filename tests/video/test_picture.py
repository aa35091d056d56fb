"""Pictures are upright, opaque RGB, whatever their format."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videoflamingo.errors import VideoError
from videoflamingo.video import load_clip, open_video

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
