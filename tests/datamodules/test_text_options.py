"""What is drawn, how often, and that nothing is drawn outside of training."""

from dataclasses import replace

import numpy as np
import pytest

from datamodules.records import Record
from datamodules.text_options import SHOWN, MediaOptions, TextOptions
from videoflamingo.errors import UsageError
from videoflamingo.prompt import EndOfChunk, Medium, PromptTemplate, Text
from videoflamingo.training.texts import Draw
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.sampling import Sampling

CAPTIONS = Record("cat.mp4", "a.jsonl:1", captions=("a cat", "it sleeps", "grey fur"))
CHOICE = Record("cat.mp4", "a.jsonl:2", question="what is it", options=("a dog", "a cat"), answer_index=1)
PLAIN = PromptTemplate(before_caption="")


def draws() -> list[np.random.Generator]:
    return [Draw(0, 0, position).generator(SHOWN) for position in range(400)]


def said(options: TextOptions, record: Record, asks: bool, drawn: np.random.Generator | None = None) -> list[str]:
    segments = options.text(record, asks=asks, drawn=drawn).segments
    assert segments[0] == Medium() and segments[-1] == EndOfChunk()
    return [segment.text for segment in segments if isinstance(segment, Text)]


def test_a_caption_follows_the_paper_s_word_for_it() -> None:
    assert said(TextOptions(), CAPTIONS, asks=False) == ["Output:", " a cat"]


def test_without_that_word_a_caption_follows_its_medium_at_once() -> None:
    assert said(TextOptions(template=PLAIN), CAPTIONS, asks=False) == ["a cat"]


def test_training_draws_among_all_captions_alike() -> None:
    drawn = [said(TextOptions(template=PLAIN), CAPTIONS, False, draw)[0] for draw in draws()]
    counts = [drawn.count(caption) for caption in CAPTIONS.captions]
    assert sum(counts) == 400 and min(counts) > 100


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 160, 240), (1.0, 400, 400)])
def test_a_space_comes_before_a_share_of_the_captions(share: float, least: int, most: int) -> None:
    options = TextOptions(template=PLAIN, caption_space_share=share)
    spaced = sum(said(options, CAPTIONS, False, draw)[0].startswith(" ") for draw in draws())
    assert least <= spaced <= most


def test_a_share_of_spaces_beside_the_template_s_own_space_is_refused() -> None:
    with pytest.raises(UsageError, match=r"caption_space_share=0.5: a caption after 'Output:' always begins with a"):
        TextOptions(caption_space_share=0.5)


def test_a_question_is_asked_with_its_right_answer() -> None:
    assert said(TextOptions(), CHOICE, asks=True) == ["Question: what is it Answer:", " a cat"]


def test_a_question_mark_is_put_where_there_is_none() -> None:
    options = TextOptions(question_mark=True)
    assert said(options, CHOICE, asks=True)[0] == "Question: what is it? Answer:"
    assert said(options, replace(CHOICE, question="what?"), asks=True)[0] == "Question: what? Answer:"


def test_options_are_put_after_the_question_on_request() -> None:
    options = TextOptions(question_mark=True, options_in_question=True)
    assert said(options, CHOICE, asks=True)[0] == "Question: what is it? Options: a dog; a cat. Answer:"


def test_a_part_of_a_video_is_sampled_within_it() -> None:
    record = replace(CAPTIONS, start_seconds=2.0, end_seconds=6.0)
    options = TextOptions(sampling=Sampling(num_frames=3), reading=ReadOptions(short_side=90))
    (request,) = options.text(record, asks=False, drawn=None).media
    sampling = Sampling(num_frames=3, start_seconds=2.0, end_seconds=6.0)
    assert request == MediumRequest("cat.mp4", sampling, ReadOptions(short_side=90))


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 160, 240), (1.0, 400, 400)])
def test_a_share_of_media_is_mirrored_and_another_recoloured(share: float, least: int, most: int) -> None:
    mirrored = [MediaOptions(mirrored_share=share).request("cat.mp4", draw) for draw in draws()]
    coloured = [MediaOptions(colour_share=share).request("cat.mp4", draw) for draw in draws()]
    assert least <= sum(request.mirrored for request in mirrored) <= most
    assert least <= sum(request.colour_seed is not None for request in coloured) <= most
    assert all(request.colour_seed is None for request in mirrored)
    assert not any(request.mirrored for request in coloured)


def test_what_is_drawn_for_one_option_does_not_depend_on_the_others() -> None:
    alone = MediaOptions(Sampling("random"))
    together = MediaOptions(Sampling("random"), mirrored_share=0.5, colour_share=0.5)
    for one, other in zip(draws()[:20], draws()[:20], strict=True):
        assert alone.request("cat.mp4", one).seed == together.request("cat.mp4", other).seed


def test_random_frames_are_drawn_anew_each_time_in_training_and_fixed_elsewhere() -> None:
    options = MediaOptions(Sampling("random", num_frames=3))
    seeds = {options.request("cat.mp4", draw).seed for draw in draws()}
    assert None not in seeds and len(seeds) == 400
    assert options.request("cat.mp4", None) == MediumRequest("cat.mp4", Sampling("uniform", num_frames=3))


def test_nothing_is_drawn_outside_of_training() -> None:
    options = TextOptions(mirrored_share=1.0, colour_share=1.0, template=PLAIN, caption_space_share=0.5)
    text = options.text(CAPTIONS, asks=False, drawn=None)
    assert text.media == [MediumRequest("cat.mp4")]
    assert text.segments == [Medium(), Text("a cat", is_answer=True), EndOfChunk()]


@pytest.mark.parametrize("name", ["mirrored_share", "colour_share", "caption_space_share"])
def test_a_share_outside_of_zero_to_one_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}=1.5: give a share from 0 to 1"):
        TextOptions(**{"template": PLAIN, name: 1.5})
