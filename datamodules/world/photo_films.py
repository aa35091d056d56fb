"""Films put together from photographs, which have what drawings have not: grain, shades, and no outlines.

Photographs of single things, cut out, move before one of a landscape, or of a thing from very near, while the camera
passes. What the parts of a film have in common is how they look, as films are cut (`FilmKind`). The photographs are
those of the Debian packages that `PACKAGES` names; none is kept here.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from datamodules.world.render import write_frames
from datamodules.world.scene import FRAMES_PER_SECOND, SAMPLED_FRAMES
from datamodules.world.shapes import one_of
from datamodules.world.stages import FOLDER_FILES, frames_of_film
from videoflamingo.errors import UsageError
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.sampling import Sampling

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

PHOTO_FILMS_VERSION = 2  # raised whenever the same films would show other pixels
PACKAGES = (
    "tuxpaint-stamps-default mate-backgrounds "
    "lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 plasma-workspace-wallpapers"
)
# `cast`: views of one place with the same things in it. `place`: of one place, with other things in each.
# `theme`: of other places and things, which are of one sort. `montage`: of other places with any things, all in the
# film's tint, colourfulness and contrast.
FilmKind = Literal["cast", "place", "theme", "montage"]
KINDS: tuple[FilmKind, ...] = get_args(FilmKind)
# Kinds of more than one place, and the option of `EpisodeTexts` that says how many there are.
OF_MANY_PLACES: dict[FilmKind, str] = {"theme": "num_themes", "montage": "num_montages"}
CUT_OUTS = Path("/usr/share/tuxpaint/stamps")
DRAWN = {"symbols", "cartoon"}  # folders of cut-outs that are no photographs
LANDSCAPES = (  # folders, and which of their files
    (Path("/usr/share/backgrounds/mate/nature"), "*.jpg"),
    (Path("/usr/share/backgrounds"), "*_by_*.jpg"),
    (Path("/usr/share/wallpapers"), "*/contents/images/2560x1600.jpg"),
)
VIEWS = 3
VIEW_FRAMES = SAMPLED_FRAMES
FILM_FRAMES = VIEWS * VIEW_FRAMES
MONTAGE_VIEWS = 4  # of a theme, too, in as many frames
ONE_VIEW_SHARE = 0.5  # of the parts of films that have such
BUT_ONE_SHARE = 0.5  # of films beside each other, where some are of one place, and some of many
LEAST_OF_SORT = 6  # cut-outs
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
        kind: what its parts have in common.
    """

    split: str
    number: int
    size: int = 192
    kind: FilmKind = "cast"

    def path(self, folder: Path) -> Path:
        """Where it lies below a folder.

        >>> PhotoFilm("train", 7).path(Path("world")).as_posix()
        'world/train-photo-cast-192-v2/000/00007.mp4'
        """
        name = f"{self.split}-photo-{self.kind}-{self.size}-v{PHOTO_FILMS_VERSION}"
        return folder / name / f"{self.number // FOLDER_FILES:03d}" / f"{self.number:05d}.mp4"

    def request(self, folder: Path, order: tuple[int, ...] | None = None) -> MediumRequest:
        """Asks for all of its frames, or for some."""
        return MediumRequest(str(self.path(folder)), Sampling(num_frames=FILM_FRAMES), order=order)

    def part(self, rng: np.random.Generator) -> tuple[int, ...]:
        """Some frames that follow one another; of many places, of one or two, so that two parts seldom share any."""
        if self.kind not in OF_MANY_PLACES:
            return tuple(at - 1 for at in frames_of_film(rng))
        if rng.random() < ONE_VIEW_SHARE:
            count = FILM_FRAMES // MONTAGE_VIEWS
            first = count * int(rng.integers(MONTAGE_VIEWS))
        else:
            count = SAMPLED_FRAMES
            first = int(rng.integers(FILM_FRAMES - count + 1))
        return tuple(range(first, first + count))

    @property
    def cast(self) -> tuple[Path, ...]:
        """The cut-outs that a film of kind `cast` shows."""
        return _chosen(cut_outs(), self._rng(0))

    def words(self) -> tuple[str, ...]:
        """What there is to say of each of 8 frames: the cast, again and again; of other kinds, nothing."""
        if self.kind != "cast":
            return (" here",) * SAMPLED_FRAMES
        names = [_name(path) for path in self.cast]
        return tuple(f" here {names[at % len(names)]}" for at in range(SAMPLED_FRAMES))

    def write(self, path: Path) -> None:
        """Make the file."""
        rng = self._rng(1)
        shown = self._of_many_places(rng) if self.kind in OF_MANY_PLACES else self._of_one_place(rng)
        write_frames(shown, path, FRAMES_PER_SECOND)

    def _of_one_place(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        backdrop = _backdrop(cut_outs(), rng)
        gains, colourfulness = np.exp(rng.normal(0.0, TINT, 3)), rng.uniform(*COLOURFULNESS)
        for _ in range(VIEWS):
            cast = self.cast if self.kind == "cast" else _chosen(cut_outs(), rng)
            for frame in self._view(backdrop, cast, VIEW_FRAMES, rng):
                yield _tinted(frame, gains, colourfulness)

    def _of_many_places(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        montage = self.kind == "montage"
        pool = cut_outs() if montage else _of_one_sort(rng)
        gains = np.exp(rng.normal(0.0, MONTAGE_TINT if montage else TINT, 3))
        colourfulness = rng.uniform(*(MONTAGE_COLOURFULNESS if montage else COLOURFULNESS))
        contrast = rng.uniform(*MONTAGE_CONTRAST) if montage else 1.0
        for _ in range(MONTAGE_VIEWS):
            backdrop = _backdrop(pool, rng)
            for frame in self._view(backdrop, _chosen(pool, rng), FILM_FRAMES // MONTAGE_VIEWS, rng):
                yield _tinted(GREY + contrast * (frame - GREY), gains, colourfulness)

    def _view(
        self, backdrop: "Picture", cast: tuple[Path, ...], num_frames: int, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Some of the cast, elsewhere, before another part of the backdrop."""
        from PIL import Image

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
        return np.random.default_rng(
            [PHOTO_DRAW, int(self.split == "held_out"), self.number, KINDS.index(self.kind), part]
        )


def kinds_of_films(kinds: Sequence[FilmKind], count: int, rng: np.random.Generator) -> list[FilmKind]:
    """What several films beside each other are, of some kinds.

    Half the time all but one are of one place, where there are such: what is like none of them is then of the one.
    """
    places = [kind for kind in kinds if kind not in OF_MANY_PLACES]
    others = [kind for kind in kinds if kind in OF_MANY_PLACES]
    if places and others and rng.random() < BUT_ONE_SHARE:
        chosen = [one_of(places, rng) for _ in range(count)]
        chosen[int(rng.integers(count))] = one_of(others, rng)
        return chosen
    return [one_of(kinds, rng) for _ in range(count)]


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
    return tuple(path for folder, names in LANDSCAPES for path in _installed(folder, list(folder.glob(names))))


def _of_one_sort(rng: np.random.Generator) -> tuple[Path, ...]:
    """All cut-outs that lie in a folder with some one, or in the one above it, where they would be few."""
    pool = cut_outs()
    some = pool[rng.integers(len(pool))].relative_to(CUT_OUTS).parent
    for folder in (some, *some.parents):
        alike = tuple(path for path in pool if path.is_relative_to(CUT_OUTS / folder))
        if len(alike) >= LEAST_OF_SORT:
            return alike
    return pool


def _chosen(pool: tuple[Path, ...], rng: np.random.Generator) -> tuple[Path, ...]:
    return tuple(
        pool[index] for index in rng.choice(len(pool), min(len(pool), int(rng.integers(*IN_FILM))), replace=False)
    )


def _installed(folder: Path, found: list[Path]) -> tuple[Path, ...]:
    if not found:
        raise UsageError(
            f"world: films of photographs are put together from pictures in {folder}, where there are none; "
            f"apt-get install {PACKAGES}, or set the numbers of such films to 0"
        )
    return tuple(sorted(found))


def _name(path: Path) -> str:
    """What a cut-out shows.

    >>> _name(Path("animals/birds/bald_eagle-2.png"))
    'bald eagle'
    """
    words = re.findall("[a-z]+", path.stem.lower())
    return " ".join(word for word in words if word not in ("mirror", "flip")) or "thing"


@lru_cache(maxsize=256)
def _read(path: Path, mode: str, shorter_side: int) -> "Picture":
    from PIL import Image

    with Image.open(path) as picture:
        picture.draft("RGB", (2 * shorter_side, 2 * shorter_side))
        whole = picture.convert(mode)
    scale = shorter_side / min(whole.size)
    return whole.resize((round(whole.width * scale), round(whole.height * scale)), Image.Resampling.LANCZOS)


def _backdrop(near_pool: tuple[Path, ...], rng: np.random.Generator) -> "Picture":
    """A thing of the pool from very near, or a landscape."""
    from PIL import Image

    if rng.random() < NEAR_SHARE:
        near = _from_near(near_pool, rng)
        if near is not None:
            return near
    pool = landscapes()
    picture = _read(pool[rng.integers(len(pool))], "RGB", BACKDROP_SIDE)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture


def _from_near(pool: tuple[Path, ...], rng: np.random.Generator) -> "Picture | None":
    """A square of a cut-out in which nothing is transparent; None if none is found."""
    from PIL import Image

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
