"""Films put together from photographs, which have what drawings have not: grain, shades, and no outlines.

Photographs of single things, cut out, move before one of a landscape, or of a thing from very near, while the camera
passes. Each film has three views of the same place, as films are cut, with the same things in it or, in those of
places only, with other ones: what its parts have in common is how they look. A montage has views of other places, too,
and only their colours and contrast are one film's. The photographs are those of two Debian packages (GPL-2), which
`PACKAGES` names; none is kept here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datamodules.world.render import write_frames
from datamodules.world.scene import FRAMES_PER_SECOND, SAMPLED_FRAMES
from datamodules.world.stages import FOLDER_FILES
from videoflamingo.errors import UsageError
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.sampling import Sampling

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

PHOTO_FILMS_VERSION = 1  # raised whenever the same films would show other pixels
PACKAGES = "tuxpaint-stamps-default mate-backgrounds"
CUT_OUTS = Path("/usr/share/tuxpaint/stamps")
DRAWN = {"symbols", "cartoon"}  # folders of cut-outs that are no photographs
LANDSCAPES = Path("/usr/share/backgrounds/mate/nature")
VIEWS = 3
VIEW_FRAMES = SAMPLED_FRAMES
FILM_FRAMES = VIEWS * VIEW_FRAMES
MONTAGE_VIEWS = 4  # in as many frames
NEAR_SHARE = 0.6  # of films before a thing from very near
NEAR_SIDE = 0.4  # of the cut-out's shorter side
NEAR_TRIES = 30
BACKDROP_SIDE = 512  # pixels of the shorter side
IN_FILM = (2, 7)  # how many cut-outs a film has, at least, and fewer than
SIZES = (0.25, 0.9)  # of the frame
WINDOWS = (0.35, 0.9)  # of the backdrop's shorter side, that a view shows
CAMERA_STEP, ZOOM_STEP, OWN_STEP = 0.012, 0.012, 0.03  # from frame to frame, at most
TINT, COLOURFULNESS = 0.08, (0.5, 1.1)
MONTAGE_TINT, MONTAGE_COLOURFULNESS, MONTAGE_CONTRAST = 0.15, (0.1, 1.3), (0.6, 1.2)
GREY = 127.5
PHOTO_DRAW = 0x70686F74


@dataclass(frozen=True)
class PhotoFilm:
    """One film of `FILM_FRAMES` frames.

    Args:
        split: `train` or `held_out`, which draw differently.
        number: its seed.
        size: pixels of the square frame's side.
        place_only: whether each view has things of its own.
        montage: whether each has a place of its own, too, and the film colours and contrast.
    """

    split: str
    number: int
    size: int = 192
    place_only: bool = False
    montage: bool = False

    def path(self, folder: Path) -> Path:
        """Where it lies below a folder.

        >>> PhotoFilm("train", 7).path(Path("world")).as_posix()
        'world/train-photo-film-192-v1/000/00007.mp4'
        """
        kind = "photo-montage" if self.montage else "photo-place" if self.place_only else "photo-film"
        name = f"{self.split}-{kind}-{self.size}-v{PHOTO_FILMS_VERSION}"
        return folder / name / f"{self.number // FOLDER_FILES:03d}" / f"{self.number:05d}.mp4"

    def request(self, folder: Path, order: tuple[int, ...] | None = None) -> MediumRequest:
        """Asks for all of its frames, or for some."""
        return MediumRequest(str(self.path(folder)), Sampling(num_frames=FILM_FRAMES), order=order)

    @property
    def cast(self) -> tuple[Path, ...]:
        """The cut-outs it shows."""
        return _chosen(self._rng(0))

    def words(self) -> tuple[str, ...]:
        """What there is to say of each of 8 frames: what it shows, again and again; of places, nothing."""
        if self.place_only or self.montage:
            return (" here",) * SAMPLED_FRAMES
        names = [_name(path) for path in self.cast]
        return tuple(f" here {names[at % len(names)]}" for at in range(SAMPLED_FRAMES))

    def write(self, path: Path) -> None:
        """Make the file."""
        rng = self._rng(1)
        if self.montage:
            write_frames(self._montage(rng), path, FRAMES_PER_SECOND)
            return
        backdrop = _backdrop(rng)
        gains, colourfulness = np.exp(rng.normal(0.0, TINT, 3)), rng.uniform(*COLOURFULNESS)
        shown = (frame for _ in range(VIEWS) for frame in self._view(backdrop, VIEW_FRAMES, rng))
        write_frames((_tinted(frame, gains, colourfulness) for frame in shown), path, FRAMES_PER_SECOND)

    def _montage(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Views of other places and things, in one film's colours and contrast."""
        gains = np.exp(rng.normal(0.0, MONTAGE_TINT, 3))
        colourfulness, contrast = rng.uniform(*MONTAGE_COLOURFULNESS), rng.uniform(*MONTAGE_CONTRAST)
        for _ in range(MONTAGE_VIEWS):
            for frame in self._view(_backdrop(rng), FILM_FRAMES // MONTAGE_VIEWS, rng):
                yield _tinted(GREY + contrast * (frame - GREY), gains, colourfulness)

    def _view(self, backdrop: "Picture", num_frames: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Some of the cast, elsewhere, before another part of the backdrop."""
        from PIL import Image

        cast = _chosen(rng) if self.place_only or self.montage else self.cast
        count = int(rng.integers((len(cast) + 1) // 2, len(cast) + 1))
        chosen = [cast[index] for index in rng.permutation(len(cast))[:count]]
        sprites = [_sprite(path, float(rng.uniform(*SIZES)) * self.size, rng) for path in chosen]
        camera = rng.uniform(-1.0, 1.0, 2)
        places = rng.uniform(0.1, 0.9, (count, 2))
        steps = rng.uniform(-OWN_STEP, OWN_STEP, (count, 2)) - OWN_STEP * camera
        centre, window = rng.random(2), rng.uniform(*WINDOWS)
        zoom = 1.0 + rng.uniform(-ZOOM_STEP, ZOOM_STEP)
        frames = []
        for at in range(num_frames):
            side = min(1.0, window * zoom**at) * min(backdrop.size)
            corner = np.clip(centre + at * CAMERA_STEP * camera, 0.0, 1.0) * (np.array(backdrop.size) - side)
            box = (*corner, *(corner + side))
            frame = backdrop.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
            for sprite, place, step in zip(sprites, places, steps, strict=True):
                x, y = np.rint((place + at * step) * self.size - np.array(sprite.size) / 2).astype(int)
                frame.paste(sprite, (int(x), int(y)), sprite)
            frames.append(np.asarray(frame))
        return frames

    def _rng(self, part: int) -> np.random.Generator:
        return np.random.default_rng([PHOTO_DRAW, int(self.split == "held_out"), self.number, part + 2 * self.montage])


@cache
def cut_outs() -> tuple[Path, ...]:
    """Photographs of single things with nothing around them.

    Raises:
        UsageError: if they are not installed.
    """
    return _installed(CUT_OUTS, [path for path in CUT_OUTS.rglob("*.png") if not DRAWN & set(path.parts)])


@cache
def landscapes() -> tuple[Path, ...]:
    """Photographs that fill a page.

    Raises:
        UsageError: if they are not installed.
    """
    return _installed(LANDSCAPES, list(LANDSCAPES.glob("*.jpg")))


def _chosen(rng: np.random.Generator) -> tuple[Path, ...]:
    pool = cut_outs()
    return tuple(pool[index] for index in rng.choice(len(pool), rng.integers(*IN_FILM), replace=False))


def _installed(folder: Path, found: list[Path]) -> tuple[Path, ...]:
    if not found:
        raise UsageError(
            f"world: films of photographs are put together from pictures in {folder}, where there are none; "
            f"apt-get install {PACKAGES}, or set num_photo_films to 0"
        )
    return tuple(sorted(found))


def _name(path: Path) -> str:
    """What a cut-out shows.

    >>> _name(Path("animals/birds/bald_eagle-2.png"))
    'bald eagle'
    """
    words = re.findall("[a-z]+", path.stem.lower())
    return " ".join(word for word in words if word not in ("mirror", "flip")) or "thing"


@lru_cache(maxsize=64)
def _read(path: Path, mode: str, shorter_side: int) -> "Picture":
    from PIL import Image

    with Image.open(path) as picture:
        picture.draft("RGB", (2 * shorter_side, 2 * shorter_side))
        whole = picture.convert(mode)
    scale = shorter_side / min(whole.size)
    return whole.resize((round(whole.width * scale), round(whole.height * scale)), Image.Resampling.LANCZOS)


def _backdrop(rng: np.random.Generator) -> "Picture":
    from PIL import Image

    if rng.random() < NEAR_SHARE:
        near = _from_near(rng)
        if near is not None:
            return near
    pool = landscapes()
    picture = _read(pool[rng.integers(len(pool))], "RGB", BACKDROP_SIDE)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture


def _from_near(rng: np.random.Generator) -> "Picture | None":
    """A square of a cut-out in which nothing is transparent; None if none is found."""
    from PIL import Image

    pool = cut_outs()
    for _ in range(NEAR_TRIES):
        with Image.open(pool[rng.integers(len(pool))]) as picture:
            whole = picture.convert("RGBA")
        side = NEAR_SIDE * min(whole.size)
        corner = rng.random(2) * (np.array(whole.size) - side)
        square = whole.crop((*np.floor(corner).astype(int).tolist(), *np.ceil(corner + side).astype(int).tolist()))
        if np.asarray(square)[..., 3].min() == 255:
            return square.convert("RGB").resize((BACKDROP_SIDE, BACKDROP_SIDE), Image.Resampling.BICUBIC)
    return None


def _sprite(path: Path, size: float, rng: np.random.Generator) -> "Picture":
    """A cut-out whose longer side has so many pixels, perhaps swapped left and right, a little turned."""
    from PIL import Image, ImageOps

    picture = ImageOps.contain(_read(path, "RGBA", BACKDROP_SIDE // 2), (round(size), round(size)))
    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    return picture.rotate(float(rng.uniform(-20.0, 20.0)), Image.Resampling.BICUBIC, expand=True)


def _tinted(frame: np.ndarray, gains: np.ndarray, colourfulness: float) -> np.ndarray:
    grey = frame.mean(-1, keepdims=True)
    pixels = (grey + (frame - grey) * colourfulness) * gains
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
