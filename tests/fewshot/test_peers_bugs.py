"""What scores wrongly elsewhere: errors found in peers' evaluation code, none of which may happen here.

Found in OpenFlamingo 2.0.1 by running it on small random models.
"""

from collections.abc import Hashable, Sequence

import pytest
import torch

from tests.evaluation.conftest import benchmark, model, videos
from tests.fewshot.test_engine import SHOTS, clip, engine, small_model
from videoflamingo.clip import Clip
from videoflamingo.decoding import Rules
from videoflamingo.evaluation.plan import Plan, Question
from videoflamingo.evaluation.protocol import Protocol
from videoflamingo.fewshot import Asked, FewShotEngine, MediaStore, Shown
from videoflamingo.pipeline import VideoFlamingo

__all__ = ["model", "videos"]  # fixtures
CHOICES = ["a cat", "a dog or two", "b"]


@pytest.fixture(scope="module")
def small() -> VideoFlamingo:
    return small_model()


def sums(model: VideoFlamingo, asked: Sequence[Asked], choices: Sequence[str]) -> list[dict[str, float]]:
    scored = engine(model).score(asked, [choices] * len(asked))
    return [{answer.text: answer.sum for answer in own} for own in scored]


def test_a_zero_shot_question_looks_at_its_own_video_and_not_at_an_examples(
    small: VideoFlamingo, videos: list[str]
) -> None:
    """There, two examples in words kept their pictures, so the question attended to the first of these."""
    plan = Plan(benchmark(videos), Protocol(num_shots=(0,), text_only=2))
    question = Question("real", 0, 0, plan.queries[0])
    asked = plan.asked(question, plan.shots(question, (), None)[0])
    assert len(asked.shots) == 2
    found = []
    for number in (3, 4):  # two different videos under the question's key
        loaded: list[Hashable] = []

        def load(keys: Sequence[Hashable], number: int = number, loaded: list[Hashable] = loaded) -> list[Clip]:
            loaded += keys
            return [clip(number) for _ in keys]

        (scored,) = FewShotEngine(small, MediaStore(small, load)).score([asked], [CHOICES])
        found.append([answer.sum for answer in scored])
        assert loaded == [asked.medium]
    assert all(abs(one - other) > 1e-3 for one, other in zip(*found, strict=True))


def test_a_choice_is_scored_the_same_whatever_was_scored_before_it(small: VideoFlamingo) -> None:
    """There, scoring a class name left it in the cache, so each later one was scored after the earlier ones."""
    asked = [Asked(SHOTS, 3, "What?")]
    (together,) = sums(small, asked, CHOICES)
    (turned,) = sums(small, asked, CHOICES[::-1])
    for choice in CHOICES:
        (alone,) = sums(small, asked, [choice])
        assert together[choice] == pytest.approx(alone[choice], abs=1e-4)
        assert turned[choice] == pytest.approx(alone[choice], abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "opt", "mpt"])
@pytest.mark.parametrize("shared", [True, False])
def test_a_choice_is_scored_the_same_beside_a_longer_question(family: str, shared: bool) -> None:
    """There, the padding of the shorter question was attended to."""
    model = small_model(family=family)
    other_shots = SHOTS if shared else SHOTS[1:]
    short, long = Asked(SHOTS, 3, "What?"), Asked(other_shots, 4, "What is it that all of them are doing there?")
    (alone,) = sums(model, [short], CHOICES)
    beside, _ = sums(model, [short, long], CHOICES)
    assert beside == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_question_that_would_write_a_media_tag_takes_no_video_from_the_others(
    num_beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, one row that wrote the tag let all rows lose their pictures for the rest of the answer."""
    model = small_model()
    tag = model.model.config.media_tag
    head = model.model.language_model.get_output_embeddings()
    with torch.no_grad():
        head.weight[model.model.tokenize(tag)] *= -20  # now the likeliest everywhere
    asked = [Asked(SHOTS, number, question) for number, question in ((3, "What?"), (4, "Who?"), (5, "Why?"))]
    options = {"num_beams": num_beams, "max_new_tokens": 6}
    together = engine(model).answer(asked, **options)
    assert all(tag not in answer.text for answer in together)
    for one, answer in zip(asked, together, strict=True):
        (alone,) = engine(model).answer([one], **options)
        assert (answer.text, answer.score) == (alone.text, pytest.approx(alone.score, abs=1e-4))
    monkeypatch.setattr(Rules, "forbid", lambda self, log_probabilities, begun: log_probabilities)
    monkeypatch.setattr(Rules, "is_banned", lambda self, token_ids: False)
    assert all(tag in answer.text for answer in engine(model).answer(asked, **options)), "would not have written it"


def test_beams_share_one_pass_of_the_tower_and_tokens_share_keys_and_values(
    small: VideoFlamingo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, three beams ran the tower three times, and each token computed all keys and values of the media again."""
    frames: list[int] = []
    made: list[int] = []
    tower, keys_values = small.model.vision.forward, small.model.media_keys_values
    monkeypatch.setattr(small.model.vision, "forward", lambda pixels: (frames.append(len(pixels)), tower(pixels))[1])
    monkeypatch.setattr(
        small.model, "media_keys_values", lambda tokens: (made.append(tokens.shape[1]), keys_values(tokens))[1]
    )
    asked = [Asked((Shown(0, "What?", "a cat"), Shown(1, "Who?", "b")), 2, "What?")] * 2
    engine(small).answer(asked, num_beams=3, max_new_tokens=5)
    assert sum(frames) == sum(len(clip(number)) for number in (0, 1, 2))
    assert sum(made) == 3
