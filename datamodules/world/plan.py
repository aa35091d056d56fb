"""Which scenes a dataset of the world is made of: seeds and kinds, other ones for training, validation and test."""

import itertools

from datamodules.world.sampling import sample_scene
from videoflamingo.training.texts import Split

FIRST_SEEDS: dict[Split, int] = {"train": 0, "validate": 1_000_000, "test": 2_000_000}
BESIDE_SEEDS = 250_000  # seeds of more movers beside a drawing at rest follow the videos' at this distance
ALONE_SEEDS = 450_000  # those of more drawings alone at this one
PICTURE_SEEDS = 500_000  # and the pictures' at this one
SERIES_SEEDS = 20_000  # each of these begins so much later in the next series
# Share of each kind among the videos; pictures are counted apart.
VIDEO_KINDS = {"move": 0.4, "sequence": 0.3, "event": 0.15, "pair": 0.15}
ALONE_KINDS = ("event", "event", "move")  # of drawings alone, in turn: what rests has any angle, and needs more


def plan_scenes(
    num_videos: int, num_pictures: int, first_seed: int, num_beside: int = 0, num_alone: int = 0
) -> list[tuple[int, str]]:
    """Seed and kind of each scene: videos of all kinds interleaved in fixed shares, then pictures, then movers beside
    a drawing at rest, then drawings alone that do something.

    A larger plan has the smaller one's scenes, so that what was made for that is used again.
    """
    kinds = list(VIDEO_KINDS)
    given = dict.fromkeys(kinds, 0)
    plan: list[tuple[int, str]] = []
    for index in range(num_videos):
        kind = max(kinds, key=lambda name: VIDEO_KINDS[name] * (index + 1) - given[name])  # furthest behind its share
        given[kind] += 1
        plan.append((first_seed + index, kind))
    pictures = [(first_seed + PICTURE_SEEDS + index, "picture") for index in range(num_pictures)]
    seeds = (first_seed + BESIDE_SEEDS + index for index in itertools.count())
    beside = ((seed, "move") for seed in seeds if sample_scene(seed, "move").bystander is not None)
    of_kinds = enumerate(itertools.cycle(ALONE_KINDS), first_seed + ALONE_SEEDS)
    alone = ((seed, kind) for seed, kind in of_kinds if sample_scene(seed, kind).bystander is None)
    return [*plan, *pictures, *itertools.islice(beside, num_beside), *itertools.islice(alone, num_alone)]
