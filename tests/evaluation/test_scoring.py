"""Scores of answers: right, wrong, not read, not parsed; options by every rule; what the majority scores."""

import math
from collections import Counter

import pytest

from tests.evaluation.runs import choice, choice_benchmark, chose, example, open_benchmark, said
from videoflamingo.errors import UsageError
from videoflamingo.evaluation.benchmark import Benchmark
from videoflamingo.evaluation.results import Answered, ChoiceScore
from videoflamingo.evaluation.scoring import Majority, Sample, best_option, score
from videoflamingo.metrics.wordnet import WordNetMissing, find_wordnet


def samples(benchmark: Benchmark, *answered: Answered, **options: str) -> list[Sample]:
    """Of the only cell."""
    (cell,) = score(benchmark, answered, **options).cells
    return list(cell.samples)


def test_an_answer_in_words_is_right_if_it_is_any_accepted_one_but_for_case_and_space() -> None:
    benchmark = open_benchmark(example("a", "dog", "puppy"), example("b", "dog"), example("c", "red bus"))
    scores = [one.score for one in samples(benchmark, said("a", "Puppy"), said("b", "a dog"), said("c", " red  bus"))]
    assert scores == [100.0, 0.0, 100.0]


def test_an_empty_answer_is_wrong_and_counted_as_unparsed() -> None:
    (one,) = samples(open_benchmark(example("a", "dog")), said("a", "  "))
    assert (one.score, one.unparsed, one.answer) == (0.0, True, "")


def test_a_video_that_could_not_be_read_is_wrong_and_not_unparsed() -> None:
    benchmark = choice_benchmark(choice("a", "red blue", 0))
    (one,) = samples(benchmark, Answered("real", 0, 0, "a", error="a.mp4: cannot be read"))
    assert (one.score, one.unparsed) == (0.0, False)


def test_options_are_ranked_by_sum_by_token_or_by_character() -> None:
    benchmark = choice_benchmark(choice("a", "aa bb cc", 1))
    choices = (ChoiceScore(-2.0, 1, 4), ChoiceScore(-3.0, 3, 10), ChoiceScore(-2.5, 1, 20))
    answered = Answered("real", 0, 0, "a", "aa", 0, choices)
    rules = {"sum": "aa", "mean": "bb", "characters": "cc"}
    assert {rule: samples(benchmark, answered, rank_by=rule)[0].answer for rule in rules} == rules


def test_of_equal_options_the_first_is_chosen() -> None:
    assert best_option([ChoiceScore(-2.0, 1, 1), ChoiceScore(-1.0, 1, 1), ChoiceScore(-1.0, 1, 1)]) == 1
    assert best_option([ChoiceScore(-math.inf, 1, 1)] * 3) == 0


def test_options_with_a_probability_that_is_no_number_are_unparsed_not_guessed() -> None:
    benchmark = choice_benchmark(choice("a", "red blue", 0))
    choices = (ChoiceScore(-1.0, 1, 1), ChoiceScore(math.nan, 1, 1))
    (one,) = samples(benchmark, Answered("real", 0, 0, "a", "red", 0, choices))
    assert (one.score, one.unparsed, one.answer) == (0.0, True, "")


def test_cells_are_by_condition_shots_and_trial_and_keep_the_benchmarks_order() -> None:
    benchmark = open_benchmark(example("a", "x"), example("b", "x"))
    scored = score(
        benchmark, [said("b", "x", 8), said("a", "x", trial=1), said("a", "y", 8), said("a", "x", condition="no_video")]
    )
    assert [(cell.condition, cell.num_shots, cell.trial) for cell in scored.cells] == [
        ("real", 0, 1),
        ("real", 8, 0),
        ("no_video", 0, 0),
    ]
    assert [one.example.id for one in scored.cells[1].samples] == ["a", "b"]
    assert scored.cells[1].mean == 50.0


def test_results_of_another_benchmark_are_refused() -> None:
    with pytest.raises(UsageError, match="'b', which benchmark own does not ask"):
        score(open_benchmark(example("a", "x")), [said("b", "x")])
    with pytest.raises(UsageError, match="answered with 3 options, but has 2"):
        score(choice_benchmark(choice("a", "red blue", 0)), [chose("a", -1, -2, -3)])


def test_the_majority_answer_is_the_supports_most_frequent_first_answer_and_the_earliest_of_equal_ones() -> None:
    support = (example("s1", "Cat"), example("s2", "dog", "cat"), example("s3", "dog"), example("s4", "cat"))
    assert Majority(support).answer(example("a", "x")) == "Cat"
    scored = score(open_benchmark(example("a", "cat"), example("b", "dog"), support=support), [said("a", "?")])
    assert scored.baselines == {"majority": {"a": 100.0}}  # `b` was not asked


def test_the_majority_of_a_type_knows_the_type() -> None:
    support = (example("s1", "yes", kind="is"), example("s2", "two", kind="count"), example("s3", "yes", kind="is"))
    query = (example("a", "two", kind="count"), example("b", "yes", kind="is"), example("c", "yes", kind="new"))
    scored = score(open_benchmark(*query, support=support), [said(name, "?") for name in "abc"])
    assert scored.baselines["majority"] == {"a": 0.0, "b": 100.0, "c": 100.0}
    assert scored.baselines["majority_of_kind"] == {"a": 100.0, "b": 100.0, "c": 100.0}


def test_of_options_the_majority_is_the_text_most_often_right() -> None:
    support = (choice("s1", "red blue", 1), choice("s2", "blue red", 0), choice("s3", "red blue", 0))
    assert Majority(support).answer(choice("a", "green red blue", 0)) == "blue"


def test_where_no_option_was_ever_right_the_majority_is_the_place_most_often_right() -> None:
    support = (choice("s1", "red blue", 1), choice("s2", "blue red", 1), choice("s3", "red blue", 0))
    assert Majority(support).answer(choice("a", "one two three", 0)) == "two"


def test_chance_is_one_over_the_number_of_options() -> None:
    benchmark = choice_benchmark(choice("a", "red blue", 0), choice("b", "a b c d", 0))
    assert score(benchmark, [chose("a", -1, -2), chose("b", -1, -2, -3, -4)]).chance == {"a": 50.0, "b": 25.0}
    assert score(open_benchmark(example("a", "x")), [said("a", "x")]).chance is None


CAPTIONS = {
    "a": ("a man is riding a red horse", "a man rides a horse"),
    "b": ("two dogs play with a ball", "dogs are playing outside"),
    "c": ("a woman cooks soup in a kitchen", "someone is cooking"),
}


def caption_benchmark(names: str = "abc") -> Benchmark:
    query = [example(name, *CAPTIONS[name], question=None) for name in names]
    return open_benchmark(*query, answer_kind="caption", metric="captions")


def cider_d(caption: str, references: tuple[str, ...], corpus: list[tuple[str, ...]]) -> float:
    """CIDEr-D x 100 of one caption, n-gram by n-gram."""

    def grams(text: str, n: int) -> Counter[tuple[str, ...]]:
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    total = 0.0
    for n in range(1, 5):

        def weight(gram: tuple[str, ...], n: int = n) -> float:
            videos = sum(any(gram in grams(text, n) for text in texts) for texts in corpus)
            return math.log(len(corpus)) - math.log(max(1, videos))

        said = {gram: count * weight(gram) for gram, count in grams(caption, n).items()}
        for reference in references:
            right = {gram: count * weight(gram) for gram, count in grams(reference, n).items()}
            norms = [math.sqrt(sum(value**2 for value in values.values())) for values in (said, right)]
            if all(norms):
                common = sum(min(value, right.get(gram, 0.0)) * right.get(gram, 0.0) for gram, value in said.items())
                shorter = len(caption.split()) - len(reference.split())
                total += common / norms[0] / norms[1] * math.exp(-(shorter**2) / (2 * 6**2)) / len(references)
    return 10 * 100 * total / 4


def test_captions_score_cider_d_and_a_failed_video_scores_nothing() -> None:
    answers = {"a": "a man rides a red horse", "b": "a dog with a ball"}
    failed = Answered("real", 0, 0, "c", error="c.mp4: cannot be read")
    found = samples(caption_benchmark(), *(said(name, text) for name, text in answers.items()), failed)
    expected = [cider_d(answers[name], CAPTIONS[name], list(CAPTIONS.values())) for name in answers]
    assert [one.score for one in found] == pytest.approx([*expected, 0.0], abs=1e-6)


def test_the_score_of_a_caption_does_not_depend_on_which_others_were_asked() -> None:
    answers = [said("a", "a man rides a red horse"), said("b", "a dog with a ball"), said("c", "a soup")]
    alone, together = samples(caption_benchmark(), answers[0]), samples(caption_benchmark(), *answers)
    assert alone[0].score == pytest.approx(together[0].score) and alone[0].score > 0


def test_captions_have_bleu_and_rouge_l_beside_the_headline() -> None:
    (cell,) = score(caption_benchmark(), [said(name, texts[0]) for name, texts in CAPTIONS.items()]).cells
    assert list(cell.corpus) == ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l"]
    assert list(cell.corpus.values()) == pytest.approx([100.0] * 5, abs=1e-3)


def test_open_answers_may_be_scored_by_the_likeness_of_their_words() -> None:
    try:
        find_wordnet()
    except WordNetMissing as error:
        pytest.skip(f"needs WordNet's files: {error}")
    query = (example("a", "dog", "cat", kind="DO"), example("b", "two", kind="DC"), example("c", "dog", kind="DO"))
    benchmark = open_benchmark(*query, metric="wups")
    scores = [one.score for one in samples(benchmark, said("a", "cat"), said("b", "three"), said("c", "puppy"))]
    assert scores[:2] == [100.0, 0.0]  # any reference counts; of a number only the number
    assert 50 < scores[2] < 100
