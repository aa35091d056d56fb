"""A scene played backwards shows what the scene shows, the other way round, and its facts go with it."""

import numpy as np
import pytest

from datamodules.world import captions, frame_at, sample_scene
from datamodules.world.scene import Pose

OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
each_kind = pytest.mark.parametrize("kind", ["picture", "move", "sequence", "event", "pair"])


def assert_same(one: Pose | None, other: Pose | None) -> None:
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        places = np.array([one.x - other.x, one.y - other.y])
        assert np.abs((places + 0.5) % 1.0 - 0.5).max() < 1e-6  # across the edge of a torus is near
        assert abs((one.angle - other.angle + 180) % 360 - 180) < 1e-6
        assert one.size == pytest.approx(other.size, rel=1e-6)


@each_kind
def test_every_actor_of_the_reversed_scene_stands_where_it_stood(kind: str) -> None:
    for seed in range(60):
        scene = sample_scene(seed, kind)
        backwards = {actor.drawing: actor for actor in scene.reversed_in_time().actors}
        for actor in scene.actors:
            for time in scene.sampled_times():
                assert_same(backwards[actor.drawing].pose_at(time), actor.pose_at(scene.duration_seconds - time))


@each_kind
def test_a_reversed_scene_is_painted_as_the_scene_is_from_its_end(kind: str) -> None:
    scene = sample_scene(2, kind, size=64)
    backwards = scene.reversed_in_time()
    for time in scene.sampled_times()[:4]:
        painted = frame_at(backwards, time).astype(int) - frame_at(scene, scene.duration_seconds - time)
        assert np.abs(painted).mean() < 0.5


@each_kind
def test_reversing_twice_changes_no_fact(kind: str) -> None:
    for seed in range(60):
        scene = sample_scene(seed, kind)
        assert captions(scene.reversed_in_time().reversed_in_time()) == captions(scene)


def test_the_reversed_direction_is_the_opposite_at_the_same_pace() -> None:
    for seed in range(40):
        mover = sample_scene(seed, "move").main
        backwards = sample_scene(seed, "move").reversed_in_time().main
        assert (backwards.name, backwards.pace) == (mover.name, mover.pace)
        assert backwards.direction == OPPOSITE[mover.direction]


def test_a_reversed_sequence_has_its_drawings_in_the_opposite_order() -> None:
    scene = sample_scene(4, "sequence")
    names = [actor.name for actor in scene.actors]
    assert [actor.name for actor in scene.reversed_in_time().actors] == names[::-1]


def test_what_grows_shrinks_backwards() -> None:
    opposite = {"grows": "shrinks", "shrinks": "grows"}
    names = [
        (sample_scene(seed, "event").main.event.name, sample_scene(seed, "event").reversed_in_time().main.event.name)
        for seed in range(60)
    ]
    assert {name for name, _ in names} == {"jumps", "spins", "grows", "shrinks", "blinks"}
    assert all(backwards == opposite.get(name, name) for name, backwards in names)


@each_kind
def test_every_actor_of_the_mirrored_scene_stands_on_the_other_side(kind: str) -> None:
    for seed in range(60):
        scene = sample_scene(seed, kind)
        for actor, other in zip(scene.actors, scene.mirrored().actors, strict=True):
            for time in scene.sampled_times():
                pose = actor.pose_at(time)
                seen = None if pose is None else Pose(1.0 - pose.x, pose.y, pose.size, -pose.angle)
                assert_same(other.pose_at(time), seen)


def test_in_a_mirror_left_is_right_and_nothing_else_changes() -> None:
    words = {"left": "right", "right": "left"}
    for kind in ("move", "pair", "sequence", "event"):
        for seed in range(40):
            scene = sample_scene(seed, kind)
            swapped = [" ".join(words.get(word, word) for word in text.split()) for text in captions(scene)]
            assert captions(scene.mirrored()) == swapped
