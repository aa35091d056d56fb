"""Decoding against oracles: probabilities written down in the test, and a search through every sequence there is."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import bigram_flamingo, encode, random_visual_tokens, run, tiny_flamingo
from videoflamingo.errors import UsageError
from videoflamingo.generation import Generated, generate, score_choices
from videoflamingo.models.flamingo import Flamingo
from videoflamingo.prompt import EncodedPrompt, Medium, Text

# After "?", the likelier letter leads to the less likely sentence.
GARDEN_PATH = {
    "?": {"a": 0.6, "b": 0.4},
    "a": {"x": 0.5, "y": 0.5},
    "b": {"z": 1.0},
    "x": {"EOC": 1.0},
    "y": {"EOC": 1.0},
    "z": {"EOC": 1.0},
}


def answer(model: Flamingo, text: str, **settings: int | float | bool) -> tuple[str, Generated]:
    """What follows the text; `$` is the end of chunk and `.` the end of text."""
    (generated,) = generate(model, [encode(model, [Text(text)])], **settings)
    ends = {model.end_of_chunk_id: "$", model.tokenizer.eos_token_id: "."}
    return "".join(ends.get(t) or model.tokenizer.decode([t]) for t in generated.token_ids), generated


def test_greedy_takes_the_likeliest_token_each_time() -> None:
    text, generated = answer(bigram_flamingo({**GARDEN_PATH, "a": {"x": 0.7, "y": 0.3}}, media_tag=""), "?")
    assert text == "ax$"
    expected = [math.log(0.6), math.log(0.7), 0.0]
    assert generated.log_probabilities == pytest.approx(expected, abs=1e-4)
    assert generated.score == pytest.approx(sum(expected) / 3, abs=1e-4)


def test_beam_search_finds_the_likelier_sentence_that_greedy_misses() -> None:
    text, generated = answer(bigram_flamingo(GARDEN_PATH, media_tag=""), "?", num_beams=2)
    assert text == "bz$"
    assert sum(generated.log_probabilities) == pytest.approx(math.log(0.4), abs=1e-4)


def test_the_length_penalty_chooses_between_means_and_sums() -> None:
    start = {"?": {"a": 0.5, "b": 0.5}, "a": {"EOC": 0.6, "x": 0.4}, "x": {"x": 0.5, "EOC": 0.5}}
    longer = {"b": {"y": 0.9, "EOC": 0.1}, "y": {"y": 0.8, "EOC": 0.2}}
    model = bigram_flamingo({**start, **longer}, media_tag="")
    sums, _ = answer(model, "?", num_beams=4, length_penalty=0.0, max_new_tokens=8)
    means, _ = answer(model, "?", num_beams=4, length_penalty=1.0, max_new_tokens=8)
    assert sums == "a$"  # 0.5 x 0.6
    assert means == "byyyyyyy"  # cut off at the limit, it competes with those that ended


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(("end", "sign"), [("EOC", "$"), ("EOS", ".")])
def test_an_answer_stops_at_either_end(num_beams: int, end: str, sign: str) -> None:
    model = bigram_flamingo(
        {"?": {"a": 1.0}, "a": {"b": 1.0}, "b": {end: 0.9, "c": 0.1}, "c": {"c": 1.0}}, media_tag=""
    )
    assert answer(model, "?", num_beams=num_beams)[0] == f"ab{sign}"


def test_an_answer_without_an_end_stops_at_the_limit() -> None:
    model = bigram_flamingo({"?": {"a": 1.0}, "a": {"b": 1.0}, "b": {"a": 1.0}}, media_tag="")
    assert answer(model, "?", max_new_tokens=5)[0] == "ababa"


TAG = dict(zip("?<image", [{letter: 0.9, "o": 0.1} for letter in "<image>"], strict=True))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_media_tag_is_never_generated_however_likely(num_beams: int) -> None:
    following = {**TAG, ">": {"EOC": 1.0}, "o": {"EOC": 1.0}}
    free = bigram_flamingo(following, media_tag="")
    assert answer(free, "?", num_beams=num_beams)[0] == "<image>$"
    banned = bigram_flamingo(following, media_tag="<image>")
    assert "<image>" not in answer(banned, "?", num_beams=num_beams)[0]
    assert answer(banned, "?")[0] == "<imageo$"  # up to its last letter nothing is wrong


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_media_tag_of_one_token_is_never_generated(num_beams: int) -> None:
    model = bigram_flamingo({"?": {"#": 0.9, "o": 0.1}, "#": {"EOC": 1.0}, "o": {"EOC": 1.0}}, media_tag="#")
    assert answer(model, "?", num_beams=num_beams)[0] == "o$"


def test_the_last_letter_of_the_tag_is_free_elsewhere() -> None:
    model = bigram_flamingo({"?": {">": 1.0}, ">": {"EOC": 1.0}, "<": {}, "i": {}}, media_tag="<i>")
    assert answer(model, "?")[0] == ">$"


LETTERS = "abc"


@pytest.fixture
def three_letters() -> Flamingo:
    """A random model with all its context, to which only three letters and the two ends are open."""
    model = tiny_flamingo(seed=3)
    head = model.language_model.lm_head
    open_tokens = [model.tokenizer.eos_token_id, *model.tokenizer(LETTERS, add_special_tokens=False)["input_ids"]]
    biased = nn.Linear(head.in_features, head.out_features)
    with torch.no_grad():
        biased.weight.copy_(head.weight)
        biased.bias.fill_(-1e4)
        biased.bias[open_tokens] = 0.0
    model.language_model.lm_head = biased.requires_grad_(False)
    return model


def all_sentences(model: Flamingo, prompt: EncodedPrompt, visual_tokens: Tensor, longest: int) -> dict[tuple, float]:
    """Every sequence of up to `longest` tokens that ends -> its log-probability, each by plain passes."""
    letters = model.tokenizer(LETTERS, add_special_tokens=False)["input_ids"]
    found = {}
    for length in range(longest):
        for start in itertools.product(letters, repeat=length):
            ids = [*prompt.token_ids, *start]
            index = [*prompt.media_index, *[prompt.media_index[-1]] * length]
            values = run(model, EncodedPrompt(ids, index, [False] * len(ids), 1), visual_tokens).log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) - 1 + length)
            total = sum(float(values[place, token]) for place, token in zip(places, start, strict=True))
            for end in (model.end_of_chunk_id, model.tokenizer.eos_token_id):
                found[(*start, end)] = total + float(values[-1, end])
    return found


@pytest.mark.parametrize("length_penalty", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_beam_wide_enough_finds_the_best_of_all_sentences(
    three_letters: Flamingo, length_penalty: float, seed: int
) -> None:
    longest = 4
    prompt = encode(three_letters, [Medium(), Text("Output:")])
    visual_tokens = random_visual_tokens(three_letters, 1, 1, seed)
    sentences = all_sentences(three_letters, prompt, visual_tokens, longest)
    assert len(sentences) == 2 * (1 + 3 + 9 + 27)
    best = max(sentences, key=lambda sentence: sentences[sentence] / len(sentence) ** length_penalty)
    (found,) = generate(
        three_letters,
        [prompt],
        visual_tokens,
        max_new_tokens=longest,
        num_beams=27,  # every unfinished start there is
        length_penalty=length_penalty,
    )
    assert tuple(found.token_ids) == best
    assert sum(found.log_probabilities) == pytest.approx(sentences[best], abs=1e-4)


@pytest.mark.parametrize("num_beams", [2, 3])
def test_a_narrow_beam_keeps_the_best_starts(three_letters: Flamingo, num_beams: int) -> None:
    """Against a beam search over lists, with a plain pass for each start."""
    prompt = encode(three_letters, [Medium(), Text("Output:")])
    visual_tokens = random_visual_tokens(three_letters, 1, 1)
    (found,) = generate(three_letters, [prompt], visual_tokens, max_new_tokens=6, num_beams=num_beams)
    assert found.token_ids == plain_beam_search(three_letters, prompt, visual_tokens, 6, num_beams)


def plain_beam_search(
    model: Flamingo, prompt: EncodedPrompt, visual_tokens: Tensor, max_new_tokens: int, num_beams: int
) -> list[int]:
    stops = (model.end_of_chunk_id, model.tokenizer.eos_token_id)
    beams: list[tuple[list[int], float]] = [([], 0.0)]
    finished: list[tuple[list[int], float]] = []

    def mean(beam: tuple[list[int], float]) -> float:
        return beam[1] / len(beam[0])

    for _ in range(max_new_tokens):
        longer = []
        for tokens, total in beams:
            ids = [*prompt.token_ids, *tokens]
            index = [*prompt.media_index, *[prompt.media_index[-1]] * len(tokens)]
            values = run(model, EncodedPrompt(ids, index, [False] * len(ids), 1), visual_tokens)[-1].log_softmax(-1)
            longer += [([*tokens, token], total + value) for token, value in enumerate(values.tolist())]
        longer.sort(key=lambda beam: beam[1], reverse=True)
        beams = [beam for beam in longer if beam[0][-1] not in stops][:num_beams]
        last = longer.index(beams[-1])
        finished += [beam for beam in longer[: max(last, 3 * num_beams)] if beam[0][-1] in stops]
        finished = sorted(finished, key=mean, reverse=True)[:num_beams]
        if len(finished) == num_beams and mean(finished[-1]) >= max(map(mean, beams)):
            break
    return max(finished or beams, key=mean)[0]


@pytest.mark.parametrize("name", ["max_new_tokens", "num_beams"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_bound_below_one_is_refused(name: str, value: int) -> None:
    model = tiny_flamingo()
    with pytest.raises(UsageError, match=f"{name} is {value}; give 1 or more"):
        generate(model, [encode(model, [Text("a")])], **{name: value})


def test_choices_are_scored_by_the_probabilities_of_their_tokens() -> None:
    model = bigram_flamingo({"?": {"a": 0.6, "b": 0.4}, "a": {"b": 0.25, "EOC": 0.75}, "b": {"EOC": 1.0}}, media_tag="")
    a, b = model.tokenizer("ab", add_special_tokens=False)["input_ids"]
    end = model.end_of_chunk_id
    ((one, other, third),) = score_choices(model, [encode(model, [Text("?")])], [[[a, end], [a, b, end], [b]]])
    assert one.log_probabilities == pytest.approx([math.log(0.6), math.log(0.75)], abs=1e-4)
    assert other.log_probabilities == pytest.approx([math.log(0.6), math.log(0.25), 0.0], abs=1e-4)
    assert third.log_probabilities == pytest.approx([math.log(0.4)], abs=1e-4)


def test_scoring_a_generated_answer_gives_back_its_log_probabilities() -> None:
    model = tiny_flamingo()
    prompt, media = encode(model, [Medium(), Text("Output:")]), random_visual_tokens(model, 1, 1)
    (generated,) = generate(model, [prompt], media, max_new_tokens=6, num_beams=3)
    ((scored,),) = score_choices(model, [prompt], [[generated.token_ids]], media)
    assert scored.log_probabilities == pytest.approx(generated.log_probabilities, abs=1e-4)


@pytest.mark.parametrize("choices", [[], [[]], [[[]]], [[[5], []]]], ids=str)
def test_choices_that_are_missing_or_empty_are_refused(choices: Sequence[Sequence[list[int]]]) -> None:
    model = tiny_flamingo()
    with pytest.raises(UsageError, match="at least one choice, and every choice at least one token"):
        score_choices(model, [encode(model, [Text("a")])], choices)
