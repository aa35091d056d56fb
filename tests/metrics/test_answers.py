import pytest

from videoflamingo.metrics.answers import by_kind, exact_match, normalise_answer


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("guitar", ["guitar"], 1.0),
        (" Guitar\n", ["guitar"], 1.0),
        ("play  guitar", ["Play Guitar"], 1.0),
        ("two", ["2", "two"], 1.0),
        ("a guitar", ["guitar"], 0.0),
        ("guitars", ["guitar"], 0.0),
        ("guitar.", ["guitar"], 0.0),
        ("", ["guitar"], 0.0),
        ("", [""], 0.0),
        ("guitar", [], 0.0),
    ],
)
def test_an_answer_is_right_if_it_is_one_of_the_accepted_ones(
    prediction: str, answers: list[str], score: float
) -> None:
    assert exact_match(prediction, answers) == score


def test_only_case_and_spaces_are_made_alike() -> None:
    assert normalise_answer("  The  BIG\tdog's\n toy. ") == "the big dog's toy."


def test_kinds_are_averaged_each_and_all_together() -> None:
    assert by_kind([1, 0, 0.5, 1], ["b", "a", "b", ""]) == {"all": 62.5, "a": 0.0, "b": 75.0}
