"""Segments become tokens, media index and labels; the tokeniser here is `ord`, so that every number can be read."""

from collections.abc import Sequence

import numpy as np
import pytest

from videoflamingo.prompt import (
    IGNORED_LABEL,
    EncodedPrompt,
    EndOfChunk,
    Medium,
    PromptTemplate,
    Segment,
    Text,
    encode_prompt,
    pad_prompts,
)

END, BEGIN = 999, 1


def encoded(segments: Sequence[Segment], media_tag: str = "#", begin_id: int | None = None) -> EncodedPrompt:
    return encode_prompt(
        segments,
        lambda text: [ord(letter) for letter in text],
        end_of_chunk_id=END,
        media_tag=media_tag,
        begin_id=begin_id,
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


def test_an_answers_tokens_do_not_depend_on_what_is_around_it() -> None:
    calls: list[str] = []

    def tokenize(text: str) -> list[int]:
        calls.append(text)
        return [0]

    encode_prompt([Medium(), Text("Q:"), Text(" a", is_answer=True)], tokenize, end_of_chunk_id=END)
    assert calls == ["<image>", "Q:", " a"]


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
