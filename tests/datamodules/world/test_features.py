"""The cache of tower features: made once, gone on with after an interruption, and equal to encoding directly."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.world import features as world_features
from datamodules.world.clips import make_clip
from datamodules.world.features import VIDEO_KINDS, cached_features, plan_scenes
from datamodules.world.sampling import sample_scene
from videoflamingo.models.vision import VisionConfig, VisionTower

VISION = VisionConfig("random:test_efficientnet", image_size=64)
PLAN = [(3, "move"), (4, "event"), (5, "sequence"), (600_000, "picture")]


@pytest.fixture(autouse=True)
def one_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random towers are all the same, and a shard holds two scenes."""

    def tower(config: VisionConfig) -> VisionTower:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return VisionTower(config)

    monkeypatch.setattr(world_features, "VisionTower", tower)
    monkeypatch.setattr(world_features, "SHARD_SCENES", 2)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds of the scenes that were really made; by threads, whose start costs nothing."""
    seeds: list[int] = []
    frames_of: Callable[[tuple[int, str, str]], np.ndarray] = world_features.frames_of

    def noted(job: tuple[int, str, str]) -> np.ndarray:
        seeds.append(job[0])
        return frames_of(job)

    monkeypatch.setattr(world_features, "frames_of", noted)
    monkeypatch.setattr(world_features, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    return seeds


def test_worker_processes_give_the_features_of_encoding_directly(tmp_path: Path) -> None:
    cached = cached_features(tmp_path, VISION, PLAN, num_workers=1)
    tower = world_features.VisionTower(VISION).to(torch.bfloat16)
    for one, (seed, kind) in zip(cached, PLAN, strict=True):
        assert one.scene == sample_scene(seed, kind)
        expected = tower(tower.preprocess(make_clip(one.scene).frames)).float().numpy()
        assert one.features.dtype == np.float16
        assert one.features.shape == expected.shape == (1 if kind == "picture" else 8, 4, 256)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(one.features, expected, rtol=0, atol=0.02 * scale)  # bfloat16 has 8 bits
        assert kind == "picture" or np.abs(expected - expected.mean(0)).max() > 0.1 * scale


def test_features_are_made_once(tmp_path: Path, made: list[int]) -> None:
    first = cached_features(tmp_path, VISION, PLAN)
    assert sorted(made) == [3, 4, 5, 600_000]
    again = cached_features(tmp_path, VISION, PLAN, in_memory=True)
    assert len(made) == 4
    assert isinstance(first[0].features, np.memmap)
    assert not isinstance(again[0].features, np.memmap)
    assert all(np.array_equal(one.features, other.features) for one, other in zip(first, again, strict=True))


def test_a_broken_off_run_goes_on_where_it_stopped(
    tmp_path: Path, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = world_features.frames_of

    def interrupted(job: tuple[int, str, str]) -> np.ndarray:
        if job[0] == 5:
            raise KeyboardInterrupt
        return counting(job)

    monkeypatch.setattr(world_features, "frames_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path, VISION, PLAN, num_workers=1)
    monkeypatch.setattr(world_features, "frames_of", counting)
    made.clear()
    cached = cached_features(tmp_path, VISION, PLAN)
    assert sorted(made) == [5, 600_000]
    assert [len(one.features) for one in cached] == [8, 8, 8, 1]


def test_a_file_that_was_left_unfinished_is_not_read(tmp_path: Path, made: list[int]) -> None:
    first = cached_features(tmp_path, VISION, PLAN[:2])
    (finished,) = tmp_path.rglob("*.npy")
    finished.with_suffix(".part").write_bytes(finished.read_bytes()[:50])
    finished.unlink()
    made.clear()
    again = cached_features(tmp_path, VISION, PLAN[:2])
    assert sorted(made) == [3, 4]
    assert np.array_equal(first[1].features, again[1].features)


def test_a_larger_plan_makes_only_what_is_new(tmp_path: Path, made: list[int]) -> None:
    cached_features(tmp_path, VISION, plan_scenes(2, 2, first_seed=0))
    made.clear()
    cached = cached_features(tmp_path, VISION, plan_scenes(4, 4, first_seed=0))
    assert sorted(made) == [2, 3, 500_002, 500_003]
    assert [one.scene.seed for one in cached] == [0, 1, 2, 3, 500_000, 500_001, 500_002, 500_003]


@pytest.mark.parametrize(
    ("vision", "split"),
    [(VisionConfig("random:test_efficientnet", image_size=96), "train"), (VISION, "held_out")],
    ids=["another tower", "another split"],
)
def test_what_changes_the_features_has_a_folder_of_its_own(
    tmp_path: Path, made: list[int], vision: VisionConfig, split: str
) -> None:
    cached_features(tmp_path, VISION, PLAN[2:])
    made.clear()
    cached_features(tmp_path, vision, PLAN[2:], split=split)
    assert sorted(made) == [5, 600_000]


def test_what_does_not_change_the_features_shares_the_folder(tmp_path: Path, made: list[int]) -> None:
    cached_features(tmp_path, VISION, PLAN[2:])
    made.clear()
    cached_features(tmp_path, VisionConfig(VISION.tower, 64, standardise=True, chunk_size=3), PLAN[2:])
    assert made == []


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


def test_kinds_come_in_their_shares_from_the_beginning() -> None:
    kinds = [kind for _, kind in plan_scenes(200, 0, first_seed=0)]
    for name, share in VIDEO_KINDS.items():
        for length in (20, 100, 200):
            assert abs(kinds[:length].count(name) - share * length) <= 1


def test_no_two_scenes_of_a_plan_have_one_seed() -> None:
    seeds = [seed for seed, _ in plan_scenes(6000, 10_000, first_seed=0)]
    assert len(set(seeds)) == 16_000
