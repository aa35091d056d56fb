"""From clips and words to answers, with models whose answers are known beforehand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_generation import GARDEN_PATH, Spelling, passes
from tests.tiny import bigram_flamingo, run, tiny_flamingo
from videoflamingo.clip import Clip
from videoflamingo.decoding import answer_text
from videoflamingo.errors import ModelError, UsageError
from videoflamingo.generation import generate
from videoflamingo.pipeline import VideoFlamingo, choose_device, choose_dtype, distinct_frames, load
from videoflamingo.prompt import EncodedPrompt, PromptTemplate, Shot

CPU = torch.device("cpu")


def clip(*greys: int, times: list[float] | None = None) -> Clip:
    """One frame of 40 x 30 pixels for each grey."""
    frames = np.stack([np.full((3, 30, 40), grey, np.uint8) for grey in greys])
    return Clip(frames, np.array(times or list(range(len(greys))), np.float64))


@pytest.fixture
def dog() -> VideoFlamingo:
    """Says " dog" after ":", and then stops with four to one."""
    sentence = {":": {" ": 1.0}, " ": {"d": 1.0}, "d": {"o": 1.0}, "o": {"g": 1.0}, "g": {"EOC": 0.8, "Q": 0.2}}
    alphabet = {letter: {"EOC": 1.0} for letter in "<image>Output:QuestionAnswer? .cat"}
    return VideoFlamingo(bigram_flamingo({**alphabet, **sentence}))


def test_a_caption_is_what_the_model_says(dog: VideoFlamingo) -> None:
    assert dog.caption(clip(0, 100)) == "dog"


def test_a_question_is_answered_after_shots(dog: VideoFlamingo) -> None:
    assert dog.ask(clip(0), "Question?", shots=[Shot(clip(7, 8), "Question?", "cat")]) == "dog"


@pytest.mark.parametrize("num_beams", [1, 3])
def test_an_answer_has_its_mean_log_probability_and_length(dog: VideoFlamingo, num_beams: int) -> None:
    answer = dog.answer(clip(0), None, num_beams=num_beams)
    assert answer.text == "dog"
    assert answer.num_tokens == 5  # a space, three letters and the end of chunk
    assert answer.score == pytest.approx(math.log(0.8) / 5, abs=1e-4)
    assert answer.sum == pytest.approx(math.log(0.8), abs=1e-4)


def test_an_answer_is_cut_at_a_stop_word(dog: VideoFlamingo) -> None:
    stopping = VideoFlamingo(dog.model, template=PromptTemplate(stop_words=("og",)))
    assert stopping.caption(clip(0)) == "d"
    assert stopping.answer(clip(0), None).num_tokens == 4  # and ends there
    assert dog.caption(clip(0), stop_words=["g"]) == "do"


def test_an_answer_ends_at_the_next_prompt_instead_of_going_on_to_the_limit() -> None:
    sentence = "adogQui:"
    model = bigram_flamingo({before: {after: 1.0} for before, after in zip(f":{sentence}", sentence, strict=False)})
    shapes = passes(model)
    asked = VideoFlamingo(model, template=PromptTemplate(stop_words=("Qui:",)))
    assert asked.caption(clip(0), num_beams=1, max_new_tokens=200) == "adog"
    assert len(shapes) == len(sentence)
    assert asked.caption(clip(0), num_beams=3) == "adog"


def test_greedy_answers_are_what_they_would_be_without_stopping_early() -> None:
    words = ("e", "T", "##")
    for seed in range(10):
        model = tiny_flamingo(seed=seed)
        asked = VideoFlamingo(model, template=PromptTemplate(stop_words=words))
        (whole,) = generate(model, [asked.encode_prompt("who?")], asked.encode_clips([clip(seed)]), max_new_tokens=20)
        expected = asked.template.trim(answer_text(model, whole.token_ids))
        assert asked.ask(clip(seed), "who?", num_beams=1, max_new_tokens=20) == expected


def test_answers_are_searched_with_three_beams_unless_told_otherwise() -> None:
    model = VideoFlamingo(bigram_flamingo({":": GARDEN_PATH["?"], **GARDEN_PATH}, media_tag=""))
    assert model.ask(clip(0), "") == "bz"
    assert model.ask(clip(0), "", num_beams=1) == "ax"
    assert model.ask(clip(0), "", top_k=1) in ("ax", "ay")


def test_several_answers_can_be_drawn_of_one_clip() -> None:
    model = VideoFlamingo(bigram_flamingo({":": GARDEN_PATH["?"], **GARDEN_PATH}, media_tag=""))
    drawn = model.answers(clip(0), "", temperature=1.0, seed=1, num_samples=20)
    assert {answer.text for answer in drawn} == {"ax", "ay", "bz"}
    for answer in drawn:  # the mean of the model's own log-probabilities
        assert answer.score == pytest.approx(math.log(0.4 if answer.text == "bz" else 0.3) / 3, abs=1e-4)
    assert drawn[0] == model.answer(clip(0), "", temperature=1.0, seed=1)
    with pytest.raises(UsageError, match="num_samples is 20, but this gives one answer; call answers"):
        model.answer(clip(0), "", temperature=1.0, num_samples=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, r"temperature is 0\.0; give more than 0"),
        ({"temperature": 1.0, "num_beams": 3}, "num_beams is 3, but temperature, top_k and top_p draw tokens instead"),
        ({"stop_words": "end"}, "stop_words is 'end'; give a list of texts"),
    ],
)
def test_a_wrong_option_is_refused(dog: VideoFlamingo, options: dict[str, Any], message: str) -> None:
    for use in (dog.ask, dog.answers, dog.stream):
        with pytest.raises(UsageError, match=message):
            use(clip(0), "Question?", **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"top_p": 0.9, "seed": 4}, {"stop_words": ["e", "ab"]}, {"banned": ["e"], "top_k": 9, "seed": 1}],
    ids=str,
)
def test_the_pieces_of_a_stream_are_the_answer(options: dict[str, Any]) -> None:
    num_pieces = 0
    for seed in range(6):
        model = VideoFlamingo(tiny_flamingo(seed=seed))
        shots = [Shot(clip(seed), "who?", "a cat")]
        pieces = list(model.stream(clip(0, 9), "who?", shots=shots, **options))
        assert "".join(pieces) == model.ask(clip(0, 9), "who?", shots=shots, **{"num_beams": 1, **options})
        assert all(pieces)
        num_pieces += len(pieces)
    assert num_pieces > 20


def test_a_stream_shows_no_half_of_a_character() -> None:
    bytes_of = "ĠÃ©ðŁİĪx"  # of " é🎈x", as GPT-2 writes them
    following = {before: {after: 1.0} for before, after in zip(f":{bytes_of}", bytes_of, strict=False)}
    model = VideoFlamingo(Spelling({**following, "x": {"EOC": 1.0}}).flamingo(byte_level=True, media_tag=""))
    assert list(model.stream(clip(0), None)) == ["é", "🎈", "x"]
    assert model.caption(clip(0)) == "é🎈x"
    assert list(model.stream(clip(0), None, max_new_tokens=5)) == ["é", "\N{REPLACEMENT CHARACTER}"]
    assert model.caption(clip(0), num_beams=1, max_new_tokens=5) == "é\N{REPLACEMENT CHARACTER}"


def streamed(sentence: str, stop_words: tuple[str, ...]) -> list[str]:
    """Pieces of a sentence whose letters are all different."""
    following = {before: {after: 1.0} for before, after in zip(f":{sentence}", sentence, strict=False)}
    model = bigram_flamingo({**following, sentence[-1]: {"EOC": 1.0}}, media_tag="")
    return list(VideoFlamingo(model, template=PromptTemplate(stop_words=stop_words)).stream(clip(0), None))


def test_a_stream_shows_no_part_of_a_stop_word() -> None:
    assert streamed("ab Qu.x", stop_words=("Qu.", "never")) == ["a", "b"]
    assert streamed(" abQu.x", stop_words=("Quit",)) == ["a", "b", "Qu.", "x"]  # it was none after all
    assert streamed(" abQu", stop_words=("Quit",)) == ["a", "b", "Qu"]


def test_a_stream_that_is_left_early_leaves_the_model_as_it_was(dog: VideoFlamingo) -> None:
    pieces = dog.stream(clip(0), None)
    assert next(pieces) == "d"
    pieces.close()
    assert dog.caption(clip(0)) == "dog"


def test_a_stream_of_beams_is_refused_at_once(dog: VideoFlamingo) -> None:
    with pytest.raises(UsageError, match="num_beams is 3, but only one answer written once can be streamed"):
        dog.stream(clip(0), None, num_beams=3)


CHOICES = {  # " a$" has the larger sum, " bcde$" the larger mean
    ":": {" ": 1.0},
    " ": {"a": 0.6, "b": 0.4},
    "a": {"EOC": 1.0},
    "b": {"c": 1.0},
    "c": {"d": 1.0},
    "d": {"e": 1.0},
    "e": {"EOC": 1.0},
}


def test_choices_are_ranked_by_their_sums() -> None:
    ranked = VideoFlamingo(bigram_flamingo(CHOICES)).rank(clip(0), "q", ["bcde", "a"])
    assert [answer.text for answer in ranked] == ["a", "bcde"]
    assert [answer.sum for answer in ranked] == pytest.approx([math.log(0.6), math.log(0.4)], abs=1e-4)
    assert [answer.num_tokens for answer in ranked] == [3, 6]


def test_choices_are_ranked_by_their_means_where_asked() -> None:
    ranked = VideoFlamingo(bigram_flamingo(CHOICES)).rank(clip(0), "q", ["a", "bcde"], by="mean")
    assert [answer.text for answer in ranked] == ["bcde", "a"]
    assert [answer.score for answer in ranked] == pytest.approx([math.log(0.4) / 6, math.log(0.6) / 3], abs=1e-4)


def test_the_sum_of_a_choice_is_that_of_a_plain_pass() -> None:
    model = tiny_flamingo()
    asked = VideoFlamingo(model)
    shots = [Shot(clip(10, 250), "what?", "a cat")]
    query = clip(90, 20, 200)
    prompt, visual_tokens = asked.encode_prompt("and now?", shots), asked.encode_clips([shots[0].clip, query])
    for answer in asked.rank(query, "and now?", ["a dog", "rain"], shots=shots):
        choice = asked.encode_choice(answer.text)
        ids = [*prompt.token_ids, *choice]
        whole = EncodedPrompt(ids, [*prompt.media_index, *[2] * len(choice)], [False] * len(ids), 2)
        values = run(model, whole, visual_tokens).log_softmax(-1)
        expected = sum(float(values[len(prompt) - 1 + place, token]) for place, token in enumerate(choice))
        assert answer.sum == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("choices", [[], ["a", "a"], ["a", " "]])
def test_choices_that_cannot_be_told_apart_are_refused(choices: list[str]) -> None:
    with pytest.raises(UsageError, match="must be one or more different, non-empty texts"):
        VideoFlamingo(tiny_flamingo()).rank(clip(0), "q", choices)


def test_different_clips_get_different_visual_tokens() -> None:
    tokens = VideoFlamingo(tiny_flamingo()).encode_clips([clip(0, 0), clip(255, 255)])
    assert tokens.shape == (1, 2, 3, 24)
    assert (tokens[0, 0] - tokens[0, 1]).abs().max() > 0.02


def test_a_clip_among_others_gets_what_it_gets_alone() -> None:
    model = VideoFlamingo(tiny_flamingo())
    short, long = clip(30), clip(10, 80, 160, 240)
    together = model.encode_clips([short, long, short])
    for place, one in enumerate([short, long, short]):
        torch.testing.assert_close(together[:, place], model.encode_clips([one])[:, 0], rtol=1e-5, atol=1e-5)


def test_a_clip_given_twice_is_encoded_once() -> None:
    one, other = clip(1, 2), clip(3)
    frames, index = distinct_frames([one, other, one])
    assert [[int(frame[0, 0, 0]) for frame in own] for own in frames] == [[1, 2], [3]]
    assert index.tolist() == [[0, 1], [2, -1], [0, 1]]


def test_a_frame_shown_at_several_of_the_asked_times_is_encoded_once() -> None:
    frames, index = distinct_frames([clip(5, 5, 6, 7, times=[0.0, 0.0, 0.5, 1.0]), clip(8)])
    assert [[int(frame[0, 0, 0]) for frame in own] for own in frames] == [[5, 6, 7], [8]]
    assert index.tolist() == [[0, 0, 1, 2], [3, -1, -1, -1]]


def test_the_name_and_place_of_a_model_are_in_its_repr() -> None:
    assert repr(VideoFlamingo(tiny_flamingo(), "mine")) == "VideoFlamingo(mine, float32 on cpu)"


def test_an_unknown_model_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is neither a bundled model \(.*\) nor a checkpoint folder"):
        load(tmp_path / "nothing", device="cpu")


def test_the_cpu_can_always_be_asked_for() -> None:
    assert choose_device("cpu") == CPU


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert choose_device("auto").type == kind


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "device 'gpu' is unknown; give auto, cpu, cuda or cuda:0"),
        ("meta", "device 'meta' is not supported; give auto, cpu, cuda or cuda:0"),
        ("cuda:99", r"device 'cuda:99' is not there: PyTorch sees \d+ CUDA devices; use cpu"),
    ],
)
def test_a_device_that_cannot_be_used_is_named(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        choose_device(name)


def test_dtypes_are_known_by_name() -> None:
    assert [choose_dtype(name, CPU) for name in ("float32", "bfloat16", "float16")] == [
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ]


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, torch.bfloat16),
        ({"avx512_bf16": True, "cpu_name": "Intel(R) Xeon(R)"}, torch.float32),
        ({"avx2": True, "cpu_name": "AMD EPYC"}, torch.float32),
    ],
)
def test_auto_takes_bfloat16_only_where_the_cpu_is_faster_in_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool | str], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_dtype("auto", CPU) == expected


def test_an_unknown_dtype_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="dtype 'int8' is unknown; give auto, float32, bfloat16, float16"):
        choose_dtype("int8", CPU)
