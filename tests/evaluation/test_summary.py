"""The numbers of a report, against plain loops over the answers."""

import pytest

from tests.evaluation.runs import choice, choice_benchmark, chose, example, open_benchmark, said, whole_run
from videoflamingo.evaluation.scoring import score
from videoflamingo.evaluation.statistics import clustered_mean
from videoflamingo.evaluation.summary import entry_of, summarise


def test_a_score_is_the_mean_over_all_trials_with_an_interval_clustered_by_video() -> None:
    benchmark, answered = whole_run()
    entry = entry_of(summarise(score(benchmark, answered)), "real", 4)
    query = {one.id: one for one in benchmark.query}
    own = [one for one in answered if (one.condition, one.num_shots) == ("real", 4)]
    scores = [100.0 * (not one.error and one.option == query[one.id].answer_index) for one in own]
    expected = clustered_mean(scores, [query[one.id].video for one in own], (0, 100))
    assert (entry["mean"], entry["low"], entry["high"]) == pytest.approx((expected.mean, expected.low, expected.high))
    assert (entry["num_items"], entry["num_clusters"], entry["num_errors"]) == (96, 16, 6)


def test_trials_are_told_one_by_one_with_their_spread() -> None:
    benchmark = open_benchmark(example("a", "x"), example("b", "x"))
    answers = [said("a", "x"), said("b", "x"), said("a", "x", trial=1), said("b", "y", trial=1)]
    entry = entry_of(summarise(score(benchmark, answers)), "real", 0)
    assert entry["trials"] == {"0": 100.0, "1": 50.0}
    assert entry["spread"] == pytest.approx(50 / 2**0.5)


def test_a_control_is_compared_on_the_questions_both_asked() -> None:
    benchmark = open_benchmark(*(example(name, "x") for name in "abc"))
    real = [said("a", "x"), said("b", "x"), said("c", "y")]
    blind = [said("a", "y", condition="no_video"), said("b", "x", condition="no_video")]
    entry = entry_of(summarise(score(benchmark, real + blind)), "no_video", 0)
    assert entry["mean"] == 50.0
    assert entry["real_minus"]["mean"] == 50.0
    assert (entry["real_minus"]["num_better"], entry["real_minus"]["num_equal"]) == (1, 1)


def test_the_real_score_is_compared_with_the_majority() -> None:
    benchmark = open_benchmark(example("a", "x"), example("b", "y"), support=(example("s", "y"),))
    summary = summarise(score(benchmark, [said("a", "x"), said("b", "y")]))
    assert summary["baselines"]["majority"]["mean"] == 50.0
    assert entry_of(summary, "real", 0)["above"]["majority"]["mean"] == 50.0


def test_scores_are_told_by_group_where_a_benchmark_groups_its_types() -> None:
    query = (example("a", "x", kind="TN"), example("b", "x", kind="TP"), example("c", "x", kind="DC"))
    benchmark = open_benchmark(*query, groups={"TN": "temporal", "TP": "temporal"})
    entry = entry_of(summarise(score(benchmark, [said("a", "x"), said("b", "y"), said("c", "y")])), "real", 0)
    assert {group: own["mean"] for group, own in entry["groups"].items()} == {"DC": 0.0, "temporal": 50.0}


def test_options_are_told_by_every_rule() -> None:
    benchmark = choice_benchmark(choice("a", "red blue", 0), choice("b", "red blue", 1))
    also = entry_of(summarise(score(benchmark, [chose("a", -1, -2), chose("b", -1, -2)])), "real", 0)["also"]
    assert also == {"accuracy_by_sum": 50.0, "accuracy_by_mean": 50.0, "accuracy_by_characters": 50.0}


def test_a_video_that_could_not_be_read_is_listed_once_with_the_number_of_its_questions() -> None:
    benchmark, answered = whole_run(num_trials=1)
    summary = summarise(score(benchmark, answered))
    assert summary["failures"] == [
        {"video": "/videos/object/test_3.mp4", "error": "object: cannot be decoded", "num_questions": 3 * 5}
    ]


def test_answers_that_could_not_be_parsed_are_counted() -> None:
    benchmark = open_benchmark(example("a", "x"), example("b", "x"))
    assert entry_of(summarise(score(benchmark, [said("a", ""), said("b", "x")])), "real", 0)["num_unparsed"] == 1


def test_what_was_not_asked_has_no_entry() -> None:
    assert entry_of(summarise(score(open_benchmark(example("a", "x")), [said("a", "x")])), "real", 4) is None
    assert summarise(score(open_benchmark(example("a", "x")), []))["scores"] == []
