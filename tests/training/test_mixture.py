"""What a step is made of: a pure function of the recipe and the step's number, whatever the number of processes."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import TINY_CONFIG
from videoflamingo.errors import UsageError
from videoflamingo.prompt import PromptTemplate
from videoflamingo.training.loaders import PlannedPart
from videoflamingo.training.mixture import Member, Mixture
from videoflamingo.training.texts import Draw, PlannedText, Split, Texts
from videoflamingo.video.medium import MediumRequest


class Numbered(Texts):
    """Texts that say their number and epoch; nothing is read."""

    def __init__(self, size: int) -> None:
        self.train_size = size
        self.prepared = 0

    def prepare(self) -> None:
        self.prepared += 1

    def size(self, split: Split) -> int:
        return self.train_size if split == "train" else 0

    def plan(self, split: Split, index: int, draw: Draw) -> PlannedText:
        segments = PromptTemplate().ask(None, f"text {index}")
        return PlannedText(segments, [MediumRequest(f"{index}.mp4")], place=f"{index} in epoch {draw.epoch}")


def mixture(sizes: dict[str, tuple[int, int]], weights: dict[str, float] | None = None, **settings: Any) -> Mixture:
    """From dataset -> (texts, batch size)."""
    weights = weights or {}
    members = {
        name: Member(Numbered(size), batch_size, weights.get(name, 1.0)) for name, (size, batch_size) in sizes.items()
    }
    return Mixture(members, TINY_CONFIG.vision, **settings)


def places(plan: list[PlannedPart]) -> dict[str, list[list[str]]]:
    return {part.name: [[text.place for _, text in texts] for texts in part.passes] for part in plan}


def test_each_step_takes_a_batch_of_every_dataset_with_its_weight() -> None:
    own = mixture({"a": (10, 3), "b": (100, 5)}, {"b": 0.2})
    plan = own.plan_step(4)
    assert [(part.name, part.weight, [len(texts) for texts in part.passes]) for part in plan] == [
        ("a", 1.0, [3]),
        ("b", 0.2, [5]),
    ]


def test_each_dataset_is_seen_whole_before_any_text_comes_again_and_then_in_another_order() -> None:
    own = mixture({"a": (10, 4)})
    seen = [place for step in range(5) for place in places(own.plan_step(step))["a"][0]]
    epochs = [seen[:10], seen[10:]]
    for epoch, texts in enumerate(epochs):
        assert sorted(texts) == sorted(f"{index} in epoch {epoch}" for index in range(10))
    assert [text.split()[0] for text in epochs[0]] != [text.split()[0] for text in epochs[1]]


def test_a_step_is_the_same_whenever_it_is_asked_for_and_another_seed_gives_another() -> None:
    first, again = mixture({"a": (50, 4), "b": (7, 2)}), mixture({"a": (50, 4), "b": (7, 2)})
    for step in range(3):
        again.plan_step(step)
    assert places(first.plan_step(17)) == places(again.plan_step(17))
    assert places(first.plan_step(17)) != places(mixture({"a": (50, 4), "b": (7, 2)}, seed=1).plan_step(17))


@pytest.mark.parametrize("micro_batch_size", [None, 1, 2])
@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_take_together_what_one_would_in_equally_many_passes(
    num_processes: int, micro_batch_size: int | None
) -> None:
    own = mixture({"a": (50, 5), "b": (9, 1)}, micro_batch_size=micro_batch_size)
    alone = places(mixture({"a": (50, 5), "b": (9, 1)}).plan_step(3))
    shares = [places(own.plan_step(3, rank, num_processes)) for rank in range(num_processes)]
    for name, (texts,) in alone.items():
        taken = [place for share in shares for own_pass in share[name] for place in own_pass]
        assert Counter(taken) == Counter(texts)
        assert len({len(share[name]) for share in shares}) == 1
        sizes = [len(own_pass) for share in shares for own_pass in share[name]]
        assert max(sizes) <= (micro_batch_size or 5)


def test_round_robin_takes_one_dataset_after_the_other() -> None:
    own = mixture({"a": (10, 3), "b": (100, 5)}, combine="round_robin")
    assert [[part.name for part in own.plan_step(step)] for step in range(4)] == [["a"], ["b"], ["a"], ["b"]]
    together = mixture({"a": (10, 3), "b": (100, 5)})
    assert places(own.plan_step(2))["a"] == places(together.plan_step(1))["a"]


def test_merged_takes_texts_of_all_in_one_batch() -> None:
    own = mixture({"a": (10, 3), "b": (100, 5)}, combine="merged")
    (part,) = own.plan_step(0)
    assert (part.name, part.weight) == ("merged", 1.0)
    assert Counter(name for name, _ in part.passes[0]) == {"a": 3, "b": 5}


def test_merging_knows_no_weights() -> None:
    with pytest.raises(UsageError, match=r"combine is 'merged', which .* has no weights, but b has one"):
        mixture({"a": (10, 3), "b": (10, 3)}, {"b": 0.5}, combine="merged")


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({}, 20), ({"combine": "round_robin"}, 40), ({"combine": "merged"}, 20), ({"steps_per_epoch": 7}, 7)],
)
def test_an_epoch_is_as_long_as_the_longest_dataset_needs(settings: dict[str, Any], steps: int) -> None:
    assert mixture({"a": (10, 3), "b": (100, 5)}, **settings).steps_per_epoch == steps


def test_a_dataset_without_training_texts_is_named() -> None:
    with pytest.raises(UsageError, match=r"data\.members.b: there is nothing to train on"):
        mixture({"a": (10, 3), "b": (0, 5)}).setup("fit")


def test_datasets_are_prepared_once_each() -> None:
    own = mixture({"a": (10, 3), "b": (10, 5)})
    own.prepare_data()
    assert [member.texts.prepared for member in own.members.values() if isinstance(member.texts, Numbered)] == [1, 1]


def test_all_media_of_a_split_are_named_for_the_cache() -> None:
    requests = list(mixture({"a": (3, 3), "b": (2, 5)}).media_requests(["train", "validate"]))
    assert [request.name for request in requests] == ["0.mp4", "1.mp4", "2.mp4", "0.mp4", "1.mp4"]


def test_without_a_test_split_testing_names_what_to_do() -> None:
    with pytest.raises(UsageError, match="no dataset of this recipe has a test split; use `videoflamingo validate`"):
        mixture({"a": (3, 3)}, num_workers=0).test_dataloader()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"micro_batch_size": 0}, "data.micro_batch_size is 0; give 1 or more"),
        ({"num_workers": -1}, "data.num_workers is -1; give 0 or more"),
        ({"max_failed_share": 1.5}, "data.max_failed_share is 1.5; give a share from 0 to 1"),
        ({"seed": -1}, "data.seed is -1; give 0 or more"),
    ],
)
def test_options_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mixture({"a": (3, 3)}, **settings)


def test_a_mixture_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"data\.members is empty"):
        mixture({})


@pytest.mark.parametrize(("batch_size", "weight", "message"), [(0, 1.0, "batch_size=0"), (1, 0.0, "weight=0.0")])
def test_a_members_numbers_are_checked(batch_size: int, weight: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        Member(Numbered(1), batch_size, weight)
