"""The part of WordNet 3.0 that WUPS needs: base forms, first senses and how close two senses are.

Its files are those of Debian's package `wordnet-base` or of NLTK's corpus `wordnet`. What is looked up is what
NLTK 3.10 looks up, because WUPS was defined by a program that uses NLTK.
"""

import os
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from videoflamingo.errors import UsageError

PartOfSpeech = Literal["n", "v", "a", "r"]
_FILES: dict[PartOfSpeech, str] = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
_SENSE_KEY_TYPES: dict[str, PartOfSpeech] = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
# what an ending is replaced by, to look for a base form; from WordNet's morphy(7)
_ENDINGS: dict[PartOfSpeech, list[tuple[str, str]]] = {
    "n": [
        ("s", ""),
        ("ses", "s"),
        ("ves", "f"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ],
    "v": [("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")],
    "a": [("er", ""), ("est", ""), ("er", "e"), ("est", "e")],
    "r": [],
}
_ROOT = "*ROOT*"  # one above all verbs, adjectives and adverbs, which have no common one in WordNet


class WordNetMissing(UsageError):
    """WordNet's files are not on this machine."""


class Synset(NamedTuple):
    """A sense: its part of speech and the place of its line in the data file."""

    part_of_speech: PartOfSpeech
    offset: int


@dataclass(frozen=True)
class WordNet:
    """WordNet's files in a folder; they are read when first asked for.

    Args:
        folder: with `index.noun`, `data.noun`, `noun.exc` and so on.
    """

    folder: Path

    def __hash__(self) -> int:
        return id(self)

    def base_forms(self, word: str, part_of_speech: PartOfSpeech) -> list[str]:
        """Words in WordNet that this may be a form of, the word itself first if it is one; none if there are none."""
        irregular = self._exceptions[part_of_speech].get(word)
        if irregular is None:
            endings = _ENDINGS[part_of_speech]
            irregular = [word[: -len(end)] + other for end, other in endings if word.endswith(end)]
        known = self._index[part_of_speech]
        return [form for form in dict.fromkeys([word, *irregular]) if form in known]

    def first_synset(self, word: str) -> Synset | None:
        """The most frequent sense of the first part of speech (noun, verb, adjective, adverb) it is found under."""
        return next(self._synsets(word.lower()), None)

    def _synsets(self, word: str) -> Iterator[Synset]:
        for part_of_speech in _FILES:
            for form in self.base_forms(word, part_of_speech):
                for offset in self._index[part_of_speech][form]:
                    yield Synset(part_of_speech, offset)

    def num_tagged(self, word: str, part_of_speech: PartOfSpeech) -> int:
        """How often its base forms were met as this part of speech in WordNet's tagged texts."""
        return sum(self._tagged[form, part_of_speech] for form in self.base_forms(word, part_of_speech))

    @cache  # noqa: B019  (a folder's WordNet lives as long as the program)
    def wu_palmer(self, one: Synset, other: Synset) -> float:
        """Wu and Palmer's similarity in (0, 1], as NLTK has it; 0 where two nouns have nothing above both.

        Twice the depth of what is above both, over the lengths of the paths through it. Of several things above both,
        the one with the longest shortest way to the top counts, of those the first by name.
        """
        with_root = not (one.part_of_speech == other.part_of_speech == "n")
        ways, other_ways = self._ways_up(one, with_root), self._ways_up(other, with_root)
        shared: list[Synset | str] = [synset for synset in ways if synset in other_ways]
        if not shared:
            return 0.0
        depth = max(self._depth(synset, longest=False) for synset in shared)
        lowest = [synset for synset in shared if self._depth(synset, longest=False) == depth]
        above = one if one in lowest else min(lowest, key=self._name)
        nodes = self._depth(above, longest=True) + 1
        if isinstance(above, str):
            length = ways[above] + other_ways[above]
        else:
            length = sum(self._distance(synset, above, with_root) for synset in (one, other))
        return 2 * nodes / (length + 2 * nodes)

    def _distance(self, synset: Synset, above: Synset, with_root: bool) -> int:
        if synset == above:
            return 0
        ways, other_ways = self._ways_up(synset, with_root), self._ways_up(above, with_root)
        return min(steps + other_ways[step] for step, steps in ways.items() if step in other_ways)

    @cache  # noqa: B019
    def _ways_up(self, synset: Synset, with_root: bool) -> dict[Synset | str, int]:
        """Everything above a sense, with the fewest steps to it; the root one step above the furthest."""
        steps: dict[Synset | str, int] = {}
        waiting = deque([(synset, 0)])
        while waiting:
            current, far = waiting.popleft()
            if current not in steps:
                steps[current] = far
                waiting.extend((above, far + 1) for above in self._hypernyms(current))
        if with_root:
            steps[_ROOT] = max(steps.values()) + 1
        return steps

    @cache  # noqa: B019
    def _depth(self, synset: Synset | str, longest: bool) -> int:
        """Steps to the top, by the shortest way or by the longest."""
        above = [] if isinstance(synset, str) else self._hypernyms(synset)
        return 1 + (max if longest else min)(self._depth(one, longest) for one in above) if above else 0

    @cache  # noqa: B019
    def _line(self, synset: Synset) -> list[str]:
        data = self._data[synset.part_of_speech]
        return data[synset.offset : data.index(b"\n", synset.offset)].decode("latin-1").split(" ")

    def _hypernyms(self, synset: Synset) -> list[Synset]:
        fields = self._line(synset)
        start = 4 + 2 * int(fields[3], 16)  # after the words
        pointers = (fields[start + 1 + 4 * i : start + 5 + 4 * i] for i in range(int(fields[start])))
        return [Synset(synset.part_of_speech, int(offset)) for kind, offset, _, _ in pointers if kind in ("@", "@i")]

    def _name(self, synset: Synset | str) -> str:
        """NLTK's name, `dog.n.01`, by which ties are broken."""
        if isinstance(synset, str):
            return synset
        fields = self._line(synset)
        lemma = fields[4].partition("(")[0].lower()
        number = self._index[synset.part_of_speech][lemma].index(synset.offset) + 1
        return f"{lemma}.{fields[2]}.{number:02d}"

    @cached_property
    def _index(self) -> dict[PartOfSpeech, dict[str, list[int]]]:
        found: dict[PartOfSpeech, dict[str, list[int]]] = {}
        for part_of_speech, name in _FILES.items():
            words = found[part_of_speech] = {}
            for line in (self.folder / f"index.{name}").read_text("latin-1").splitlines():
                if not line.startswith(" "):
                    fields = line.split()
                    words[fields[0]] = [int(offset) for offset in fields[-int(fields[2]) :]]
        return found

    @cached_property
    def _data(self) -> dict[PartOfSpeech, bytes]:
        return {part_of_speech: (self.folder / f"data.{name}").read_bytes() for part_of_speech, name in _FILES.items()}

    @cached_property
    def _exceptions(self) -> dict[PartOfSpeech, dict[str, list[str]]]:
        return {
            part_of_speech: {
                form: bases
                for form, *bases in (
                    line.split() for line in (self.folder / f"{name}.exc").read_text("latin-1").splitlines()
                )
            }
            for part_of_speech, name in _FILES.items()
        }

    @cached_property
    def _tagged(self) -> Counter[tuple[str, PartOfSpeech]]:
        counts: Counter[tuple[str, PartOfSpeech]] = Counter()
        for line in (self.folder / "cntlist.rev").read_text("latin-1").splitlines():
            key, _, count = line.split()
            word, _, rest = key.partition("%")
            counts[word, _SENSE_KEY_TYPES[rest[0]]] += int(count)
        return counts


def find_wordnet() -> WordNet:
    """WordNet where it is usually kept: $WNSEARCHDIR, $WNHOME/dict, Debian's folder, or NLTK's data.

    Raises:
        WordNetMissing: if it is in none of them.
    """
    for folder in _places():
        if (folder / "data.noun").is_file():
            return _opened(folder)
    raise WordNetMissing(
        "WUPS compares words by WordNet 3.0, which is not on this machine; run `apt-get install wordnet-base`, or set "
        "WNSEARCHDIR to the folder that holds its data.noun. Nothing else is used in its place"
    )


@cache
def _opened(folder: Path) -> WordNet:
    return WordNet(folder)


def _places() -> Iterator[Path]:
    if searched := os.environ.get("WNSEARCHDIR"):
        yield Path(searched)
    if home := os.environ.get("WNHOME"):
        yield Path(home) / "dict"
    yield Path("/usr/share/wordnet")
    nltk = [Path(folder) for folder in os.environ.get("NLTK_DATA", "").split(os.pathsep) if folder]
    for folder in [*nltk, Path.home() / "nltk_data", Path("/usr/share/nltk_data"), Path("/usr/local/share/nltk_data")]:
        yield folder / "corpora" / "wordnet"
