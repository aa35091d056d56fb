"""The page of answers, as a pure function: what it says, and that nothing from outside becomes markup."""

import re
from html import unescape
from html.parser import HTMLParser

from videoflamingo.training.predictions_html import Asked, Dataset, Losses, is_right, render_page, runs_of_answers
from videoflamingo.training.shown_texts import ShownMedium

NASTY = "</td><script>alert('x')</script> & \"quoted\" $step ${x}"
PICTURE = "data:image/jpeg;base64,AAAA"


class Elements(HTMLParser):
    """The elements of a page, and its text in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.sources: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style" and data.strip():
            self.texts.append(" ".join(data.split()))


def asked(**fields: object) -> Asked:
    medium = ShownMedium("cat.mp4", (PICTURE, PICTURE), (0.25, 1.5), 2)
    given = {"place": "a.jsonl:3", "prompt": "Output:", "truth": "a dog", "media": [medium], "num_media": 1}
    return Asked(**{**given, **fields})


def texts_of(*datasets: Dataset, step: int = 1200, notes: tuple[str, ...] = ()) -> list[str]:
    return Elements(render_page(datasets, step, notes)).texts


def test_a_text_has_frames_with_times_prompt_truth_and_answers_newest_first() -> None:
    texts = texts_of(Dataset("captions", [asked(answers=[(0, "xx"), (600, "a cat"), (1200, "a dog")])]))
    start = texts.index("0.25 s")
    assert (
        texts[start : start + 15]
        == [
            *("0.25 s", "1.50 s", "cat.mp4", "Output:"),
            *("truth", "a dog"),
            *("now, step 1,200", "a dog", "✓ right"),
            *("step 600", "a cat"),
            *("before training", "xx"),
            "a.jsonl:3",
        ][:15]
    )


def test_nothing_from_outside_becomes_markup() -> None:
    medium = ShownMedium(NASTY, (PICTURE,), (0.5,), 3, note=NASTY)
    text = Asked(NASTY, NASTY, NASTY, [medium], [(1, NASTY)], num_media=2)
    page = render_page([Dataset(NASTY, [text], [Losses(1, 2.0, None)])], 1, [NASTY])
    elements = Elements(page)
    assert elements.open == []
    assert "script" not in elements.tags
    assert sum(NASTY in unescape(text) for text in elements.texts) >= 8


def test_the_page_needs_nothing_beside_it() -> None:
    page = render_page([Dataset("captions", [asked()])], 1)
    assert Elements(page).sources == [PICTURE, PICTURE]
    assert not re.search(r"@import|url\(|<link|<script", page)


def test_losses_of_each_validation_stand_beside_each_other() -> None:
    texts = texts_of(Dataset("captions", [], [Losses(600, 3.25, 3.5), Losses(1200, None, 2.75)]))
    start = texts.index("step")
    assert texts[start : start + 9] == [
        *("step", "600", "1,200"),
        *("training loss, last step", "3.250", "-"),
        *("validation loss", "3.500", "2.750"),
    ]


def test_of_many_validations_the_first_and_the_last_are_shown() -> None:
    texts = texts_of(Dataset("captions", [], [Losses(step, 1.0, 1.0) for step in range(100, 5100, 100)]))
    start = texts.index("step")
    assert texts[start + 1 : start + 13] == ["100", *(f"{step:,}" for step in range(4000, 5100, 100))]


def test_equal_answers_after_each_other_are_one_line() -> None:
    assert runs_of_answers([(1, "a"), (2, "b"), (3, "b"), (4, "a")]) == [(4, 4, "a"), (2, 3, "b"), (1, 1, "a")]
    assert "now, steps 600 to 1,200" in texts_of(Dataset("captions", [asked(answers=[(600, "b"), (1200, "b")])]))


def test_older_answers_unfold() -> None:
    page = render_page([Dataset("captions", [asked(answers=[(step, str(step)) for step in range(1, 8)])])], 7)
    before, _, folded = page.partition("<details>")
    assert [f"<td>{step}</td>" in before for step in range(1, 8)] == [False] * 3 + [True] * 4
    assert all(f"<td>{step}</td>" in folded for step in range(1, 4))


def test_the_head_counts_right_answers_of_each_dataset() -> None:
    texts = [asked(answers=[(1, "a dog")]), asked(answers=[(1, "A dog.")]), asked(answers=[(1, "dog")]), asked()]
    head = texts_of(Dataset("captions", texts, [Losses(1, 2.0, 1.5)]))
    assert head[head.index("captions") + 1] == ": validation loss 1.500, 2 of 3 answers below right"


def test_right_is_the_truth_but_for_case_space_and_full_stop() -> None:
    assert is_right(" A dog. ", "a dog") and not is_right("a dog runs", "a dog") and not is_right("", "a dog")


def test_an_empty_answer_and_none_are_told_apart() -> None:
    assert "(nothing)" in texts_of(Dataset("captions", [asked(answers=[(1, "")])]))
    assert "not asked" in texts_of(Dataset("captions", [asked()]))


def test_what_is_left_out_is_said() -> None:
    texts = texts_of(Dataset("pages", [asked(media=[ShownMedium("a.mp4", (PICTURE,), None, 30)], num_media=5)]))
    assert {"a.mp4 (1 of 30 frames)", "and 4 more media, not shown", "time not known"} <= set(texts)


def test_notes_come_first() -> None:
    texts = texts_of(Dataset("captions", []), notes=("Nobody was asked.",))
    assert texts.index("Nobody was asked.") < texts.index("captions")
