"""Media encoded once, within a bound, by keys; what could not be read is remembered."""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import pytest
import torch

from tests.tiny import tiny_flamingo
from videoflamingo.clip import Clip
from videoflamingo.errors import SamplingError, UsageError, VideoError
from videoflamingo.fewshot.media_store import MediaStore
from videoflamingo.pipeline import VideoFlamingo


@pytest.fixture(scope="module")
def model() -> VideoFlamingo:
    return VideoFlamingo(tiny_flamingo())


def clip(seed: int, num_frames: int = 1, times: Sequence[float] | None = None) -> Clip:
    """Noise; the same for one seed."""
    frames = np.random.default_rng(seed).integers(0, 256, (num_frames, 3, 40, 50), dtype=np.uint8)
    return Clip(frames, np.array(times if times is not None else range(num_frames), np.float64), reader="pyav")


class Loading:
    """Gives noise for a number, an error for `"broken"`; notes what was asked for."""

    def __init__(self) -> None:
        self.asked: list[Hashable] = []

    def __call__(self, keys: Sequence[Hashable]) -> Iterator[Clip | VideoError | SamplingError]:
        for key in keys:
            self.asked.append(key)
            yield clip(key, num_frames=1 + key % 3) if isinstance(key, int) else VideoError(f"{key}: not a video")


@pytest.mark.parametrize("keys", [[4], [5, 1, 0, 2]])
def test_keys_and_values_are_those_of_the_same_clips_encoded_together(model: VideoFlamingo, keys: list[int]) -> None:
    store = MediaStore(model, Loading())
    found = store.keys_values(keys)
    with torch.inference_mode():
        expected = model.model.media_keys_values(model.encode_clips([clip(key, 1 + key % 3) for key in keys]))
    for (keys_, values), (expected_keys, expected_values) in zip(found, expected, strict=True):
        torch.testing.assert_close(keys_, expected_keys, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(values, expected_values, atol=1e-4, rtol=1e-4)


def test_a_medium_is_loaded_and_encoded_once(model: VideoFlamingo) -> None:
    loading = Loading()
    store = MediaStore(model, loading)
    assert store.prepare([1, 2, 1]) == {}
    store.keys_values([2, 1])
    store.pooled([1, 2])
    store.keys_values([1, 3])
    assert loading.asked == [1, 2, 3]
    assert store.num_encoded == 3


def test_a_frame_that_is_shown_twice_is_encoded_once_and_counts_twice(model: VideoFlamingo) -> None:
    frames = clip(7, 2)
    twice = Clip(frames.frames[[0, 0, 1]], np.array([0.0, 0.0, 1.0]))
    passes = []
    hook = model.model.vision.register_forward_hook(lambda _, given, __: passes.append(len(given[0])))
    store = MediaStore(model, lambda keys: [twice for _ in keys])
    pooled = store.pooled(["twice"])
    hook.remove()
    assert passes == [2]
    with torch.inference_mode():
        features = model.model.vision(model.model.vision.preprocess(frames.frames))  # [2, P, D]
    expected = (2 * features[0].mean(0) + features[1].mean(0)) / 3
    torch.testing.assert_close(pooled[0], expected, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_read_is_reported_and_remembered_and_never_encoded(model: VideoFlamingo) -> None:
    loading = Loading()
    store = MediaStore(model, loading)
    assert store.prepare([1, "broken", 2]) == {"broken": "broken: not a video"}
    assert store.prepare(["broken"]) == {"broken": "broken: not a video"}
    assert loading.asked == [1, "broken", 2]
    for ask in (lambda: store.keys_values([1, "broken"]), lambda: store.pooled(["broken"])):
        with pytest.raises(VideoError, match="broken: not a video"):
            ask()
    with pytest.raises(VideoError, match="broken: not a video"):
        store.clip_facts("broken")


def test_facts_are_the_times_of_the_frames_and_the_reader(model: VideoFlamingo) -> None:
    store = MediaStore(model, lambda keys: [clip(0, 2, times=[0.5, 1.5]) for _ in keys])
    assert store.clip_facts("any") == ((0.5, 1.5), "pyav")


def bytes_of_one(model: VideoFlamingo) -> tuple[int, int]:
    """Of visual tokens, and of keys and values with them."""
    store = MediaStore(model, Loading())
    store.prepare([1])
    tokens = store.num_bytes
    store.keys_values([1])
    return tokens, store.num_bytes


def test_memory_is_bounded_and_what_had_to_go_is_encoded_again(model: VideoFlamingo) -> None:
    tokens, _ = bytes_of_one(model)
    loading = Loading()
    store = MediaStore(model, loading, max_bytes=3 * tokens)
    store.prepare(range(5))
    assert store.num_bytes <= 3 * tokens
    assert store.num_evicted == 2
    before = MediaStore(model, Loading()).keys_values([0])
    again = store.keys_values([0])
    torch.testing.assert_close(again[0][0], before[0][0], atol=1e-5, rtol=1e-4)
    assert loading.asked == [0, 1, 2, 3, 4, 0]
    assert store.num_encoded == 6
    assert store.num_bytes <= 3 * tokens


def test_the_least_recently_used_goes_first(model: VideoFlamingo) -> None:
    tokens, _ = bytes_of_one(model)
    loading = Loading()
    store = MediaStore(model, loading, max_bytes=3 * tokens)
    store.prepare([0, 1, 2])
    store.prepare([0])
    store.prepare([3])  # 1 goes
    store.prepare([0, 2, 3])
    assert loading.asked == [0, 1, 2, 3]
    store.prepare([1])
    assert loading.asked == [0, 1, 2, 3, 1]


def test_keys_and_values_go_before_visual_tokens(model: VideoFlamingo) -> None:
    tokens, both = bytes_of_one(model)
    loading = Loading()
    store = MediaStore(model, loading, max_bytes=both + 2 * tokens)
    store.keys_values([0])
    store.keys_values([1])
    store.keys_values([2])
    assert store.num_evicted == 0
    assert store.num_bytes == both + 2 * tokens
    store.keys_values([0, 1, 2])
    assert loading.asked == [0, 1, 2]


def test_media_needed_together_are_given_though_they_exceed_the_bound(model: VideoFlamingo) -> None:
    store = MediaStore(model, Loading(), max_bytes=0)
    found = store.keys_values([0, 1, 2, 1])
    assert found[0][0].shape[:2] == (1, 4)
    assert torch.equal(found[0][0][:, 1], found[0][0][:, 3])
    assert store.num_bytes == 0
    assert store.most_bytes > 0


def test_pooled_features_and_facts_stay_after_eviction(model: VideoFlamingo) -> None:
    loading = Loading()
    store = MediaStore(model, loading, max_bytes=0)
    first = store.pooled([0, 1])
    store.clip_facts(0)
    assert torch.equal(store.pooled([1, 0]), first.flip(0))
    assert loading.asked == [0, 1]


def test_what_is_forgotten_is_read_again(model: VideoFlamingo) -> None:
    loading = Loading()
    store = MediaStore(model, loading)
    store.keys_values([0])
    store.prepare(["broken"])
    store.forget([0, "broken", "never seen"])
    assert store.num_bytes == 0
    store.prepare([0, "broken"])
    assert loading.asked == [0, "broken", 0, "broken"]


def test_clips_are_encoded_as_they_come(model: VideoFlamingo) -> None:
    """At most a tower's batch of frames waits, however many media are asked for."""
    waiting, most = 0, 0

    def load(keys: Sequence[Hashable]) -> Iterator[Clip]:
        nonlocal waiting, most
        for key in keys:
            waiting += 8
            most = max(most, waiting)
            yield clip(hash(key), 8)

    def encoded(_: object, given: tuple[torch.Tensor, ...], __: object) -> None:
        nonlocal waiting
        waiting -= len(given[0])

    hook = model.model.vision.register_forward_hook(encoded)
    MediaStore(model, load).prepare(range(40))
    hook.remove()
    assert most == 64
    assert waiting == 0


@pytest.mark.parametrize("count", [1, 3])
def test_a_loader_that_gives_too_few_or_too_many_is_refused(model: VideoFlamingo, count: int) -> None:
    with pytest.raises(UsageError, match=f"load gave {'1 clips' if count == 1 else 'more than 2 clips'} for 2 keys"):
        MediaStore(model, lambda _: [clip(0)] * count).prepare([1, 2])


def test_the_same_frames_in_another_order_go_through_the_tower_once(
    model: VideoFlamingo, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = clip(7, num_frames=3)
    turned = Clip(own.frames[[2, 0, 1]], own.pts_seconds[[2, 0, 1]], reader="pyav")
    frames_encoded = []
    forward = model.model.vision.forward
    monkeypatch.setattr(
        model.model.vision, "forward", lambda pixels: (frames_encoded.append(len(pixels)), forward(pixels))[1]
    )
    store = MediaStore(model, lambda keys: [{"own": own, "turned": turned}[str(key)] for key in keys])
    store.prepare(["own", "turned"])
    assert frames_encoded == [3]
    monkeypatch.undo()
    for key, expected in (("own", own), ("turned", turned)):
        with torch.inference_mode():
            tokens = model.model.media_keys_values(model.encode_clips([expected]))
        torch.testing.assert_close(store.keys_values([key])[0][0], tokens[0][0], atol=1e-5, rtol=1e-5)
