"""Batched, cached answers against each question asked alone, as one whole prompt computed again for every token."""

import math
import threading
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import TINY_CONFIG, tiny_flamingo
from videoflamingo.clip import Clip
from videoflamingo.errors import UsageError, VideoError
from videoflamingo.fewshot import Asked, FewShot, FewShotEngine, MediaStore, Shown, ensembled, orders
from videoflamingo.generation import encode_segments, generate, score_choices
from videoflamingo.pipeline import Answer, VideoFlamingo
from videoflamingo.prompt import Medium, Shot
from videoflamingo.torchvision_operators import declare_missing_operators

declare_missing_operators()

SMALL = replace(TINY_CONFIG, media_tag="#")  # short prompts: one token a medium


def small_model(seed: int = 0, family: str = "llama") -> VideoFlamingo:
    model = tiny_flamingo(seed, family=family, config=SMALL)
    with torch.no_grad():
        model.new_tokens.weight *= 1.5  # so that some answers end
    return VideoFlamingo(model)


@pytest.fixture(scope="module")
def model() -> VideoFlamingo:
    return small_model()


def clip(key: Hashable) -> Clip:
    """Noise of 1 to 3 frames, the same for one number; a frame is a picture."""
    number = int(str(key))
    frames = np.random.default_rng(number).integers(0, 256, (1 + number % 3, 3, 40, 50), dtype=np.uint8)
    return Clip(frames, np.arange(len(frames), dtype=np.float64))


def store(model: VideoFlamingo, **settings: Any) -> MediaStore:
    return MediaStore(
        model, lambda keys: [VideoError(f"{key}: broken") if key == "bad" else clip(key) for key in keys], **settings
    )


def engine(model: VideoFlamingo, **settings: Any) -> FewShotEngine:
    return FewShotEngine(model, store(model), **settings)


SHOTS = (Shown(0, "What?", "a cat"), Shown(1, "Who?", "b"), Shown(2, None, "dogs"))
FIXED = [
    Asked(SHOTS, 3, "What?"),
    Asked(SHOTS, 4, "What is it that they do?"),
    Asked(SHOTS, 5, None),
    Asked(SHOTS, None, "Why?"),
    Asked(SHOTS, 3, "Where?"),
]
RICES = [
    Asked((SHOTS[0], SHOTS[2], SHOTS[1]), 3, "What?"),
    Asked((SHOTS[2], SHOTS[1]), 4, "Who?"),
    Asked((Shown(5, "Why?", "so"), SHOTS[0], SHOTS[1]), 2, "Whom?"),
]
TEXT_ONLY = (Shown(None, "What?", "a cat"), Shown(None, "Who?", "b"))
ZERO_SHOT = [Asked(TEXT_ONLY, 3, "What?"), Asked(TEXT_ONLY, 4, "Who?"), Asked((), 3, "What?"), Asked((), None, "Why?")]
EVERYTHING = [*FIXED[:3], *RICES, *ZERO_SHOT, *FIXED[3:]]


def alone(model: VideoFlamingo, one: Asked) -> tuple[Any, Any]:
    """The whole prompt, and its visual tokens, made by hand."""
    template, segments, clips = model.template, [], []
    for part in (*one.shots, one):
        answer = part.answer if isinstance(part, Shown) else None
        asked = template.ask(part.question, answer)
        if part.medium is None:
            asked = [segment for segment in asked if not isinstance(segment, Medium)]
        else:
            clips.append(clip(part.medium))
        segments += asked
    return encode_segments(model.model, segments), model.encode_clips(clips) if clips else None


def plain_answer(model: VideoFlamingo, one: Asked, **options: Any) -> Answer:
    prompt, visual_tokens = alone(model, one)
    decoding = model.decoding(options)
    (generated,) = generate(model.model, [prompt], visual_tokens, decoding, use_cache=False)
    return model.read(generated, decoding)


def assert_same(found: Sequence[Answer], expected: Sequence[Answer]) -> None:
    assert [answer.text for answer in found] == [answer.text for answer in expected]
    assert [answer.num_tokens for answer in found] == [answer.num_tokens for answer in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)
        assert one.lowest == pytest.approx(other.lowest, abs=1e-4)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_batches_of_all_kinds_give_what_each_question_gets_alone_and_uncached(
    model: VideoFlamingo, num_beams: int
) -> None:
    options = {"num_beams": num_beams, "max_new_tokens": 4}
    found = engine(model).answer(EVERYTHING, **options)
    assert_same(found, [plain_answer(model, one, **options) for one in EVERYTHING])


@pytest.mark.parametrize("family", ["qwen2", "gpt_neox", "opt", "gpt2", "mistral", "mpt"])
def test_every_family_gives_what_it_gives_uncached(family: str) -> None:
    model = small_model(family=family)
    asked = [*FIXED[:3], *RICES[:2]]
    found = engine(model).answer(asked, num_beams=1, max_new_tokens=3)
    assert_same(found, [plain_answer(model, one, num_beams=1, max_new_tokens=3) for one in asked])


@pytest.mark.parametrize(
    "settings", [{"max_tokens_together": 1}, {"max_tokens_together": 90}, {"share_prefixes": False}]
)
def test_answers_do_not_depend_on_the_batches(model: VideoFlamingo, settings: dict[str, Any]) -> None:
    expected = engine(model).answer(EVERYTHING, max_new_tokens=5)
    assert_same(engine(model, **settings).answer(EVERYTHING, max_new_tokens=5), expected)


def test_answers_are_in_the_given_order(model: VideoFlamingo) -> None:
    expected = engine(model).answer(EVERYTHING, max_new_tokens=5)
    assert_same(engine(model).answer(EVERYTHING[::-1], max_new_tokens=5), expected[::-1])


def test_drawn_answers_do_not_depend_on_the_batches(model: VideoFlamingo) -> None:
    seeds = list(range(len(EVERYTHING)))
    found = engine(model).answer(EVERYTHING, temperature=1.0, seed=seeds, max_new_tokens=4)
    for seed, (one, answer) in enumerate(zip(EVERYTHING, found, strict=True)):
        (single,) = engine(model).answer([one], temperature=1.0, seed=[seed], max_new_tokens=4)
        assert_same([answer], [single])
    assert len({answer.text for answer in found}) > 3


CHOICES = [["a cat", "b"], ["so", "dogs", "they do"], ["a"]]


@pytest.mark.parametrize("asked", [FIXED[:3], RICES, ZERO_SHOT[1:]], ids=["fixed", "rices", "zero-shot"])
@pytest.mark.parametrize("settings", [{}, {"max_tokens_together": 1}, {"share_prefixes": False}])
def test_choices_have_the_scores_that_each_question_gives_alone(
    model: VideoFlamingo, asked: list[Asked], settings: dict[str, Any]
) -> None:
    found = engine(model, **settings).score(asked, CHOICES)
    for one, choices, answers in zip(asked, CHOICES, found, strict=True):
        prompt, visual_tokens = alone(model, one)
        for choice, answer in zip(choices, answers, strict=True):
            tokens = model.encode_choice(choice)
            ((expected,),) = score_choices(model.model, [prompt], [[tokens]], visual_tokens)
            assert answer.text == choice
            assert answer.num_tokens == len(tokens)
            assert answer.score == pytest.approx(expected.score, abs=1e-4)
            assert answer.lowest == pytest.approx(expected.lowest, abs=1e-4)


# What is computed, and kept.


def tokens_run(model: VideoFlamingo) -> tuple[list[int], Any]:
    """Text tokens of each pass, padding among them."""
    passes: list[int] = []
    base = model.model.language_model.base_model
    hook = base.register_forward_pre_hook(
        lambda _, __, given: passes.append(given["inputs_embeds"].shape[:2].numel()), with_kwargs=True
    )
    return passes, hook


def test_a_shared_prefix_is_computed_once_and_kept_for_later_calls(model: VideoFlamingo) -> None:
    ours = engine(model)
    passes, hook = tokens_run(model)
    ours.answer(FIXED, num_beams=1, max_new_tokens=1)
    first = list(passes)
    passes.clear()
    ours.answer(FIXED[:1], num_beams=1, max_new_tokens=1)
    hook.remove()
    prefix, _ = alone(model, replace(FIXED[0], question=""))
    assert ours.num_prefixes_computed == 1
    assert len(first) == 2
    longest = max(len(alone(model, one)[0]) for one in FIXED) - first[0]
    assert first[1] == len(FIXED) * longest
    assert first[0] < len(prefix)
    assert len(passes) == 1
    assert passes[0] < first[0]  # the question alone


def test_media_are_encoded_once_for_all_prompts(model: VideoFlamingo) -> None:
    ours = engine(model)
    ours.answer(EVERYTHING, max_new_tokens=2)
    ours.answer(RICES, max_new_tokens=2)
    assert ours.media.num_encoded == 6


def test_prefixes_are_bounded_and_those_used_last_stay(model: VideoFlamingo) -> None:
    others = [[Asked((shot,), 3, "What?"), Asked((shot,), 4, "What?")] for shot in SHOTS]
    two = engine(model)
    for asked in others[:2]:  # the longest ones
        two.answer(asked, max_new_tokens=1)
    bound = two.prefix_bytes
    ours = engine(model, max_prefix_bytes=bound)
    for asked in (others[0], others[1], others[0], others[2]):
        ours.answer(asked, max_new_tokens=1)
    assert ours.prefix_bytes <= bound
    assert ours.num_prefixes_computed == 3
    ours.answer(others[0], max_new_tokens=1)
    assert ours.num_prefixes_computed == 3
    expected = engine(model).answer(others[1], max_new_tokens=4)
    assert_same(ours.answer(others[1], max_new_tokens=4), expected)
    assert ours.num_prefixes_computed == 4


def test_evicted_media_give_the_same_answers(model: VideoFlamingo) -> None:
    tight = FewShotEngine(model, store(model, max_bytes=0))
    assert_same(tight.answer(EVERYTHING, max_new_tokens=3), engine(model).answer(EVERYTHING, max_new_tokens=3))
    assert tight.media.num_evicted > 6


def test_a_medium_that_cannot_be_read_is_an_error_and_nothing_is_answered_blind(model: VideoFlamingo) -> None:
    ours = engine(model)
    for asked in (Asked((), "bad", "What?"), Asked((Shown("bad", None, "a"),), 3, "What?")):
        with pytest.raises(VideoError, match="bad: broken"):
            ours.answer([asked, asked], max_new_tokens=1)
    assert ours.media.prepare(["bad"]) == {"bad": "bad: broken"}
    assert_same(ours.answer(FIXED, max_new_tokens=2), engine(model).answer(FIXED, max_new_tokens=2))


def test_two_threads_get_what_each_gets_alone(model: VideoFlamingo) -> None:
    ours = engine(model)
    parts = [EVERYTHING[::2], EVERYTHING[1::2]]
    expected = [engine(model).answer(part, max_new_tokens=4) for part in parts]
    found: dict[int, list[Answer]] = {}
    threads = [
        threading.Thread(target=lambda n=number: found.update({n: ours.answer(parts[n], max_new_tokens=4)}))
        for number in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in (0, 1):
        assert_same(found[number], expected[number])
    assert model.model.language_model.config._attn_implementation == "sdpa"


def test_nothing_asked_is_nothing_answered(model: VideoFlamingo) -> None:
    assert engine(model).answer([]) == []
    assert engine(model).score([], []) == []


def test_wrong_requests_are_refused(model: VideoFlamingo) -> None:
    ours = engine(model)
    for choices in ([["a"]], [["a"], []], [["a"], [" "]]):
        with pytest.raises(UsageError, match="choice"):
            ours.score(FIXED[:2], choices)
    with pytest.raises(UsageError, match="num_samples is 2"):
        ours.answer(FIXED, temperature=1.0, num_samples=2)
    with pytest.raises(UsageError, match="max_tokens_together is 0"):
        engine(model, max_tokens_together=0)
    with pytest.raises(UsageError, match="another model"):
        FewShotEngine(small_model(), ours.media)


# From Python.


def test_fewshot_answers_are_those_of_the_model_with_the_same_shots(model: VideoFlamingo) -> None:
    shots = [Shot(clip(0), "What?", "a cat"), Shot(clip(1), None, "dogs")]
    fewshot = FewShot(model, shots)
    asked, questions = [clip(3), clip(4), clip(3)], ["What?", None, "Who?"]
    found = fewshot.answers(asked, questions, max_new_tokens=5)
    assert_same(
        found,
        [model.answer(one, text, shots=shots, max_new_tokens=5) for one, text in zip(asked, questions, strict=True)],
    )
    assert fewshot.ask(clip(4), None, max_new_tokens=5) == [found[1].text]
    assert fewshot.engine.num_prefixes_computed == 1
    assert fewshot.ask([], "What?") == []


def test_fewshot_without_shots_asks_the_bare_question(model: VideoFlamingo) -> None:
    found = FewShot(model, []).answers(clip(3), "What?", max_new_tokens=5)
    assert_same(found, [model.answer(clip(3), "What?", max_new_tokens=5)])


def test_fewshot_lets_go_of_what_was_asked_about(model: VideoFlamingo) -> None:
    fewshot = FewShot(model, [Shot(clip(0), "What?", "a cat")])
    fewshot.ask(clip(3), "What?", max_new_tokens=1)
    held = fewshot.media.num_bytes
    for number in (4, 5, 6):
        fewshot.ask(clip(number), "What?", max_new_tokens=1)
    assert fewshot.media.num_bytes == held
    assert list(fewshot._clips) == [0]


def test_ranking_averages_log_likelihoods_over_orders_of_the_shots(model: VideoFlamingo) -> None:
    shots = [Shot(clip(number), "What?", text) for number, text in enumerate(["a cat", "b", "dogs"])]
    choices = ["so", "they do", "b"]
    found = FewShot(model, shots, ensemble=6).rank([clip(4), clip(5)], "What?", choices)
    for number, own in zip((4, 5), found, strict=True):
        sums = dict.fromkeys(choices, 0.0)
        lowest = dict.fromkeys(choices, 0.0)
        for order in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]):
            for answer in model.rank(clip(number), "What?", choices, shots=[shots[place] for place in order]):
                sums[answer.text] += answer.sum / 6
                lowest[answer.text] = min(lowest[answer.text], answer.lowest)
        assert [answer.text for answer in own] == sorted(choices, key=lambda choice: -sums[choice])
        for answer in own:
            assert answer.sum == pytest.approx(sums[answer.text], abs=1e-3)
            assert answer.lowest == pytest.approx(lowest[answer.text], abs=1e-4)


@pytest.mark.parametrize(("num_shots", "count", "expected"), [(0, 6, 1), (1, 6, 1), (2, 6, 2), (3, 6, 6), (9, 6, 6)])
def test_orders_are_different_start_with_the_given_one_and_are_the_same_for_one_seed(
    num_shots: int, count: int, expected: int
) -> None:
    shots = list(range(num_shots))
    found = orders(shots, count, seed=3)
    assert len(set(found)) == len(found) == expected
    assert found[0] == tuple(shots)
    assert all(sorted(order) == shots for order in found)
    assert orders(shots, count, seed=3) == found
    assert num_shots < 9 or orders(shots, count, seed=4) != found


def test_a_mean_over_different_choices_is_refused() -> None:
    with pytest.raises(UsageError, match="not scores of one choice"):
        ensembled([Answer("a", -1.0, 2), Answer("b", -1.0, 2)])
    with pytest.raises(UsageError, match="ensemble is 0"):
        orders([1, 2], 0, seed=0)


def test_the_lowest_is_the_least_likely_token_of_the_answer(model: VideoFlamingo) -> None:
    answer = model.answer(clip(3), "What?", num_beams=1, max_new_tokens=4)
    assert answer.lowest <= answer.score <= 0
    assert not math.isclose(answer.lowest, answer.score)
