"""The shared encoding of frames, and reading a cache: by content, exactly what was asked for, or a clear reason."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import TINY_CONFIG
from tests.training.videos import packed, write_video
from videoflamingo.errors import ModelError, UsageError, VideoError
from videoflamingo.models.vision import VisionTower
from videoflamingo.training import content, feature_making
from videoflamingo.training.feature_cache import FeatureCache, encode_frames
from videoflamingo.training.feature_making import cache_features
from videoflamingo.video.load import load_clip
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.sampling import Sampling

VISION = TINY_CONFIG.vision
FOUR = Sampling(num_frames=4)


@pytest.fixture(scope="module")
def tower() -> VisionTower:
    return VisionTower(VISION)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, so that results are equal and not only close."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the CPU is faster in bfloat16, whose rounding would hide which frames were encoded."""
    monkeypatch.setattr(feature_making, "choose_dtype", lambda name, device: torch.float32)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.mp4")


def request_for(path: Path, sampling: Sampling = FOUR, **changes: object) -> MediumRequest:
    return replace(MediumRequest(str(path), sampling), **changes)


@pytest.fixture
def cached(video: Path, tmp_path: Path) -> Path:
    """A cache of four frames of the video."""
    cache_features([request_for(video)], tmp_path / "cache", VISION, num_workers=1, device="cpu")
    return tmp_path / "cache"


# Encoding


def frames(count: int, height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, height, width), np.uint8)


def test_frames_of_any_sizes_are_encoded_in_order(tower: VisionTower) -> None:
    media = [frames(3), frames(1, 40, 20), frames(6, 64, 64)]
    encoded = encode_frames(tower, [media[0], torch.from_numpy(media[1]), media[2]])
    alone = torch.cat([tower(tower.preprocess(medium)).to(torch.float16) for medium in media])
    assert encoded.dtype == torch.float16
    assert encoded.shape == (10, tower.num_patches, tower.width)
    assert not encoded.requires_grad
    torch.testing.assert_close(encoded, alone, atol=0, rtol=2**-10)  # one step of float16: chunks sum in other orders


def test_no_more_frames_than_a_chunk_are_worked_on_at_a_time(
    tower: VisionTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    inner = tower.forward

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return inner(pixels)

    monkeypatch.setattr(tower, "forward", forward)
    encode_frames(tower, [frames(3), frames(6), frames(1)])
    assert sizes == [4, 4, 2]


def test_frames_that_run_backwards_are_encoded(tower: VisionTower) -> None:
    forwards = frames(4)
    assert torch.equal(encode_frames(tower, [forwards[::-1]]), encode_frames(tower, [forwards[::-1].copy()]))


def test_no_frames_are_no_features(tower: VisionTower) -> None:
    assert encode_frames(tower, []).shape == (0, tower.num_patches, tower.width)


def test_features_do_not_depend_on_mixed_precision_around(tower: VisionTower) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        inside = encode_frames(tower, [frames(4)])
    assert torch.equal(inside, encode_frames(tower, [frames(4)]))


@pytest.mark.parametrize(("scale", "value"), [(1e9, r"[\d.]+e\+\d+"), (float("nan"), "nan")])
def test_a_feature_that_float16_cannot_hold_is_an_error(scale: float, value: str) -> None:
    own = VisionTower(VISION)
    own.pixel_std /= scale
    with pytest.raises(ModelError, match=rf"'{VISION.tower}': a feature, computed in float32, is {value}; .*65504"):
        encode_frames(own, [frames(2)])


# Finding


def test_cached_features_are_those_of_the_frames(video: Path, cached: Path, tower: VisionTower) -> None:
    found = FeatureCache(cached, VISION).find(request_for(video))
    assert found is not None
    expected = encode_frames(tower, [load_clip(str(video), num_frames=4).frames])
    np.testing.assert_array_equal(found, expected.numpy(), strict=True)


def test_changes_of_frames_are_left_to_the_caller(video: Path, cached: Path) -> None:
    cache = FeatureCache(cached, VISION)
    plain, changed = cache.find(request_for(video)), cache.find(request_for(video, backwards=True, mirrored=True))
    assert plain is not None and changed is not None
    np.testing.assert_array_equal(changed, plain)


def test_an_unchanged_file_is_not_read_again(video: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_digest", lambda source: pytest.fail(f"{source} was read"))
    assert FeatureCache(cached, VISION).find(request_for(video)) is not None


def test_a_renamed_file_is_found(video: Path, cached: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    moved = video.rename(tmp_path / "elsewhere" / "b.mp4")
    assert FeatureCache(cached, VISION).find(request_for(moved)) is not None


def test_the_same_video_in_a_tar_file_is_found(video: Path, cached: Path, tmp_path: Path) -> None:
    part = packed(video, tmp_path / "shard.tar")
    assert FeatureCache(cached, VISION).find(MediumRequest(part, FOUR)) is not None


def test_features_of_a_file_that_changed_are_not_served(video: Path, cached: Path) -> None:
    cache = FeatureCache(cached, VISION)
    assert cache.find(request_for(video)) is not None
    write_video(video, first=50)
    assert cache.find(request_for(video)) is None


@pytest.mark.parametrize(
    "other",
    [
        MediumRequest("a.mp4", Sampling(num_frames=5)),
        MediumRequest("a.mp4", Sampling("endpoints", num_frames=4)),
        MediumRequest("a.mp4", Sampling(num_frames=4, start_seconds=0.5)),
        MediumRequest("a.mp4", Sampling(num_frames=4, end_seconds=0.5)),
        MediumRequest("a.mp4", Sampling(num_frames=4, short="distinct")),
        MediumRequest("a.mp4", FOUR, ReadOptions("pyav")),
        MediumRequest("a.mp4", FOUR, ReadOptions(short_side=32)),
        MediumRequest("a.mp4", FOUR, ReadOptions(tolerance_seconds=0.1)),
        MediumRequest("a.mp4", FOUR, ReadOptions(images_per_second=2.0)),
    ],
    ids=str,
)
def test_other_frames_of_the_same_file_are_others(video: Path, cached: Path, other: MediumRequest) -> None:
    assert FeatureCache(cached, VISION).find(replace(other, source=str(video))) is None


@pytest.mark.parametrize(
    "change", [{"tower": "random:test_byobnet"}, {"image_size": 96}, {"fit": "crop"}, {"features": "before_norm"}]
)
def test_features_of_another_tower_are_others(video: Path, cached: Path, change: dict[str, object]) -> None:
    assert FeatureCache(cached, replace(VISION, **change)).find(request_for(video)) is None


@pytest.mark.parametrize("change", [{"chunk_size": 1}, {"standardise": True}])
def test_what_changes_no_feature_is_the_same_tower(video: Path, cached: Path, change: dict[str, object]) -> None:
    assert FeatureCache(cached, replace(VISION, **change)).find(request_for(video)) is not None


def test_the_number_of_threads_and_the_type_of_a_number_do_not_matter(video: Path, cached: Path) -> None:
    same = ReadOptions(num_threads=3, tolerance_seconds=0)
    assert FeatureCache(cached, VISION).find(request_for(video, reading=same, seed=5)) is not None


def test_other_weights_in_the_same_file_are_another_tower(video: Path, tmp_path: Path, tower: VisionTower) -> None:
    weights = tmp_path / "weights.pt"
    vision = replace(VISION, tower=f"file:test_efficientnet@{weights}")
    state = tower.backbone.state_dict()
    torch.save(state, weights)
    cache_features([request_for(video)], tmp_path / "cache", vision, num_workers=1, device="cpu")
    assert FeatureCache(tmp_path / "cache", vision).find(request_for(video)) is not None
    torch.save({name: value * 2 for name, value in state.items()}, weights)
    assert FeatureCache(tmp_path / "cache", vision).find(request_for(video)) is None


# Refusing


def test_a_cache_that_is_not_there_is_an_error_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such feature cache; make it with `videoflamingo cache-features"):
        FeatureCache(tmp_path / "nowhere", VISION)


def test_random_sampling_and_changed_colours_are_refused(video: Path, cached: Path) -> None:
    cache = FeatureCache(cached, VISION)
    with pytest.raises(UsageError, match=r"a\.mp4: .*sampling='random'.* cannot be cached; use sampling='uniform'"):
        cache.find(request_for(video, Sampling("random", num_frames=4), seed=1))
    with pytest.raises(UsageError, match=r"a\.mp4: .*colours .* cannot be cached; set colour_share to 0"):
        cache.find(request_for(video, colour_seed=1))


def test_a_file_that_is_gone_is_named(video: Path, cached: Path) -> None:
    video.unlink()
    with pytest.raises(VideoError, match=r"a\.mp4: no such file"):
        FeatureCache(cached, VISION).find(request_for(video))


def test_a_damaged_shard_is_an_error_with_the_command(video: Path, cached: Path) -> None:
    (shard,) = cached.glob("*/*.npy")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"000000\.npy: has .* so it is damaged; run `videoflamingo cache-features`"):
        FeatureCache(cached, VISION).find(request_for(video))
