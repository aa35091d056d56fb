"""Segments become tokens, media index and labels; the tokeniser here is `ord`, so that every number can be read."""

from collections.abc import Sequence

import numpy as np
import pytest

from tests.tiny import random_visual_tokens, run, tiny_flamingo
from videoflamingo.prompt import (
    IGNORED_LABEL,
    EncodedPrompt,
    EndOfChunk,
    MediaOfText,
    Medium,
    PromptTemplate,
    Segment,
    Text,
    draw_media_of_text,
    encode_prompt,
    pad_prompts,
)

END, BEGIN = 999, 1


def encoded(
    segments: Sequence[Segment],
    media_tag: str = "#",
    begin_id: int | None = None,
    media_of_text: MediaOfText = "previous",
) -> EncodedPrompt:
    return encode_prompt(
        segments,
        lambda text: [ord(letter) for letter in text],
        end_of_chunk_id=END,
        media_tag_ids=[ord(letter) for letter in media_tag],
        begin_id=begin_id,
        media_of_text=media_of_text,
    )


def spelled(prompt: EncodedPrompt) -> str:
    return "".join({END: "$", BEGIN: "^"}.get(token, chr(token)) for token in prompt.token_ids)


def test_a_token_belongs_to_the_last_medium_before_it() -> None:
    prompt = encoded([Text("ab"), Medium(), Text("c"), Medium(), Medium(), Text("d"), EndOfChunk()])
    assert spelled(prompt) == "ab#c##d$"
    assert prompt.media_index == [0, 0, 1, 1, 2, 3, 3, 3]
    assert prompt.num_media == 3


def test_the_tag_inside_a_users_text_is_plain_text() -> None:
    prompt = encoded([Medium(), Text("what is #?")])
    assert prompt.media_index == [1] * 11
    assert prompt.num_media == 1


def test_without_a_tag_media_are_still_counted() -> None:
    prompt = encoded([Text("a"), Medium(), Text("b")], media_tag="")
    assert spelled(prompt) == "ab"
    assert prompt.media_index == [0, 1]


def test_the_begin_token_comes_first_before_any_medium_and_is_no_answer() -> None:
    prompt = encoded([Medium(), Text("a", is_answer=True)], begin_id=BEGIN)
    assert spelled(prompt) == "^#a"
    assert prompt.media_index == [0, 1, 1]
    assert prompt.is_answer == [False, False, True]


PAGE = [Text("ab"), EndOfChunk(False), Medium(), Text("c", is_answer=True), EndOfChunk(), Medium(), Text("de")]


@pytest.mark.parametrize(
    ("mode", "written", "indices"),
    [
        ("previous", "^ab$##c$##de", "000011112222"),
        ("next", "^ab$##c$##de", "111111222200"),
    ],
)
def test_the_text_of_a_page_belongs_to_the_medium_before_or_after_it(
    mode: MediaOfText, written: str, indices: str
) -> None:
    prompt = encoded(PAGE, media_tag="##", begin_id=BEGIN, media_of_text=mode)
    assert spelled(prompt) == written
    assert "".join(map(str, prompt.media_index)) == indices
    assert prompt.num_media == 2


@pytest.mark.parametrize(
    ("segments", "written", "indices"),
    [
        ([Text("ab")], "ab", "00"),  # no medium at all
        ([Medium(), Text("ab")], "#ab", "100"),  # none to come
        ([Text("ab"), Medium()], "ab#", "111"),
        ([Text("a"), Medium(), Medium(), Text("b"), Medium()], "a##b#", "11233"),  # side by side
    ],
)
def test_text_that_belongs_to_the_next_medium_has_none_after_the_last(
    segments: list[Segment], written: str, indices: str
) -> None:
    prompt = encoded(segments, media_of_text="next")
    assert spelled(prompt) == written
    assert "".join(map(str, prompt.media_index)) == indices


def test_without_a_tag_text_still_belongs_to_the_next_medium() -> None:
    assert encoded([Text("a"), Medium(), Text("b"), Medium()], "", media_of_text="next").media_index == [1, 2]


@pytest.mark.parametrize("loss_on", ["all", "answers"])
def test_labels_are_the_same_whichever_medium_the_text_belongs_to(loss_on: str) -> None:
    previous, following = encoded(PAGE), encoded(PAGE, media_of_text="next")
    assert previous.media_index != following.media_index
    assert previous.token_ids == following.token_ids
    assert previous.labels(loss_on) == following.labels(loss_on)


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"media_of_text is 'last'; choose 'previous' .* or 'next'"):
        encoded(PAGE, media_of_text="last")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "medium", "first_changed"),
    [("previous", 1, "ab>#cd#ef"), ("previous", 2, "ab#cd>#ef"), ("next", 1, ">ab#cd#ef"), ("next", 2, "ab#>cd#ef")],
)
def test_a_medium_changes_logits_from_the_first_token_that_belongs_to_it(
    mode: MediaOfText, medium: int, first_changed: str
) -> None:
    """In `next` mode text before a medium sees it, as in the paper."""
    model = tiny_flamingo()
    segments = [Text("ab"), Medium(), Text("cd"), Medium(), Text("ef")]
    prompt = encode_prompt(
        segments,
        model.tokenize,
        end_of_chunk_id=model.end_of_chunk_id,
        media_tag_ids=model.tokenize("#"),
        media_of_text=mode,
    )
    tokens = random_visual_tokens(model, 1, num_media=2)
    others = tokens.clone()
    others[0, medium - 1] = random_visual_tokens(model, 1, num_media=1, seed=1)[0, 0]
    changed = (run(model, prompt, tokens) != run(model, prompt, others)).any(-1)
    assert changed.tolist().index(True) == first_changed.index(">")


def test_the_mode_of_a_page_is_a_function_of_its_place() -> None:
    drawn = [draw_media_of_text(0.5, 7, epoch, position) for epoch in range(2) for position in range(50)]
    np.random.seed(0)
    assert drawn == [draw_media_of_text(0.5, 7, epoch, position) for epoch in range(2) for position in range(50)]
    assert drawn[:50] != drawn[50:]
    assert drawn != [draw_media_of_text(0.5, 8, epoch, position) for epoch in range(2) for position in range(50)]


@pytest.mark.parametrize(
    ("p_next", "least", "most"), [(0.0, 0, 0), (0.25, 420, 580), (0.5, 910, 1090), (1.0, 2000, 2000)]
)
def test_pages_belong_to_the_next_medium_with_the_probability_asked_for(p_next: float, least: int, most: int) -> None:
    """Of 2000 pages; the bounds are four standard deviations away."""
    drawn = [draw_media_of_text(p_next, 0, position) for position in range(2000)]
    assert least <= drawn.count("next") <= most
    assert set(drawn) <= {"previous", "next"}


def test_a_page_drawn_for_the_next_medium_stays_so_when_the_probability_grows() -> None:
    for position in range(50):
        modes = [draw_media_of_text(p_next, 0, position) for p_next in (0.0, 0.3, 0.6, 1.0)]
        assert modes == sorted(modes, reverse=True)  # "previous" before "next"


def test_the_draw_says_nothing_of_other_draws_made_of_the_same_place() -> None:
    others = [np.random.default_rng([0, position]).random() < 0.5 for position in range(2000)]
    same = sum(other == (draw_media_of_text(0.5, 0, position) == "next") for position, other in enumerate(others))
    assert 910 <= same <= 1090


@pytest.mark.parametrize("p_next", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(p_next: float) -> None:
    with pytest.raises(ValueError, match=rf"p_next is {p_next}; give a probability in \[0, 1\]"):
        draw_media_of_text(p_next, 0)


@pytest.mark.parametrize("place", [(), (0, -1)])
def test_a_page_without_a_place_is_refused(place: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"the page's place is \(.*\); give whole numbers of 0 or more"):
        draw_media_of_text(0.5, *place)


def test_an_answers_tokens_do_not_depend_on_what_is_around_it() -> None:
    calls: list[str] = []

    def tokenize(text: str) -> list[int]:
        calls.append(text)
        return [0]

    encode_prompt([Medium(), Text("Q:"), Text(" a", is_answer=True)], tokenize, end_of_chunk_id=END)
    assert calls == ["Q:", " a"]


def test_labels_of_all_text_are_the_tokens_themselves() -> None:
    prompt = encoded([Medium(), Text("q"), Text("a", is_answer=True), EndOfChunk()])
    assert prompt.labels("all") == prompt.token_ids


def test_labels_of_answers_leave_out_everything_else() -> None:
    prompt = encoded([Medium(), Text("q"), Text("a", is_answer=True), EndOfChunk(), Text("r"), EndOfChunk(False)])
    assert prompt.labels("answers") == [IGNORED_LABEL, IGNORED_LABEL, ord("a"), END, IGNORED_LABEL, IGNORED_LABEL]


def test_an_unknown_choice_of_labels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss_on is 'answer'; choose 'all' .* or 'answers'"):
        encoded([Text("a")]).labels("answer")


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="must have one length"):
        EncodedPrompt([1, 2], [0], [False, False])


def test_a_question_with_its_answer_reads_as_in_the_paper() -> None:
    prompt = encoded(PromptTemplate().ask("What is it?", "a dog"), media_tag="<image>")
    assert spelled(prompt) == "<image>Question: What is it? Answer: a dog$"
    answer = [chr(token) if token != END else "$" for token in prompt.labels("answers") if token != IGNORED_LABEL]
    assert "".join(answer) == " a dog$"


def test_a_query_ends_where_the_model_goes_on() -> None:
    assert spelled(encoded(PromptTemplate().ask("What is it?"))) == "#Question: What is it? Answer:"


def test_a_caption_reads_as_in_the_paper() -> None:
    assert spelled(encoded(PromptTemplate().ask(None, "a dog"))) == "#Output: a dog$"


@pytest.mark.parametrize(
    ("answer", "trimmed"),
    [
        (" left ", "left"),
        (" left Question: what?", "left"),
        (" a Output: b Question: c", "a"),
        ("Answer: x", ""),
        ("", ""),
    ],
)
def test_an_answer_is_cut_at_the_first_stop_word(answer: str, trimmed: str) -> None:
    assert PromptTemplate().trim(answer) == trimmed


LONG, SHORT = encoded([Medium(), Text("abc")]), encoded([Medium(), Text("d", is_answer=True)])


def test_right_padding_has_no_attention_no_medium_and_no_label() -> None:
    padded = pad_prompts([LONG, SHORT], side="right")
    assert padded.input_ids.tolist() == [[ord(letter) for letter in "#abc"], [ord("#"), ord("d"), 0, 0]]
    assert padded.media_index.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert padded.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert padded.labels[1].tolist() == [ord("#"), ord("d"), IGNORED_LABEL, IGNORED_LABEL]
    assert padded.position_ids[0].tolist() == [0, 1, 2, 3]
    assert padded.position_ids[1, :2].tolist() == [0, 1]


def test_left_padding_starts_counting_positions_at_the_text() -> None:
    padded = pad_prompts([LONG, SHORT], side="left", loss_on="answers")
    assert padded.input_ids[1].tolist() == [0, 0, ord("#"), ord("d")]
    assert padded.media_index[1].tolist() == [0, 0, 1, 1]
    assert padded.labels[1].tolist() == [IGNORED_LABEL] * 3 + [ord("d")]
    assert padded.position_ids.tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]


def test_padded_prompts_are_int64() -> None:
    padded = pad_prompts([LONG, SHORT], side="left")
    arrays = (padded.input_ids, padded.media_index, padded.attention_mask, padded.labels, padded.position_ids)
    assert {array.dtype for array in arrays} == {np.dtype(np.int64)}


def test_an_unknown_side_is_refused() -> None:
    with pytest.raises(ValueError, match="side is 'top'; choose 'left' or 'right'"):
        pad_prompts([LONG], side="top")
