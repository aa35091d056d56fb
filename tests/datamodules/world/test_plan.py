"""Seeds and kinds of scenes: in fixed shares, no seed twice, and never one for training and for validation or test."""

from itertools import combinations

from datamodules.world.plan import FIRST_SEEDS, VIDEO_KINDS, plan_scenes
from datamodules.world.sampling import sample_scene


def test_a_larger_plan_starts_with_the_smaller_ones_videos_and_pictures() -> None:
    small, large = plan_scenes(30, 5, first_seed=7), plan_scenes(100, 9, first_seed=7)
    assert large[:30] == small[:30]
    assert large[100:105] == small[30:]


def test_more_movers_beside_a_drawing_at_rest_come_last_with_seeds_of_their_own() -> None:
    plan = plan_scenes(4, 2, 100, num_beside=5)
    assert plan[:6] == plan_scenes(4, 2, 100)
    beside = plan[6:]
    assert beside == plan_scenes(0, 0, 100, num_beside=7)[:5]
    assert len({seed for seed, _ in plan}) == 11
    assert all(kind == "move" and sample_scene(seed, kind).bystander is not None for seed, kind in beside)


def test_more_drawings_alone_come_last_two_that_do_something_for_one_that_moves() -> None:
    plan = plan_scenes(4, 2, 100, num_beside=5, num_alone=60)
    assert plan[:11] == plan_scenes(4, 2, 100, num_beside=5)
    alone = plan[11:]
    assert alone == plan_scenes(0, 0, 100, num_alone=80)[:60]
    assert len({seed for seed, _ in plan}) == 71
    assert all(sample_scene(seed, kind).bystander is None for seed, kind in alone)
    kinds = [kind for _, kind in alone]
    assert kinds.count("event") + kinds.count("move") == 60
    assert 1.2 < kinds.count("event") / kinds.count("move") < 2.5


def test_kinds_come_in_their_shares_from_the_beginning() -> None:
    kinds = [kind for _, kind in plan_scenes(200, 0, first_seed=0)]
    for name, share in VIDEO_KINDS.items():
        for length in (20, 100, 200):
            assert abs(kinds[:length].count(name) - share * length) <= 1


def test_no_two_scenes_of_a_plan_have_one_seed() -> None:
    seeds = [seed for seed, _ in plan_scenes(6000, 10_000, first_seed=0)]
    assert len(set(seeds)) == 16_000


def test_training_validation_and_test_share_no_seed() -> None:
    plans = [{seed for seed, _ in plan_scenes(12_000, 8000, first, 200, 200)} for first in FIRST_SEEDS.values()]
    assert len(plans) == 3
    assert all(not one & other for one, other in combinations(plans, 2))
