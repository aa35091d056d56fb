from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from datamodules.world import KINDS, SPLITS, drawings, sample_scene
from datamodules.world.sampling import drawings_of
from datamodules.world.scene import DIRECTIONS, EVENTS, GAP_SECONDS, PACES
from videoflamingo.errors import UsageError

MIDDLE_SECONDS = 2.0


def scenes(kind, count, split="train"):
    return [sample_scene(seed, kind, split) for seed in range(count)]


def chi_square(rows, columns):
    """Pearson's statistic of independence of two lists of labels, and its degrees of freedom."""
    row_labels, column_labels = sorted(set(rows)), sorted(set(columns))
    counts = Counter(zip(rows, columns, strict=True))
    observed = np.array([[counts[row, column] for column in column_labels] for row in row_labels], dtype=float)
    expected = observed.sum(1, keepdims=True) * observed.sum(0, keepdims=True) / observed.sum()
    return ((observed - expected) ** 2 / expected).sum(), (len(row_labels) - 1) * (len(column_labels) - 1)


def chance_limit(freedom):
    """What a chi-square exceeds about once in 10,000 draws (Wilson and Hilferty's cube); the seeds here are fixed."""
    return freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)) ** 0.5) ** 3


def assert_independent(rows, columns):
    statistic, freedom = chi_square(rows, columns)
    assert freedom > 0
    assert statistic < chance_limit(freedom)


def bins(values, count):
    """Which of `count` equally filled bins each value is in."""
    edges = np.quantile(values, np.arange(1, count) / count)
    return np.searchsorted(edges, values).tolist()


@pytest.mark.parametrize("kind", [*KINDS, None])
def test_a_seed_gives_one_scene(kind):
    assert sample_scene(11, kind) == sample_scene(11, kind)
    assert sample_scene(11, kind) != sample_scene(12, kind)


def test_the_splits_of_one_seed_show_different_drawings():
    assert not {a.name for a in sample_scene(3, "pair").actors} & {
        a.name for a in sample_scene(3, "pair", "held_out").actors
    }


def test_size_changes_nothing_else():
    assert replace(sample_scene(5, "event", size=96), size=192) == sample_scene(5, "event")


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_shows_only_drawings_of_its_split(split):
    shown = {actor.drawing for seed in range(1500) for actor in sample_scene(seed, split=split).actors}
    assert shown <= set(drawings_of(split))
    assert all(drawing.held_out == (split == "held_out") for drawing in shown)
    assert len(shown) > 0.9 * len(drawings_of(split))


def test_the_splits_share_no_drawing_and_miss_none():
    train, held_out = set(drawings_of("train")), set(drawings_of("held_out"))
    assert not train & held_out
    assert train | held_out == set(drawings())


def test_without_a_kind_all_kinds_come_equally_often():
    counts = Counter(sample_scene(seed).kind for seed in range(2000))
    assert set(counts) == set(KINDS)
    assert all(330 < count < 470 for count in counts.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed -1 is negative"),
        ({"seed": 0, "kind": "film"}, "no kind of scene 'film'; choose among picture, move"),
        ({"seed": 0, "split": "test"}, "no split 'test'; choose among train, held_out"),
        ({"seed": 0, "size": 33}, "frame size 33 must be even"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(UsageError, match=message):
        sample_scene(**arguments)


@pytest.mark.parametrize("pair", [("left", "right"), ("up", "down"), ("left", "up"), ("right", "down")])
def test_over_all_starts_two_directions_show_the_same_positions_at_every_time(pair):
    mover = scenes("move", 1)[0].main
    steps = 40  # starts per axis; the speed is a whole number of them per sampled gap

    def positions(direction, time):
        for column in range(steps):
            for row in range(steps):
                actor = replace(
                    mover, x=column / steps, y=row / steps, direction=direction, speed=3 / steps / GAP_SECONDS
                )
                pose = actor.pose_at(time)
                yield round(pose.x * steps) % steps, round(pose.y * steps) % steps

    for gaps in (0, 1, 5):
        one, other = (Counter(positions(direction, gaps * GAP_SECONDS)) for direction in pair)
        assert one == other
        assert len(one) == steps**2


@pytest.mark.parametrize("time", [0.25, 2.0, 3.75])
def test_the_place_of_a_mover_is_independent_of_its_direction(time):
    movers = [scene.main for scene in scenes("move", 4000)]
    poses = [mover.pose_at(time) for mover in movers]
    cells = [int(pose.x * 4) * 4 + int(pose.y * 4) for pose in poses]
    assert_independent(cells, [mover.direction for mover in movers])


def test_the_independence_check_finds_a_dependence():
    movers = [scene.main for scene in scenes("move", 1000)]
    ends = [replace(mover, x=0.5, y=0.5).pose_at(3.75) for mover in movers]  # as if all had started at the centre
    cells = [int(pose.x * 4) * 4 + int(pose.y * 4) for pose in ends]
    statistic, freedom = chi_square(cells, [mover.direction for mover in movers])
    assert statistic > 5 * freedom


def test_a_mover_goes_its_way_at_its_pace():
    for scene in [*scenes("move", 200), *scenes("pair", 100)]:
        for mover in (actor for actor in scene.actors if actor.direction):
            before, after = mover.pose_at(1.25), mover.pose_at(1.25 + GAP_SECONDS)
            step = np.array([after.x - before.x, after.y - before.y])
            step = (step + 0.5) % 1.0 - 0.5  # the short way around the torus
            along = step @ np.array(DIRECTIONS[mover.direction])
            assert np.abs(step).sum() == pytest.approx(along)
            slowest, fastest = PACES[mover.pace]
            assert slowest <= along <= fastest


def test_a_third_of_the_moves_have_a_bystander_that_stays():
    all_moves = scenes("move", 900)
    bystanders = [scene.bystander for scene in all_moves if scene.bystander is not None]
    assert 250 < len(bystanders) < 350
    assert all(one.pose_at(0.0) == one.pose_at(3.9) for one in bystanders)
    assert all(scene.bystander is None or scene.bystander.name != scene.main.name for scene in all_moves)


def test_a_frame_does_not_tell_the_mover_from_its_bystander():
    moves = [scene for scene in scenes("move", 6000) if scene.bystander is not None]
    actors = [actor for scene in moves for actor in (scene.main, scene.bystander)]
    roles = [actor is scene.main for scene in moves for actor in (scene.main, scene.bystander)]
    assert_independent(bins([actor.size for actor in actors], 8), roles)
    assert_independent(bins([actor.pose_at(2.0).x for actor in actors], 8), roles)
    drawn_first = sum(scene.actors[0] is scene.main for scene in moves) / len(moves)
    assert abs(drawn_first - 0.5) < 0.05


def test_a_pair_goes_two_different_ways_and_every_pairing_comes():
    ways = Counter(tuple(actor.direction for actor in scene.actors) for scene in scenes("pair", 1200))
    assert len(ways) == 12
    assert all(one != other for one, other in ways)
    assert min(ways.values()) > 60


def test_a_sequence_shows_exactly_one_drawing_at_every_time():
    for scene in scenes("sequence", 200):
        for frame in range(scene.num_frames):
            time = frame / scene.frames_per_second
            assert sum(actor.pose_at(time) is not None for actor in scene.actors) == 1


def test_each_drawing_of_a_sequence_is_in_the_sampled_frames_in_order():
    for scene in scenes("sequence", 500):
        seen = [next(a.name for a in scene.actors if a.pose_at(time)) for time in scene.sampled_times()]
        counts = Counter(seen)
        assert list(dict.fromkeys(seen)) == [actor.name for actor in scene.actors]
        assert min(counts.values()) >= (2 if len(scene.actors) <= 3 else 1)
        assert len(counts) == len(scene.actors)


def test_the_slots_of_a_sequence_are_distributed_alike_backwards():
    lengths = defaultdict(list)
    for scene in scenes("sequence", 3000):
        lengths[len(scene.actors)].append([actor.slot[1] - actor.slot[0] for actor in scene.actors])
    for slots in map(np.array, lengths.values()):
        forwards, backwards = slots[: len(slots) // 2], slots[len(slots) // 2 :, ::-1]
        for quantile in (0.1, 0.5, 0.9):
            gap = np.quantile(forwards, quantile, axis=0) - np.quantile(backwards, quantile, axis=0)
            assert np.abs(gap).max() < 0.12


def test_the_middle_frame_of_a_sequence_does_not_tell_the_order():
    first_of_asked = []
    rng = np.random.default_rng(0)
    for scene in scenes("sequence", 6000):
        one, other = sorted(rng.permutation(len(scene.actors))[:2])  # as a question about order picks two
        visible = next(i for i, actor in enumerate(scene.actors) if actor.pose_at(MIDDLE_SECONDS))
        if visible in (one, other):
            first_of_asked.append(visible == one)
    assert abs(np.mean(first_of_asked) - 0.5) < 4 * 0.5 / np.sqrt(len(first_of_asked))


def test_how_a_drawing_of_a_sequence_stands_does_not_tell_the_count():
    counts, sizes, places = [], [], []
    for index, scene in enumerate(scenes("sequence", 3000)):
        time = scene.sampled_times()[index % 8]
        pose = next(pose for actor in scene.actors if (pose := actor.pose_at(time)))
        counts.append(len(scene.actors))
        sizes.append(pose.size)
        places.append(pose.x)
    assert_independent(bins(sizes, 8), counts)
    assert_independent(bins(places, 8), counts)


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_shows_in_three_sampled_frames_or_more(name):
    happening = [scene for scene in scenes("event", 800) if scene.main.event.name == name]
    assert len(happening) > 100
    for scene in happening:
        rest = scene.main.pose_at(0.0)
        poses = [scene.main.pose_at(time) for time in scene.sampled_times()]
        assert sum(shows(name, rest, pose) for pose in poses) >= 3


def shows(name, rest, pose):
    """Whether one look at a pose beside the pose at rest shows the event."""
    if name == "blinks":
        return pose is None
    if name == "jumps":
        return rest.y - pose.y > 0.1
    if name == "spins":
        return 45 < (pose.angle - rest.angle) % 360 < 315
    return max(pose.size / rest.size, rest.size / pose.size) > 1.1 and (pose.size > rest.size) == (name == "grows")


def test_a_blink_leaves_and_returns_twice_within_the_sampled_frames():
    for scene in scenes("event", 300):
        if scene.main.event.name == "blinks":
            shown = [scene.main.pose_at(time) is not None for time in scene.sampled_times()]
            runs = [shown[0], *(after for before, after in pairwise(shown) if before != after)]
            assert runs == [True, False, True, False, True]


def test_only_what_the_event_names_changes():
    for scene in scenes("event", 300):
        poses = [pose for time in scene.sampled_times() if (pose := scene.main.pose_at(time))]
        changing = {field for field in ("x", "y", "size", "angle") if len({getattr(pose, field) for pose in poses}) > 1}
        expected = {"jumps": {"y"}, "spins": {"angle"}, "grows": {"size"}, "shrinks": {"size"}, "blinks": set()}
        assert changing == expected[scene.main.event.name]


@pytest.mark.parametrize("field", ["x", "y", "size", "angle"])
def test_the_middle_frame_does_not_tell_the_event(field):
    events = [scene.main for scene in scenes("event", 4000)]
    poses = [actor.pose_at(MIDDLE_SECONDS) for actor in events]
    assert all(pose is not None for pose in poses)
    values = [round(getattr(pose, field), 9) for pose in poses]
    assert_independent(bins(values, 8), [actor.event.name for actor in events])


def test_backgrounds_are_alike_for_all_kinds():
    kinds, lightness = [], []
    for kind in KINDS:
        for scene in scenes(kind, 500):
            kinds.append(kind)
            lightness.append(float(np.mean(scene.background.colors)))
    assert_independent(bins(lightness, 8), kinds)
