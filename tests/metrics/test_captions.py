"""Tokens and scores of captions, against what Java and coco-caption gave for over three thousand of them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from videoflamingo.errors import UsageError
from videoflamingo.metrics.captions import DocumentFrequencies, bleu, cider_d, document_frequencies, rouge_l
from videoflamingo.metrics.ptb_tokenizer import PUNCTUATION, tokenize

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.json.gz"


@pytest.fixture(scope="module")
def golden() -> Any:
    return json.loads(gzip.decompress(GOLDEN.read_bytes()))


@pytest.fixture(scope="module")
def texts(golden: Any) -> tuple[list[str], list[list[str]]]:
    items = golden["captions"]
    return [one["prediction"] for one in items], [one["references"] for one in items]


@pytest.fixture(scope="module")
def official(golden: Any) -> tuple[list[str], list[list[str]]]:
    items = golden["captions"]
    return [one["prediction_tokens"] for one in items], [one["reference_tokens"] for one in items]


def given(tokens: str) -> list[str]:
    return tokens.split(" ") if tokens else []


def test_nearly_all_captions_have_the_tokens_that_java_gives_them(golden: Any) -> None:
    pairs = []
    for one in golden["captions"]:
        pairs.append((one["prediction"], one["prediction_tokens"]))
        pairs += zip(one["references"], one["reference_tokens"], strict=True)
    assert len(pairs) >= 2000
    different = [(text, tokens, tokenize(text)) for text, tokens in pairs if given(tokens) != tokenize(text)]
    assert 1 - len(different) / len(pairs) >= TOKENS_AS_JAVA, different[:5]


@pytest.mark.parametrize(
    ("caption", "tokens"),  # the right side is what Java printed
    [
        ("A man's 5-year-old dog isn't here.", "a man 's 5-year-old dog is n't here"),
        ("he cannot, she's gonna", "he can not she 's gon na"),
        ("Mr. Smith met Dr. Jones at 5 p.m. in the U.S. today.", "mr. smith met dr. jones at 5 p.m. in the u.s. today"),
        ("\"quoted\" 'single' “x” ‘y’ wait...", "quoted single x y wait"),  # noqa: RUF001
        ("$1,000.50 £5 €5 5¢ 20°C 50%", "$ 1,000.50 # 5 $ 5 5 cents 20 ° c 50 %"),
        ("and/or w/o 1/2-inch t-shirt cream- must -start", "and/or w/o 1/2-inch t-shirt cream must start"),
        ("(parens) [brackets] :) !! ?", "-lrb- parens -rrb- -lsb- brackets -rsb- :-rrb- !!"),
        ("deck.1 foo.bar me@x.com http://x.y/z?a=b", "deck .1 foo.bar me@x.com http://x.y/z?a=b"),
        ("café naïve 日本語 ½ a\U0001f600b", "café naïve 日本語 1/2 a b"),
        ("1 1/2 cups", "1\xa01/2 cups"),
        ("", ""),
    ],
)
def test_a_caption_is_split_as_java_splits_it(caption: str, tokens: str) -> None:
    assert tokenize(caption) == given(tokens)


def test_no_punctuation_that_coco_removes_is_left(texts: tuple[list[str], list[list[str]]]) -> None:
    assert not PUNCTUATION & {token for captions in texts[1] for caption in captions for token in tokenize(caption)}


def test_a_line_break_is_a_space() -> None:
    assert tokenize("a dog\nruns\r\n\tfast") == ["a", "dog", "runs", "fast"]


def test_given_javas_tokens_every_score_is_the_official_one(
    golden: Any, official: tuple[list[str], list[list[str]]]
) -> None:
    cider, rouge, orders = (score(*official, tokenize=given) for score in (cider_d, rouge_l, bleu))
    corpus = golden["corpus"]
    assert cider.value == pytest.approx(corpus["cider_d"], abs=1e-6)
    assert rouge.value == pytest.approx(corpus["rouge_l"], abs=1e-6)
    assert [order.value for order in orders] == pytest.approx(corpus["bleu"], abs=1e-6)
    items = golden["captions"]
    assert cider.per_item == pytest.approx([one["cider_d"] for one in items], abs=1e-6)
    assert rouge.per_item == pytest.approx([one["rouge_l"] for one in items], abs=1e-6)
    for n, order in enumerate(orders):
        assert order.per_item == pytest.approx([one["bleu"][n] for one in items], abs=1e-6)


def test_from_text_to_score_the_tokenizer_costs_next_to_nothing(
    golden: Any, texts: tuple[list[str], list[list[str]]]
) -> None:
    corpus = golden["corpus"]
    assert cider_d(*texts).value == pytest.approx(corpus["cider_d"], abs=0.05)
    assert rouge_l(*texts).value == pytest.approx(corpus["rouge_l"], abs=0.05)
    assert [order.value for order in bleu(*texts)] == pytest.approx(corpus["bleu"], abs=0.05)


def test_splitting_at_spaces_instead_would_not_do(golden: Any, texts: tuple[list[str], list[list[str]]]) -> None:
    assert abs(cider_d(*texts, tokenize=str.split).value - golden["corpus"]["cider_d"]) > 1


REFERENCES = [["a dog runs in the park", "the dog is running"], ["two cats sleep on a red chair"]]


def test_an_empty_caption_scores_nothing_and_takes_nothing_from_the_others() -> None:
    for said in ("", " . "):
        predictions = [said, "two cats sleep on a red chair"]
        assert cider_d(predictions, REFERENCES).per_item == pytest.approx([0, 1000])
        assert rouge_l(predictions, REFERENCES).per_item == pytest.approx([0, 100])
        assert [order.per_item[0] for order in bleu(predictions, REFERENCES)] == pytest.approx([0] * 4)


def test_nothing_but_empty_captions_scores_zero() -> None:
    assert cider_d(["", ""], REFERENCES).value == 0
    assert rouge_l(["", ""], REFERENCES).value == 0
    assert [order.value for order in bleu(["", ""], REFERENCES)] == [0] * 4


def test_a_caption_of_fewer_than_four_words_is_scored_by_the_n_grams_it_has() -> None:
    assert cider_d(["dog runs", "x"], [["dog runs"], ["two cats"]]).per_item[0] == pytest.approx(500)


def test_one_video_alone_has_a_cider_of_zero_because_no_word_is_rarer_than_another() -> None:
    assert cider_d(["a dog runs in the park"], REFERENCES[:1]).value == 0


def test_frequencies_of_a_whole_split_make_the_score_of_a_part_what_it_is_in_the_whole(tmp_path: Path) -> None:
    predictions = ["a dog in the park", "two cats on a chair"]
    document_frequencies(REFERENCES).save(tmp_path / "frequencies.json")
    frequencies = DocumentFrequencies.load(tmp_path / "frequencies.json")
    part = cider_d(predictions[:1], REFERENCES[:1], document_frequencies=frequencies)
    assert part.value == pytest.approx(cider_d(predictions, REFERENCES).per_item[0])


@pytest.mark.parametrize("text", ["not json", "[]", '{"num_items": 3}', None])
def test_a_file_without_frequencies_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "frequencies.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=r"frequencies\.json: holds no document frequencies"):
        DocumentFrequencies.load(path)


@pytest.mark.parametrize("score", [cider_d, bleu, rouge_l])
def test_captions_and_references_must_belong_together(score: Any) -> None:
    with pytest.raises(UsageError, match="1 captions to score and references of 2 videos"):
        score(["a dog"], REFERENCES)
    with pytest.raises(UsageError, match="at least one"):
        score([], [])
    with pytest.raises(UsageError, match="position 1 has no reference"):
        score(["a dog", "a cat"], [["a dog"], []])
    with pytest.raises(UsageError, match="references are strings"):
        score(["a dog"], ["a dog"])


TOKENS_AS_JAVA = 0.9995  # just below what was measured: all
