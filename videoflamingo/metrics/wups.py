"""WUPS, NExT-QA's score of open answers: how close the words of an answer are to those of the right one in WordNet."""

import math
import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

from videoflamingo.metrics.porter import stem
from videoflamingo.metrics.wordnet import PartOfSpeech, WordNet, find_wordnet

EXACT_KINDS = ("DC", "DB")  # counts, and yes or no: right or wrong
BELOW_THRESHOLD = 0.1

# Part of the metric: NLTK's English stop words, but for those that can answer a question (numbers, places, no, not).
_STOP_WORDS = (
    "i me my myself we our ours ourselves you you're you've you'll you'd your yours yourself yourselves he him "
    "his himself she she's her hers herself it it's its itself they them their theirs themselves what which who "
    "whom this that that'll these those am is are was were be been being have has had having do does did doing a "
    "an the and but if or because as until while to from of at for with about into through during again further "
    "then here there when where why how all any each most other some such only own so than too very s t can will "
    "just don don't should should've now d ll m o re ve y ain aren aren't couldn couldn't didn didn't doesn "
    "doesn't hadn hadn't hasn hasn't haven haven't isn isn't ma mightn mightn't mustn mustn't needn needn't shan "
    "shan't shouldn shouldn't wasn wasn't weren weren't won won't wouldn wouldn't"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())

_CONTRACTIONS = [
    r"(?i)\b(can)(not)\b",
    r"(?i)\b(d)('ye)\b",
    r"(?i)\b(gim|lem)(me)\b",
    r"(?i)\b(got)(ta)\b",
    r"(?i)\b(mor)('n)\b",
    r"(?i)\b(gon|wan)(na)\b",
]
_SPACED = [
    (re.compile(r"([«\u201c\u2018„]|`+)"), r" \1 "),
    (re.compile(r'^"'), r"`` "),
    (re.compile(r"([ (\[{<])(\"|'{2})"), r"\1 `` "),
    (re.compile(r"([^.])(\.)([\])}>\"'»\u201d\u2019 ]*)\s*$"), r"\1 \2 \3 "),
    (re.compile(r"([:,])([^\d])"), r" \1 \2"),
    (re.compile(r"([:,])$"), r" \1 "),
    (re.compile(r"\.\.\.|--|[;@#$%&?!\][(){}<>]"), r" \g<0> "),
    (re.compile(r"([»\u201d\u2019]+)"), r" \1 "),
    (re.compile(r'"'), r" '' "),
    (re.compile(r"$|^"), " "),
    (re.compile(r"([^' ])('[sS]|'[mM]|'[dD]|') "), r"\1 \2 "),
    (re.compile(r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) "), r"\1 \2 "),
    *((re.compile(pattern), r" \1 \2 ") for pattern in _CONTRACTIONS),
]


def split_words(text: str) -> list[str]:
    """Words and punctuation, by the rules of the Penn Treebank, for one sentence."""
    for pattern, spaced in _SPACED:
        text = pattern.sub(spaced, text)
    return text.split()


Tagger = Callable[[list[str]], list[str]]
_TAGGED_AS: dict[str, PartOfSpeech] = {"NN": "n", "VB": "v", "JJ": "a", "RB": "r"}


@cache
def installed_tagger() -> Tagger | None:
    """NLTK's tagger, the original's, where NLTK and its data `averaged_perceptron_tagger_eng` are; or None."""
    try:
        from nltk import pos_tag

        pos_tag(["word"])
    except (ImportError, LookupError):
        return None
    return lambda words: [tag for _, tag in pos_tag(words)]


def wups(
    prediction: str,
    answers: Sequence[str],
    kind: str = "",
    *,
    threshold: float = 0.0,
    wordnet: WordNet | None = None,
    tag: Tagger | None = None,
) -> float:
    """How close an answer is to the closest of the right ones, in [0, 1], as NExT-OE's scorer has it.

    Both are split into words, made to base forms, and rid of stop words. Then every word of one is given its greatest
    Wu-Palmer similarity (of first senses) to a word of the other; words that are close to none are passed over, and the
    rest are multiplied. The smaller of both directions counts. Nothing in common is 0. An answer that is empty once
    stop words are gone is 0, unless the right answer of an exact kind is empty as well. Flamingo reports it at
    threshold 0 (arXiv:2204.14198v2 appendix B.1), times 100 and averaged over all questions.

    The original asks NLTK's tagger for the part of speech of every word before it looks for a base form. The tagger's
    weights are not part of this package: without `tag`, a word is what it was most often in WordNet's tagged texts.
    Measured on NExT-OE's 9,178 test questions and the predictions its authors published: 24.09 where the original gives
    24.00 (NLTK 3.10, pywsd 1.2.4), with another score for 5.5 % of the answers. With NLTK's tags all 9,178 are equal.

    Args:
        prediction: the model's answer.
        answers: all that are right; the best counts.
        kind: the question's type in NExT-QA; `DC` (counts) and `DB` (yes or no) are right or wrong.
        threshold: similarities below it are scaled down to a tenth.
        wordnet: default: `find_wordnet()`.
        tag: words to Penn Treebank tags: `installed_tagger()` for the original's score, where it is not None.

    Raises:
        WordNetMissing: if WordNet is not on this machine; there is no stand-in for it.
    """
    wordnet = wordnet or find_wordnet()
    words = content_words(prediction, wordnet, tag)
    accepted = [content_words(answer, wordnet, tag) for answer in answers]
    if kind in EXACT_KINDS:
        return float(words in accepted)
    # joined and split again, as the original does
    return max(
        (
            _both_ways(split_words(" ".join(words)), split_words(" ".join(answer)), wordnet, threshold)
            for answer in accepted
        ),
        default=0.0,
    )


def content_words(text: str, wordnet: WordNet, tag: Tagger | None = None) -> list[str]:
    """Base forms of the words of an answer, without stop words.

    >>> content_words("sits on the chairs", find_wordnet())  # doctest: +SKIP
    ['sit', 'chair']
    """
    return [lemma for lemma in _base_forms(text, wordnet, tag) if lemma not in STOP_WORDS]


@lru_cache(maxsize=100_000)
def _base_forms(text: str, wordnet: WordNet, tag: Tagger | None) -> tuple[str, ...]:
    words = split_words(text)
    if tag is None:
        return tuple(_lemma(word.lower(), _usual_part_of_speech(word.lower(), wordnet), wordnet) for word in words)
    forms = []
    for word, tagged in zip(words, tag(words), strict=True):
        # what is no noun, verb, adjective or adverb here is asked about alone, and is a noun if it is none alone
        part = _TAGGED_AS.get(tagged[:2]) or _TAGGED_AS.get(tag([word.lower()])[0][:2], "n")
        forms.append(_lemma(word.lower(), part, wordnet))
    return tuple(forms)


def _lemma(word: str, part_of_speech: PartOfSpeech, wordnet: WordNet) -> str:
    """The shortest base form, or the stem of a word without one, or else the word."""
    lemma = min(wordnet.base_forms(word, part_of_speech) or [word], key=len)
    if wordnet.first_synset(lemma):
        return lemma
    stemmed = stem(word)
    return stemmed if wordnet.first_synset(stemmed) else word


@cache
def _usual_part_of_speech(word: str, wordnet: WordNet) -> PartOfSpeech:
    parts: tuple[PartOfSpeech, ...] = ("n", "v", "a", "r")
    return max(parts, key=lambda part: (wordnet.num_tagged(word, part), bool(wordnet.base_forms(word, part))))


def _both_ways(words: list[str], others: list[str], wordnet: WordNet, threshold: float) -> float:
    return min(_one_way(words, others, wordnet, threshold), _one_way(others, words, wordnet, threshold))


def _one_way(words: list[str], others: list[str], wordnet: WordNet, threshold: float) -> float:
    best = [max((_similarity(word, other, wordnet, threshold) for other in others), default=0.0) for word in words]
    close = [similarity for similarity in best if similarity > 0]
    return math.prod(close) if close else 0.0


def _similarity(word: str, other: str, wordnet: WordNet, threshold: float) -> float:
    if word == other:
        return 1.0
    one, two = wordnet.first_synset(word), wordnet.first_synset(other)
    if one is None or two is None:
        return 0.0
    similarity = wordnet.wu_palmer(one, two)
    return similarity if similarity >= threshold else BELOW_THRESHOLD * similarity
