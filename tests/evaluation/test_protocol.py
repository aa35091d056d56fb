"""Protocol: the paper's numbers as defaults, and what may not be asked is refused with its reason."""

import pytest

from tests.evaluation.conftest import benchmark
from videoflamingo.errors import UsageError
from videoflamingo.evaluation.protocol import CONTROLS, Protocol


def test_the_defaults_are_the_papers() -> None:
    protocol = Protocol()
    assert (protocol.num_shots, protocol.num_beams, protocol.prompts) == ((0, 4, 8, 16, 32), 3, "paper")
    kinds = ("open", "caption", "choices")
    assert [protocol.num_text_only(kind) for kind in kinds] == [2, 2, 0]


def test_controls_that_swap_are_asked_only_where_there_is_something_to_swap() -> None:
    protocol = Protocol(num_shots=(0, 1, 4))
    assert protocol.conditions(0) == protocol.conditions(1) == ("real", "no_video", "shuffled_frames")
    assert protocol.conditions(4) == ("real", *CONTROLS)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_shots": ()}, "num_shots"),
        ({"num_shots": (4, 4)}, "num_shots"),
        ({"trial_seeds": (-1,)}, "trial_seeds"),
        ({"choosing": "best"}, "choosing"),
        ({"rank_by": "length"}, "rank_by"),
        ({"controls": ("real",)}, "controls"),
        ({"query_size": 0}, "query_size"),
        ({"videoicl_threshold": 2.0}, "videoicl_threshold"),
        ({"text_weight": -0.1}, "text_weight"),
        ({"ensemble": 6, "choosing": "videoicl"}, "ensemble"),
    ],
)
def test_a_value_out_of_range_is_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Protocol(**options)  # type: ignore[arg-type]


def test_more_shots_than_examples_are_refused(videos: list[str]) -> None:
    with pytest.raises(UsageError, match="has 8 examples to show"):
        Protocol(num_shots=(32,)).for_benchmark(benchmark(videos))


def test_answers_in_words_cannot_be_averaged_over_permutations(videos: list[str]) -> None:
    with pytest.raises(UsageError, match="ensemble is 6"):
        Protocol(num_shots=(4,), ensemble=6).for_benchmark(benchmark(videos, "open"))
