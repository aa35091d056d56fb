"""Episodes of the world: prompts of several videos or pictures whose earlier answers tell the later ones.

What it takes to learn from a prompt is taught by texts in which that is the only way to know: names made up for this
one text are given to drawings at rest (`bind`) or doing one thing or another (`actor`, and `scene` in videos of the
world), to whole videos of which parts are shown (`clip`, and `film` for crowded ones), or to what a drawing does over
time (`motion`, `order`), or a way to answer is shown by examples and never said (`rule`). Classes come back again and
again within a text (bursty, as in Chan et al. 2022, arXiv:2205.05055), and the loss counts on answers that the text has
told before. `ask` are examples of questions as a few-shot benchmark puts them, `name` pictures with their true names,
`doer` videos with the true name of what moves or does something, `which` videos of drawings one after the other with
which of two comes first or last, or what comes right after one. `sequence` asks the same of casts' stills put one after
the other: in any order, so that none can be known by heart.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datamodules.world.chunks import FAMILY_CHANCES, SERIES_BACKGROUNDS, SERIES_FILMS, ChunkMaker
from datamodules.world.files import make_files
from datamodules.world.motions import Family
from datamodules.world.photo_films import PhotoFilm, cut_outs, landscapes
from datamodules.world.shapes import OF_PICTURES, SHAPES, WITH_QUESTION, Chunk, EpisodeKind, Shape
from datamodules.world.stages import Stage, casts, movers
from datamodules.world.texts import WorldTexts
from videoflamingo.errors import UsageError
from videoflamingo.prompt import EndOfChunk, PromptTemplate, Segment, Text
from videoflamingo.training.texts import SPLITS, Draw, PlannedText, Split, Texts
from videoflamingo.video.medium import MediumRequest

EPISODE_DRAW, SHAPE_DRAW = 0x65706973, 0x73686170


class EpisodeTexts(Texts):
    """Episodes drawn anew each time, about stages and about the videos and pictures of `WorldTexts`.

    A training step's texts are of one kind and shape, so that they are equally long.

    Args:
        folder: where the files lie, 80 kB a mover's stage and 20 kB a cast's; as of `WorldTexts`.
        num_movers: drawings that are shown doing things, each on `backgrounds` backgrounds.
        num_casts: groups of four drawings, each on `backgrounds` backgrounds; 352 hold every drawing twice.
        backgrounds: how many.
        num_films: crowded videos, 80 kB each, for `film` episodes.
        films_cut: whether one class of a `film` episode may have cuts, so that its parts need not look alike.
        num_photo_films: films put together from photographs, 80 kB each, for `film` episodes; they need pictures of
            Debian packages, see `datamodules.world.photo_films`.
        places_only: whether the views of a film of photographs have only their place in common, and different things
            before it, so that names of things do not tell films apart.
        num_montages: films put together from photographs of many places, 80 kB each, which have colours and contrast in
            common and nothing else.
        pooled_only_share: of the `film` episodes, how many are `PlannedText.pooled_only`: how places look must do.
        within_share: where a `which` episode asks which of two came first or last, in how many of the questions the
            right one is neither first nor last of all. None asks as questions come, where what is first or last of
            all is mostly right; 1 teaches the opposite short cut (docs/decisions/0025, 0026).
        series: of `WorldTexts`; stages have other backgrounds, too, and films are others.
        turned_backgrounds: on how many other backgrounds the casts are shown turned, 40 kB each, for `name` episodes
            and the turns of `motion` episodes.
        num_videos, num_pictures, num_beside, num_alone, mirrored_share: of `WorldTexts`, for rules and questions; each
            of them is made once for both.
        pictures_per_step, videos_per_step: media of a step, the bound on its texts, of which there is always one.
        shares: how often a step is of a kind; kinds not named never are.
        skill_emphasis: of `WorldTexts`.
        family_chances: how often the classes of a `motion` episode are of a family; families not named never are.
        names_said: whether visual tokens are to say names, after what happens, which they learn sooner without.
        num_validation: episodes to validate on, of drawings and motions that are held out.
        size: pixels of the square frame's side.
        num_workers: processes that make files; 0 makes them in this one.

    Raises:
        UsageError: if an option is out of range.
    """

    def __init__(
        self,
        folder: str,
        num_movers: int = 160,
        num_casts: int = 352,
        backgrounds: int = 4,
        num_films: int = 0,
        films_cut: bool = False,
        num_photo_films: int = 0,
        num_montages: int = 0,
        places_only: bool = False,
        pooled_only_share: float = 0.0,
        within_share: float | None = None,
        series: int = 0,
        turned_backgrounds: int = 0,
        num_videos: int = 4000,
        num_pictures: int = 8000,
        num_beside: int = 0,
        num_alone: int = 0,
        mirrored_share: float = 0.0,
        pictures_per_step: int = 200,
        videos_per_step: int = 64,
        shares: dict[EpisodeKind, float] | None = None,
        skill_emphasis: dict[str, float] | None = None,
        family_chances: dict[Family, float] | None = None,
        names_said: bool = True,
        num_validation: int = 0,
        size: int = 192,
        num_workers: int = 2,
    ) -> None:
        for option, number, least, most in (
            ("num_movers", num_movers, 1, len(movers("train"))),
            ("num_casts", num_casts, 1, len(casts("train"))),
            ("backgrounds", backgrounds, 1, SERIES_BACKGROUNDS),
            ("num_films", num_films, 0, SERIES_FILMS),
            ("num_photo_films", num_photo_films, 0, SERIES_FILMS),
            ("num_montages", num_montages, 0, SERIES_FILMS),
            ("turned_backgrounds", turned_backgrounds, 0, SERIES_BACKGROUNDS),
            ("pictures_per_step", pictures_per_step, 32, 100_000),
            ("videos_per_step", videos_per_step, 12, 100_000),
            ("num_validation", num_validation, 0, 100_000),
        ):
            if not least <= number <= most:
                raise UsageError(f"episodes: {option} is {number}; give {least:,} to {most:,}")
        for option, share in (("pooled_only_share", pooled_only_share), ("within_share", within_share)):
            if share is not None and not 0 <= share <= 1:
                raise UsageError(f"episodes: {option} is {share}; give a share from 0 to 1, or leave it out")
        filmed = num_films or num_photo_films or num_montages
        self.shares: dict[EpisodeKind, float] = shares or {kind: float(kind != "film" or filmed) for kind in SHAPES}
        wrong = {kind: share for kind, share in self.shares.items() if kind not in SHAPES or share < 0}
        if wrong or not any(self.shares.values()):
            raise UsageError(f"episodes: shares {wrong or self.shares}; give {', '.join(SHAPES)} numbers, some above 0")
        families = FAMILY_CHANCES if family_chances is None else family_chances
        if not families.keys() <= FAMILY_CHANCES.keys() or min(families.values(), default=0.0) <= 0:
            raise UsageError(f"episodes: family_chances {families}; give {', '.join(FAMILY_CHANCES)} numbers above 0")
        self.folder = Path(folder).expanduser()
        self.pictures_per_step, self.videos_per_step = pictures_per_step, videos_per_step
        self.num_validation, self.num_workers = num_validation, num_workers
        self.names_said, self.pooled_only_share = names_said, pooled_only_share
        self.world = WorldTexts(
            folder,
            num_videos,
            num_pictures,
            num_beside,
            num_alone,
            validation_share=0.0,
            mirrored_share=mirrored_share,
            skill_emphasis=skill_emphasis,
            series=series,
            size=size,
            num_workers=num_workers,
        )
        chances = {family: chance / sum(families.values()) for family, chance in families.items()}
        self.maker = ChunkMaker(
            self.world,
            self.folder,
            num_movers,
            num_casts,
            num_films,
            backgrounds,
            size,
            family_chances=chances,
            turned_backgrounds=turned_backgrounds,
            films_cut=films_cut,
            num_photo_films=num_photo_films,
            num_montages=num_montages,
            places_only=places_only,
            within_share=within_share,
            series=series,
        )
        self.shapes = [
            Shape(kind, num_classes, num_chunks, with_question)
            for kind in SHAPES
            if self.shares.get(kind)
            for num_classes, num_chunks in SHAPES[kind]
            for with_question in WITH_QUESTION[kind]
        ]

    def __str__(self) -> str:
        return (
            f"episodes in {self.folder}, about {self.maker.num_movers:,} drawings that do something and "
            f"{self.maker.num_casts:,} casts of four, each on {self.maker.backgrounds} backgrounds, "
            f"{self.maker.num_films:,} films, {self.maker.num_photo_films:,} of photographs, "
            f"{self.maker.num_montages:,} montages, "
            f"the casts turned on {self.maker.turned_backgrounds} backgrounds, and {self.world}"
        )

    def prepare(self) -> None:
        """Make the files that are missing.

        Raises:
            UsageError: before any is made, if films are to be put together from photographs that are not installed.
        """
        if self.maker.num_photo_films or self.maker.num_montages:
            cut_outs()
            landscapes()
        stages = [stage for split in SPLITS for stage in self.stages(split)]
        make_files(stages, self.folder, num_workers=self.num_workers)
        self.world.prepare()

    def size(self, split: Split) -> int:
        """One for each shape to train on, for each of them is drawn anew."""
        return {"train": len(self.shapes), "validate": self.num_validation, "test": 0}[split]

    def stages(self, split: Split) -> Iterator[Stage | PhotoFilm]:
        """All files of stills; those of held-out drawings for validation."""
        if split == "test" or (split == "validate" and not self.num_validation):
            return
        yield from self.maker.stages(split)

    def media(self, split: Split) -> Iterator[MediumRequest]:
        for stage in self.stages(split):
            yield stage.request(self.folder)
        yield from self.world.media(split)

    def choose(self, step: int, batch_size: int, seed: int) -> list[tuple[int, Draw]]:
        """Texts of one shape, at most `batch_size`, and fewer where they have many media."""
        rng = np.random.default_rng([SHAPE_DRAW, seed, step])
        kinds = list(self.shares)
        chances = np.array([self.shares[kind] for kind in kinds])
        kind = kinds[rng.choice(len(kinds), p=chances / chances.sum())]
        own = [index for index, shape in enumerate(self.shapes) if shape.kind == kind]
        weights = np.array([self.shapes[index].weight for index in own])
        index = own[rng.choice(len(own), p=weights / weights.sum())]
        media = self.pictures_per_step if kind in OF_PICTURES else self.videos_per_step
        count = min(batch_size, max(1, media // self.shapes[index].num_chunks))
        return [(index, Draw(seed, 0, step * batch_size + place)) for place in range(count)]

    def plan(self, split: Split, index: int, draw: Draw) -> PlannedText:
        shape = self.shapes[index % len(self.shapes)]
        rng = draw.generator(EPISODE_DRAW)
        chunks = self.maker.chunks(split, shape, rng)
        segments = [segment for chunk in chunks for segment in _segments(chunk)]
        said = tuple(chunk.said if self.names_said else _without_names(chunk.said) for chunk in chunks)
        media = [chunk.request for chunk in chunks]
        pooled_only = shape.kind == "film" and rng.random() < self.pooled_only_share
        return PlannedText(segments, media, said, place=f"{shape.kind} episode", pooled_only=pooled_only)


def _segments(chunk: Chunk) -> list[Segment]:
    segments = PromptTemplate().ask(chunk.question, chunk.answer)
    if chunk.counts:
        return segments
    return [_uncounted(segment) for segment in segments]


def _uncounted(segment: Segment) -> Segment:
    if isinstance(segment, Text):
        return Text(segment.text)
    return EndOfChunk(is_answer=False) if isinstance(segment, EndOfChunk) else segment


def _without_names(said: tuple[str, ...]) -> tuple[str, ...]:
    """What happens, without to whom.

    Example:
        >>> _without_names((" left sea lion", " still sea lion"))
        (' left', ' still')
    """
    return tuple(f" {text.split()[0]}" for text in said)
