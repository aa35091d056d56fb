"""The plan: which questions there are, which examples each gets, and what each condition changes in the prompt."""

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation.conftest import NUM_QUERY, NUM_SUPPORT, benchmark
from videoflamingo.errors import UsageError
from videoflamingo.evaluation.media import MediumKey
from videoflamingo.evaluation.plan import Features, Plan, Question, balance_labels
from videoflamingo.evaluation.protocol import Protocol

SHOTS = Protocol(num_shots=(0, 4))


def question(plan: Plan, condition: str = "real", num_shots: int = 4, trial: int = 0, number: int = 0) -> Question:
    return Question(condition, num_shots, trial, plan.queries[number])  # type: ignore[arg-type]


def test_every_query_is_asked_under_every_condition_and_trial(videos: list[str]) -> None:
    plan = Plan(benchmark(videos), replace(SHOTS, trial_seeds=(0, 1)))
    assert len(list(plan)) == len({one.key for one in plan}) == NUM_QUERY * 2 * (3 + 5)


def test_a_larger_draw_of_queries_holds_the_smaller_one(videos: list[str]) -> None:
    few, more = (Plan(benchmark(videos), replace(SHOTS, query_size=size)) for size in (2, 4))
    assert {one.key for one in few} < {one.key for one in more}


def test_controls_may_be_asked_of_some_queries_only(videos: list[str]) -> None:
    plan = Plan(benchmark(videos), replace(SHOTS, control_size=2))
    assert len({one.example.id for one in plan if one.condition == "no_video"}) == 2
    assert len({one.example.id for one in plan if one.condition == "real"}) == NUM_QUERY


def test_random_shots_are_the_same_for_all_questions_of_a_trial_and_fewer_are_the_first_of_more(
    videos: list[str],
) -> None:
    plan = Plan(benchmark(videos), SHOTS)
    first, second = (plan.shots(question(plan, number=number), (), None) for number in (0, 1))
    assert first == second
    assert plan.shots(question(plan, num_shots=2), (), None)[0] == first[0][:2]
    assert plan.shots(question(plan, trial=1), (), None) != first


def test_shots_drawn_for_each_question_differ(videos: list[str]) -> None:
    plan = Plan(benchmark(videos), replace(SHOTS, choosing="random-each"))
    drawn = [tuple(plan.shots(question(plan, number=number), (), None)[0]) for number in range(NUM_QUERY)]
    assert len(set(drawn)) > 1


def test_balanced_shots_have_as_many_of_each_type(videos: list[str]) -> None:
    plan = Plan(benchmark(videos), replace(SHOTS, choosing="balanced"))
    (shots,) = plan.shots(question(plan), (), None)
    assert sorted(plan.support[index].kind for index in shots) == ["even", "even", "odd", "odd"]


def test_shots_without_a_type_are_balanced_by_answer(videos: list[str]) -> None:
    support = [replace(one, kind="") for one in benchmark(videos).support]
    assert balance_labels(support) == [one.answers[0] for one in support]
    with pytest.raises(UsageError, match="has no type, but others have"):
        balance_labels([*support, benchmark(videos).support[0]])


def test_similar_shots_come_most_similar_last(videos: list[str]) -> None:
    angles = np.linspace(0.0, 1.4, NUM_SUPPORT)
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    plan = Plan(benchmark(videos), replace(SHOTS, choosing="rices"), Features(features))
    similarities = plan.similarities(np.array([[1.0, 0.0]]), None)
    assert similarities is not None
    assert plan.shots(question(plan), (), similarities[0]) == [[3, 2, 1, 0]]
    assert plan.shots(question(plan), {1}, similarities[0]) == [[4, 3, 2, 0]]


def test_videoicl_offers_bundle_after_bundle(videos: list[str]) -> None:
    protocol = replace(SHOTS, num_shots=(2,), choosing="videoicl", videoicl_rounds=3)
    plan = Plan(benchmark(videos), protocol, Features(np.eye(NUM_SUPPORT)))
    offered = plan.shots(question(plan, num_shots=2), (), -np.arange(NUM_SUPPORT))
    assert offered == [[1, 0], [3, 2], [5, 4]]


def test_the_asked_video_is_never_shown(videos: list[str]) -> None:
    boxes = benchmark(videos)
    own = replace(boxes.support[3], id="again", medium=boxes.query[0].medium)
    plan = Plan(replace(boxes, support=(*boxes.support, own)), SHOTS)
    assert plan.excluded(plan.queries[0], None, ()) == {NUM_SUPPORT}
    assert plan.excluded(plan.queries[1], None, {2}) == {2}


def test_a_prompt_without_shots_begins_with_two_examples_in_words(videos: list[str]) -> None:
    plan = Plan(benchmark(videos, "open"), SHOTS)
    one = question(plan, num_shots=0)
    (shots,) = plan.shots(one, (), None)
    asked = plan.asked(one, shots)
    assert [shown.medium for shown in asked.shots] == [None, None]
    assert asked.medium == MediumKey(one.example.medium)


def test_close_ended_prompts_without_shots_begin_with_nothing(videos: list[str]) -> None:
    plan = Plan(benchmark(videos), SHOTS)
    assert plan.shots(question(plan, num_shots=0), (), None) == [[]]


def test_without_video_all_media_are_left_out_and_all_words_stay(videos: list[str]) -> None:
    plan = Plan(benchmark(videos), SHOTS)
    real, blind = (plan.asked(question(plan, condition), [0, 1, 2, 3]) for condition in ("real", "no_video"))
    assert [one.medium for one in (*blind.shots, blind)] == [None] * 5
    assert [(one.question, one.answer) for one in blind.shots] == [(one.question, one.answer) for one in real.shots]


def test_shuffled_frames_concern_the_asked_video_only(videos: list[str]) -> None:
    plan = Plan(benchmark(videos), SHOTS)
    real, shuffled = (plan.asked(question(plan, one), [0, 1, 2, 3]) for one in ("real", "shuffled_frames"))
    assert shuffled.shots == real.shots
    assert isinstance(shuffled.medium, MediumKey)
    assert shuffled.medium.shuffled_by is not None


@pytest.mark.parametrize("condition", ["swapped_videos", "swapped_answers"])
def test_swapping_changes_shots_only(videos: list[str], condition: str) -> None:
    plan = Plan(benchmark(videos), SHOTS)
    real, swapped = (plan.asked(question(plan, one), [0, 1, 2, 3]) for one in ("real", condition))
    assert swapped.medium == real.medium
    changed = "medium" if condition == "swapped_videos" else "answer"
    for one, other in zip(swapped.shots, real.shots, strict=True):
        assert getattr(one, changed) != getattr(other, changed)
        assert replace(one, **{changed: None}) == replace(other, **{changed: None})
