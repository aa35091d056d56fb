"""Scene -> frames -> an H.264 file (or a PNG). The same scene always gives the same pixels."""

from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np

from datamodules.world.drawings import sprite
from datamodules.world.scene import Background, Pose, Scene

SMALLEST_SPRITE = 4  # pixels
ENCODER_OPTIONS = {"crf": "20", "preset": "veryfast", "bf": "0"}  # without B-frames the file needs no edit list


def frame_at(scene: Scene, time_seconds: float) -> np.ndarray:
    """What the scene shows at one time.

    Returns:
        `[height, width, 3]`, uint8 RGB.
    """
    canvas = paint_background(scene.background, scene.size).copy()
    for actor in scene.actors:
        pose = actor.pose_at(time_seconds)
        if pose is not None:
            pixels = _turned(sprite(actor.drawing, max(SMALLEST_SPRITE, round(pose.size * scene.size))), pose.angle)
            _paste(canvas, pixels, pose, actor.wraps)
    return canvas


def frames(scene: Scene) -> np.ndarray:
    """Every frame; frame `i` is what the scene shows at `i / frames_per_second` seconds.

    Returns:
        `[num_frames, height, width, 3]`, uint8 RGB.
    """
    return np.stack([frame_at(scene, index / scene.frames_per_second) for index in range(scene.num_frames)])


def write_video(scene: Scene, path: str | Path) -> Path:
    """Encodes the scene as H.264 (yuv420p, constant frame rate, no sound); an existing file is replaced.

    Args:
        path: where to; the suffix names the container, such as `.mp4`.
    """
    return write_frames(frames(scene), path, scene.frames_per_second)


def write_frames(pixels: Iterable[np.ndarray], path: str | Path, frames_per_second: int) -> Path:
    """Encodes square frames `[size, size, 3]`, uint8 RGB, as `write_video` does."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=frames_per_second, options=dict(ENCODER_OPTIONS))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for index, shown in enumerate(pixels):
            if index == 0:
                stream.height, stream.width = shown.shape[:2]
            frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, frames_per_second)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)


def write_picture(scene: Scene, path: str | Path) -> Path:
    """Writes the scene's first frame as a picture, in the format that the suffix names; meant for `picture` scenes."""
    from PIL import Image

    Image.fromarray(frame_at(scene, 0.0)).save(path)
    return Path(path)


@lru_cache(maxsize=8)
def paint_background(background: Background, size: int) -> np.ndarray:
    """A background's pixels: `[size, size, 3]`, uint8 RGB; shared between calls, so read-only."""
    first, second, third = (np.array(color, dtype=np.float32) for color in background.colors)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(axis, axis)
    turn = np.deg2rad(background.angle)
    along = x * np.cos(turn) + y * np.sin(turn)
    match background.family:
        case "solid":
            share = np.zeros_like(x)
        case "gradient":
            share = (along - along.min()) / (along.max() - along.min())
        case "stripes":
            share = (along / background.scale % 1.0 < 0.5).astype(np.float32)
        case "checker":
            share = ((np.floor(x / background.scale) + np.floor(y / background.scale)) % 2).astype(np.float32)
        case "dots":
            from_x, from_y = x / background.scale % 1.0 - 0.5, y / background.scale % 1.0 - 0.5
            share = (np.hypot(from_x, from_y) < 0.28).astype(np.float32)
        case "noise":
            share = _smooth_noise(background, size)
        case "blobs":
            share = np.clip((_smooth_noise(background, size) - 0.5) * 12.0 + 0.5, 0.0, 1.0)
        case _:
            raise ValueError(f"no background {background.family!r}")
    pixels = first + (second - first) * share[..., None]
    if background.family in ("gradient", "noise"):
        bend = np.clip(1.0 - np.abs(share - 0.5) * 4.0, 0.0, 1.0)  # the third colour, in the middle of the ramp
        pixels = pixels + (third - pixels) * bend[..., None]
    result = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    result.flags.writeable = False
    return result


def _smooth_noise(background: Background, size: int) -> np.ndarray:
    """Low-frequency noise in 0 to 1: `[size, size]`, float32."""
    from PIL import Image

    cells = max(3, round(1.0 / background.scale) + 1)
    coarse = np.random.default_rng(background.seed).random((cells, cells), dtype=np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
    return (smooth - smooth.min()) / (smooth.max() - smooth.min())


def _turned(pixels: np.ndarray, angle: float) -> np.ndarray:
    """Pixels turned clockwise by degrees about their centre; the square grows so that no corner is lost."""
    if angle == 0.0:
        return pixels
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).rotate(-angle, Image.Resampling.BILINEAR, expand=True))


def _paste(canvas: np.ndarray, pixels: np.ndarray, pose: Pose, wraps: bool) -> None:
    """Lays RGBA pixels over the canvas, centred on the pose; what is outside re-enters if `wraps`, else is cut."""
    height, width = pixels.shape[:2]
    size = len(canvas)
    rows = round(pose.y * size - height / 2) + np.arange(height)
    columns = round(pose.x * size - width / 2) + np.arange(width)
    if wraps:
        rows, columns = rows % size, columns % size
    else:
        inside_rows, inside_columns = (rows >= 0) & (rows < size), (columns >= 0) & (columns < size)
        rows, columns = rows[inside_rows], columns[inside_columns]
        pixels = pixels[inside_rows][:, inside_columns]
    where = np.ix_(rows, columns)
    alpha = pixels[..., 3:].astype(np.float32) / 255.0
    blended = pixels[..., :3] * alpha + canvas[where] * (1.0 - alpha)
    canvas[where] = np.rint(blended).astype(np.uint8)
