"""Intervals, spread and paired tests, against tables and plain loops."""

import itertools
import math

import numpy as np
import pytest

from videoflamingo.evaluation.statistics import clustered_mean, over_trials, paired_difference, student_quantile

# Published tables of Student's distribution, two-sided 95 %.
STUDENT = {1: 12.7062, 2: 4.3027, 3: 3.1824, 5: 2.5706, 10: 2.2281, 29: 2.0452, 30: 2.0423, 120: 1.9799, 5000: 1.9600}


def answers(num_videos: int, right: float = 0.3, seed: int = 0) -> tuple[list[float], list[str]]:
    """Scores of 1 to 10 questions about each of some videos, alike within a video."""
    rng = np.random.default_rng(seed)
    scores, videos = [], []
    for video in range(num_videos):
        share = rng.beta(2 * right, 2 * (1 - right))
        for _ in range(rng.integers(1, 11)):
            scores.append(100.0 * (rng.random() < share))
            videos.append(f"video {video}")
    return scores, videos


def clustered_error(scores: list[float], videos: list[str]) -> float:
    """The clustered standard error, as one writes it on paper."""
    mean = sum(scores) / len(scores)
    total = 0.0
    for video in set(videos):
        residual = sum(score - mean for score, own in zip(scores, videos, strict=True) if own == video)
        total += residual * residual
    clusters = len(set(videos))
    return math.sqrt(clusters / (clusters - 1) * total) / len(scores)


@pytest.mark.parametrize(("degrees", "quantile"), STUDENT.items())
def test_students_quantile_is_that_of_the_tables(degrees: int, quantile: float) -> None:
    assert student_quantile(degrees) == pytest.approx(quantile, abs=6e-5)


def test_without_bounds_the_interval_is_students_quantile_of_the_clustered_error() -> None:
    scores, videos = answers(12)
    estimate = clustered_mean(scores, videos)
    half = student_quantile(11) * clustered_error(scores, videos)
    assert estimate.mean == pytest.approx(sum(scores) / len(scores))
    assert (estimate.low, estimate.high) == pytest.approx((estimate.mean - half, estimate.mean + half))
    assert (estimate.num_items, estimate.num_clusters) == (len(scores), 12)


def test_with_independent_items_the_interval_is_wilsons() -> None:
    """Ten right of 50, each about its own video: Wilson's interval with Student's quantile, by its textbook formula."""
    scores, z = [100.0] * 10 + [0.0] * 40, student_quantile(49)
    number = 50 * 49 / 50  # the sample variance divides by one less
    centre = (10 / 50 + z * z / 2 / number) / (1 + z * z / number)
    half = z / (1 + z * z / number) * math.sqrt(0.2 * 0.8 / number + z * z / 4 / number**2)
    estimate = clustered_mean(scores, range(50), (0, 100))
    assert (estimate.low, estimate.high) == pytest.approx((100 * (centre - half), 100 * (centre + half)))


def test_with_many_videos_the_interval_is_that_of_a_bootstrap_over_videos() -> None:
    scores, videos = answers(400)
    rng = np.random.default_rng(1)
    by_video: dict[str, list[float]] = {}
    for score, video in zip(scores, videos, strict=True):
        by_video.setdefault(video, []).append(score)
    own = list(by_video.values())
    means = []
    for _ in range(1500):
        drawn = [own[index] for index in rng.integers(0, len(own), len(own))]
        means.append(sum(map(sum, drawn)) / sum(map(len, drawn)))
    estimate = clustered_mean(scores, videos, (0, 100))
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.6)


def test_questions_about_one_video_say_less_than_as_many_about_different_ones() -> None:
    scores = [100.0] * 10 + [0.0] * 30
    together = clustered_mean(scores, [index // 10 for index in range(40)], (0, 100))
    apart = clustered_mean(scores, range(40), (0, 100))
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_an_interval_stays_within_the_bounds_and_holds_the_mean() -> None:
    for right, seed in itertools.product((0.02, 0.5, 0.98), range(20)):
        scores, videos = answers(6, right, seed)
        estimate = clustered_mean(scores, videos, (0, 100))
        assert 0 <= estimate.low <= estimate.mean <= estimate.high <= 100


def test_all_wrong_is_not_certainty() -> None:
    estimate = clustered_mean([0.0] * 60, [index // 3 for index in range(60)], (0, 100))
    assert estimate.low == 0 and 5 < estimate.high < 25  # of 20 videos: the rule of three gives 15


def test_trials_of_the_same_questions_are_no_new_videos() -> None:
    scores, videos = answers(30)
    once, thrice = clustered_mean(scores, videos, (0, 100)), clustered_mean(scores * 3, videos * 3, (0, 100))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))


def test_one_video_has_a_mean_and_no_interval() -> None:
    estimate = clustered_mean([0.0, 100.0], ["a", "a"], (0, 100))
    assert (estimate.mean, estimate.low, estimate.high) == (50.0, None, None)


def test_spread_over_trials_is_the_sample_standard_deviation() -> None:
    trials = over_trials([1.0, 2.0, 6.0])
    assert (trials.mean, trials.spread) == pytest.approx((3.0, math.sqrt((4 + 1 + 9) / 2)))
    assert over_trials([5.0]).spread is None


def test_few_videos_are_compared_by_all_signs() -> None:
    first, second, videos = [0, 0, 100, 0, 0, 100], [100, 100, 100, 0, 100, 0], ["a", "a", "b", "c", "d", "e"]
    sums = {"a": 200, "d": 100, "e": -100}
    totals = [
        abs(sum(s * v for s, v in zip(signs, sums.values(), strict=True)))
        for signs in itertools.product((-1, 1), repeat=3)
    ]
    difference = paired_difference(first, second, videos)
    assert difference.p_value == sum(total >= 200 for total in totals) / 8
    assert (difference.num_better, difference.num_worse, difference.num_equal) == (3, 1, 2)
    assert difference.estimate.mean == pytest.approx(200 / 6)


def test_drawn_signs_give_the_p_value_of_all_signs() -> None:
    rng = np.random.default_rng(3)
    sums = np.round(rng.normal(0.5, 1, 15), 2)
    signs = np.array(list(itertools.product((-1, 1), repeat=15)))
    exact = (np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9).mean()
    drawn = paired_difference([0.0] * 15, sums.tolist(), range(15)).p_value
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 10_000))


def test_equal_runs_do_not_differ() -> None:
    scores, videos = answers(30)
    difference = paired_difference(scores, scores, videos)
    assert (difference.estimate.mean, difference.p_value, difference.num_equal) == (0.0, 1.0, len(scores))


def test_a_difference_between_many_videos_is_found() -> None:
    scores, videos = answers(200)
    worse = [0.0 if index % 2 else score for index, score in enumerate(scores)]
    difference = paired_difference(scores, worse, videos)
    assert difference.p_value < 0.001 and difference.estimate.high < 0


@pytest.mark.parametrize("wrong", [([], []), ([1.0], []), ([1.0], ["a", "b"])])
def test_scores_without_their_clusters_are_refused(wrong: tuple[list[float], list[str]]) -> None:
    with pytest.raises(ValueError, match="needs a cluster for each"):
        clustered_mean(*wrong)
