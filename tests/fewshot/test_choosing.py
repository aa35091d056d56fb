"""Which examples are shown: each rule against a plain loop, and what it promises."""

import math
from collections import Counter

import numpy as np
import pytest

from videoflamingo.errors import UsageError
from videoflamingo.fewshot.choosing import (
    Rices,
    balanced_order,
    bundles,
    choose,
    confident_rounds,
    draw_subset,
    random_order,
    similar_order,
)


def features(count: int, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """In plain Python."""
    product = sum(float(a) * float(b) for a, b in zip(one, other, strict=True))
    return product / math.sqrt(sum(float(a) ** 2 for a in one)) / math.sqrt(sum(float(b) ** 2 for b in other))


def test_a_larger_draw_of_a_seed_has_the_smaller_one() -> None:
    small, large = draw_subset(500, 10, seed=3, part="query"), draw_subset(500, 100, seed=3, part="query")
    assert set(small) < set(large) and small == sorted(small) and len(set(large)) == 100


def test_support_and_query_are_drawn_apart() -> None:
    assert draw_subset(500, 10, seed=3, part="query") != draw_subset(500, 10, seed=3, part="support")


def test_a_draw_of_more_than_there_are_is_all() -> None:
    assert draw_subset(5, 2048, seed=0, part="support") == [0, 1, 2, 3, 4]


def test_a_subset_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="support size is 0; give 1 or more"):
        draw_subset(5, 0, seed=0, part="support")


def test_random_orders_of_trials_differ_and_repeat_themselves() -> None:
    first, again, other = random_order(50, 1, 0), random_order(50, 1, 0), random_order(50, 1, 1)
    assert first.tolist() == again.tolist() != other.tolist()
    assert sorted(first) == sorted(other) == list(range(50))


def test_every_example_is_as_likely_to_be_shown_first() -> None:
    drawn = Counter(int(random_order(4, seed, 0)[0]) for seed in range(2000))
    assert all(abs(count - 500) < 4 * math.sqrt(2000 * 0.25 * 0.75) for count in drawn.values())


@pytest.mark.parametrize("num_shots", [3, 6, 7, 12])
def test_balanced_shots_have_each_label_as_often(num_shots: int) -> None:
    labels = ["left"] * 40 + ["right"] * 5 + ["up"] * 8
    for seed in range(5):
        shown = Counter(labels[index] for index in choose(balanced_order(labels, seed), num_shots))
        assert max(shown.values()) - min(shown.values()) <= 1 and len(shown) == 3


def test_balanced_shots_rotate_through_the_labels() -> None:
    labels = ["a", "b", "c"] * 4
    shown = [labels[index] for index in balanced_order(labels, seed=2)]
    assert shown == shown[:3] * 4 and sorted(shown[:3]) == ["a", "b", "c"]


def test_an_excluded_example_is_replaced_by_one_of_its_label_at_its_place() -> None:
    labels = ["a", "b"] * 10
    whole = balanced_order(labels, seed=4).tolist()
    without = balanced_order(labels, seed=4, excluded={whole[0]}).tolist()
    assert whole[0] not in without
    assert without[1:18:2] == whole[1:18:2], "the other label's places stay"
    assert without[0] == whole[2] and labels[without[0]] == labels[whole[0]]


def test_the_first_label_is_drawn() -> None:
    labels = ["common"] * 5 + ["rare"] * 5
    assert {labels[balanced_order(labels, seed)[0]] for seed in range(20)} == {"common", "rare"}


def test_similarities_of_videos_are_cosines() -> None:
    support, asked = features(7), features(3, seed=1)
    found = Rices(videos=support).similarities(videos=asked)
    expected = [[cosine(query, example) for example in support] for query in asked]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_similarities_of_texts_are_cosines_of_what_differs_from_the_support_s_mean() -> None:
    support, asked = features(7) + 5, features(3, seed=1) + 5
    centre = support.astype(np.float64).mean(0)
    expected = [[cosine(query - centre, example - centre) for example in support] for query in asked]
    np.testing.assert_allclose(Rices(texts=support).similarities(texts=asked), expected, atol=1e-12)


def test_both_together_are_the_weighted_sum() -> None:
    videos, texts, asked_videos, asked_texts = features(7), features(7, 4, 1), features(2, seed=2), features(2, 4, 3)
    found = Rices(videos, texts, text_weight=0.25).similarities(asked_videos, asked_texts)
    by_text = Rices(texts=texts).similarities(texts=asked_texts)
    by_video = Rices(texts=videos).similarities(texts=asked_videos)  # centred, too
    np.testing.assert_allclose(found, 0.75 * by_video + 0.25 * by_text, atol=1e-12)


def test_features_of_zeros_are_like_nothing() -> None:
    assert Rices(videos=np.zeros((2, 3))).similarities(videos=np.ones((1, 3))).tolist() == [[0.0, 0.0]]


def test_features_that_are_no_numbers_are_refused_with_their_place() -> None:
    wrong = features(3)
    wrong[1, 2] = np.nan
    with pytest.raises(UsageError, match="features of videos 1 hold infinity or NaN"):
        Rices(videos=wrong)


@pytest.mark.parametrize(("options", "rule"), [({}, "give the features"), ({"text_weight": 1.5}, "from 0")])
def test_rices_says_what_it_needs(options: dict[str, float], rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        Rices(features(2) if options else None, **options)


def test_the_most_similar_example_is_shown_last() -> None:
    support = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.2], [1.0, 1.0]])
    (similarities,) = Rices(videos=support).similarities(videos=np.array([[1.0, 0.0]]))
    assert choose(similar_order(similarities), 3, best_last=True) == [3, 2, 0]


def test_equally_similar_examples_keep_the_support_s_order_whatever_the_rounding() -> None:
    similarities = 0.5 + np.array([0.0, 3e-9, -2e-9, 0.1, 1e-9])
    assert similar_order(similarities).tolist() == [3, 0, 1, 2, 4]


def test_fewer_shots_are_the_most_similar_of_more() -> None:
    order = similar_order(features(1, 20)[0])
    assert choose(order, 8, best_last=True)[-4:] == choose(order, 4, best_last=True)


def test_what_is_excluded_is_passed_over() -> None:
    assert choose([4, 2, 0, 1], 2, excluded={2, 4}) == [0, 1]


def test_no_shots_are_no_shots_even_if_none_may_be_shown() -> None:
    assert choose([0, 1], 0, excluded={0, 1}) == []


def test_too_few_allowed_examples_are_counted() -> None:
    with pytest.raises(
        UsageError, match=r"a.jsonl:3: 4 examples were asked for, but only 2 .* other 1 are of the asked"
    ):
        choose([0, 1, 2], 4, excluded={1}, about="a.jsonl:3")


def test_bundles_follow_in_similarity_each_with_its_best_last() -> None:
    assert bundles([9, 7, 5, 3, 1, 8, 6], size=2, most=2, excluded={7}) == [[5, 9], [1, 3]]


def test_only_whole_bundles_are_shown() -> None:
    assert bundles([0, 1, 2, 3, 4], size=2, most=9) == [[1, 0], [3, 2]]
    with pytest.raises(UsageError, match="8 examples were asked for, but only 5"):
        bundles([0, 1, 2, 3, 4], size=8, most=1)


def video_icl(confidences: list[float], threshold: float) -> tuple[int, int]:
    """Of one question, in plain words: how often it is asked, and which answer is kept."""
    asked = []
    for confidence in confidences:
        asked.append(confidence)
        if confidence > threshold:
            break
    return len(asked), asked.index(max(asked))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_many_questions_at_once_are_asked_as_each_alone(threshold: float) -> None:
    rng = np.random.default_rng(0)
    probabilities = [rng.uniform(0.01, 0.99, count).tolist() for count in (1, 4, 4, 2, 4, 3, 4, 4)]
    rounds = confident_rounds([len(own) for own in probabilities], threshold)
    times: Counter[int] = Counter()
    asked = next(rounds)
    try:
        while True:
            times.update(question for question, _ in asked)
            asked = rounds.send([math.log(probabilities[question][bundle]) for question, bundle in asked])
    except StopIteration as stop:
        kept = stop.value
    expected = [video_icl(own, threshold) for own in probabilities]
    assert [(times[question], bundle) for question, bundle in enumerate(kept)] == expected


def test_an_answer_without_any_probability_is_asked_again_and_the_first_is_kept() -> None:
    rounds = confident_rounds([2], 0.5)
    assert next(rounds) == [(0, 0)] and rounds.send([-math.inf]) == [(0, 1)]
    with pytest.raises(StopIteration) as stop:
        rounds.send([-math.inf])
    assert stop.value.value == [0]


def test_no_questions_need_no_round() -> None:
    with pytest.raises(StopIteration):
        next(confident_rounds([], 0.5))


def test_a_threshold_is_a_probability() -> None:
    with pytest.raises(UsageError, match="threshold is -1; give a probability"):
        next(confident_rounds([1], -1))
