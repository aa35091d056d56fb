"""Writes metrics.json.gz: captions with the tokens and scores, and answers with the WUPS, of the official scorers.

    make_metrics.py --wordnet FOLDER --nltk-data FOLDER --next-oe FOLDER --out tests/golden/metrics.json.gz

Run once, in an environment of its own with Java, `pycocoevalcap==1.2`, `nltk==3.10.4` and `pywsd==1.2.4` (its tokenizer
and lemmatiser only: install it with `--no-deps`). `--wordnet` is Debian's /usr/share/wordnet, `--nltk-data` has NLTK's
`wordnet` and `averaged_perceptron_tagger_eng`, and `--next-oe` is a clone of doc-doc/NExT-OE, of which `metrics.py` and
`stopwords.txt` are used. It imports nothing of videoflamingo.

Texts: the example sentences of WordNet 3.0, whose licence (named in the file) lets anyone copy and change them, and
captions put together here, with whatever a tokenizer can stumble over. Predictions are references with words left out,
doubled and exchanged.
"""

# ruff: noqa: RUF001, SIM905

import argparse
import gzip
import json
import os
import random
import re
import sys
import types
from pathlib import Path
from typing import Any

LICENCE = (
    "Example sentences: WordNet 3.0, Copyright 2006 by Princeton University. All rights reserved. THIS SOFTWARE AND "
    "DATABASE IS PROVIDED 'AS IS'. Permission to use, copy, modify and distribute it for any purpose and without fee "
    "or royalty is granted by Princeton's WordNet license, https://wordnet.princeton.edu/license-and-commercial-use. "
    "All other texts: as the rest of this repository."
)
NUM_REAL, NUM_MADE, NUM_ANSWERS = 560, 240, 1200

WHO = (
    "a man|the woman|two dogs|3 kids|a 5-year-old boy|an 80's band|Mr. Jones|Dr. Who's fans|the U.S. team|J. K. R.|"
    "a so-called 'expert'|the \"boss\"|twenty-one people|1,250 runners|O'Brien|the Jones' cat|a T-shirt seller|"
    "José|Zoë and René|the naïve café owner|a D.J.|St. Mary's choir|an AT&T worker|somebody|He|I|they (all)|@sam_01|"
    "the Ph.D. student|Müller's 3½ friends|“the chef”|a ‘star’|someone else's kid|No. 7|the R&B singer|日本語|"
    "a b.b. king fan"
).split("|")
DOES = (
    "runs|is playing the guitar|isn't singing|can't stop laughing|cannot dance|'s cooking|are gonna jump|wanna eat|"
    "rock 'n' rolls|didn't see it|slow-motion-walks|says \"hello\"|shouts: \"stop!\"|asks 'why?'|has left|would've won|"
    "drives at 55.5 mph|jumps 6'2\"|pays $1,000.50|pays £5|wins €20|buys 1/2 lb.|mixes 1 1/2 cups of flour|"
    "types foo.py|"
    "visits www.example.com|mails me@example.org|waits...|waits . . .|gives a thumbs-up|goes up/down|"
    "plays hide-and-seek|"
    'reads pp. 5-10|watches MTV|counts 1-2-3|is "so-so"|dunks (again)|does yoga [outdoors]|uses #hashtags|'
    "mixes red & blue|scores 3:2|smiles :)|is sad :-(|looks at y'all|has an a+|speaks C++|rates it 10/10|is 5 ft. tall"
).split("|")
WHERE = (
    "in the park|at 3:30 p.m.|on Jan. 5|at 10 o'clock|on the 21st|in the 1990s|in the '90s|in Washington, D.C.|for 20%|"
    "at 20°C|in no. 5|near St. Paul|on a pick-up truck|by the river - slowly|by the river -- slowly|in a mid-1950s car|"
    'with "friends"|w/o shoes|and/or inside|; then leaves|, then leaves|, etc.|etc., and so on|at home!|at home!!|'
    "really?!|on 12/25/2010|, he said|in the U.S.|in the U.S.A. today|on Elm Ave.|e.g. here|i.e., there|vs. the wall|"
    "à la carte|on the _stage_|* twice *|at 1280x720|for 5kg|during the 2nd half|– twice|—|(see fig. 2)|<b>now</b>|"
    "in sec. 3.2|over 1.5-2 miles|with his/her/its dog|at the dogs'|a.m. to p.m.|pro- and anti-war|`quietly'|``loudly''"
).split("|")
ENDS = ["", "", "", ".", " .", "!", "?", "...", "…", ";", " -", '"', "'", '."', " etc.", " U.S.", "  ", " !!!"]

VERBS = (
    "sit|sits|sitting|sat|play|plays|playing|played|run|ran|running|hold|holding|held|look|looks|looking|walk|walking|"
    "jump|jumps|eat|eating|take|took|taken|feed|feeding|wave|waving|leave|left|leaves|dance|dancing|stand|stood|clap"
).split("|")
NOUNS = (
    "chair|chairs|dog|dogs|baby|babies|man|men|woman|toy|toys|hand|hands|ball|child|children|grass|snow|leaves|glasses|"
    "guitar|camera|water|bottle|kitchen|living room|playground|hat|ears|knives|music|bicycle|truck|stage|phone|nothing"
).split("|")
OTHERS = (
    "yes|no|one|two|three|5|red|blue|black and white|happy|scared|excited|excitedly|quickly|better|taller|in the park|"
    "on the table|to the left|to get closer|because it's tired|can't see|don't know|towards the camera|he is bored|"
    "waiting for his turn|having fun|look at each other|mother's hand|cannot reach|e.g. a dog|up, then down|"
).split("|")


def examples(wordnet: Path) -> list[list[str]]:
    """Of every sense, its example sentences in quotation marks."""
    found = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (wordnet / f"data.{part}").read_text("latin-1").splitlines():
            quoted = re.findall(r'"([^"]+)"', line.partition("| ")[2])
            found.append([sentence.strip() for sentence in quoted if len(sentence.split()) > 2])
    return found


def changed(caption: str, draw: random.Random) -> str:
    """With some words left out, doubled or exchanged."""
    words = []
    for word in caption.split():
        words += draw.choices([[word], [], [word, word]], [0.85, 0.1, 0.05])[0]
    if len(words) > 3 and draw.random() < 0.4:
        i = draw.randrange(len(words) - 1)
        words[i], words[i + 1] = words[i + 1], words[i]
    return " ".join(words)


def made(draw: random.Random) -> list[str]:
    """Four captions of one imagined video."""
    who, does, where = draw.sample(WHO, 2), draw.sample(DOES, 2), draw.sample(WHERE, 3)
    return [f"{draw.choice(who)} {draw.choice(does)} {draw.choice(where)}{draw.choice(ENDS)}" for _ in range(4)]


def captions(wordnet: Path, draw: random.Random) -> list[dict[str, Any]]:
    senses = [sentences for sentences in examples(wordnet) if len(sentences) >= 2]
    # as many as possible with something else than words
    senses.sort(key=lambda sentences: -sum(len(set(re.findall(r"[^\w ,]", sentence))) for sentence in sentences))
    real = senses[: NUM_REAL // 2] + draw.sample(senses[NUM_REAL // 2 :], NUM_REAL // 2)
    items = [
        {"prediction": changed(draw.choice(texts), draw), "references": texts[:5]}
        for texts in [*real, *(made(draw) for _ in range(NUM_MADE))]
    ]
    items[0]["prediction"] = items[NUM_REAL]["prediction"] = ""
    return items


def score_captions(items: list[dict[str, Any]]) -> dict[str, Any]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    # one line each: Java leaves out an empty last line, so predictions go with something after them
    said = tokenizer.tokenize(
        {i: [{"caption": one["prediction"]}] for i, one in enumerate([*items, {"prediction": "x"}])}
    )
    del said[len(items)]
    right = tokenizer.tokenize({i: [{"caption": text} for text in one["references"]] for i, one in enumerate(items)})
    for i, one in enumerate(items):
        one["prediction_tokens"], one["reference_tokens"] = said[i][0], right[i]
    cider, per_cider = Cider().compute_score(right, said)
    rouge, per_rouge = Rouge().compute_score(right, said)
    bleu, per_bleu = Bleu(4).compute_score(right, said, verbose=0)
    for i, one in enumerate(items):
        one["cider_d"] = round(100 * float(per_cider[i]), 8)
        one["rouge_l"] = round(100 * float(per_rouge[i]), 8)
        one["bleu"] = [round(100 * float(per_bleu[n][i]), 8) for n in range(4)]
    return {"cider_d": 100 * float(cider), "rouge_l": 100 * float(rouge), "bleu": [100 * float(one) for one in bleu]}


def answers(draw: random.Random) -> list[dict[str, Any]]:
    def phrase() -> str:
        verb, noun = draw.choice(VERBS), draw.choice(NOUNS)
        forms = [verb, noun, f"{verb} the {noun}", f"{verb} on {noun}", f"the {noun} is {verb}", draw.choice(OTHERS)]
        return draw.choice(forms)

    kinds = ["CW", "CH", "TN", "TC", "DL", "DO", "DC", "DB"]
    items = []
    for _ in range(NUM_ANSWERS):
        right = [phrase() for _ in range(draw.choice([1, 2]))]
        said = draw.choice([phrase(), changed(right[0], draw), f"{draw.choice(VERBS)} {right[0]}"])
        items.append({"prediction": said, "answers": [one or "nothing" for one in right], "kind": draw.choice(kinds)})
    return items


def score_answers(items: list[dict[str, Any]], nltk_data: Path, next_oe: Path) -> dict[str, list[str]]:
    """Scores them; returns the tags that NLTK gave to every list of words it was asked about."""
    os.environ["NLTK_DATA"] = str(nltk_data)
    import importlib.util

    import nltk
    from nltk.corpus import wordnet

    # Answers are taken as one sentence each: NLTK's model of sentence ends is not needed for phrases.
    nltk.sent_tokenize = nltk.tokenize.sent_tokenize = lambda text, language="english": [text]
    found = importlib.util.find_spec("pywsd")
    assert found is not None
    package = types.ModuleType("pywsd")  # its __init__ loads corpora that the lemmatiser does not use
    package.__path__ = list(found.submodule_search_locations or [])
    sys.modules["pywsd"] = package
    import pywsd.utils

    pywsd.utils.wn = wordnet
    sys.path.insert(0, str(next_oe))
    import metrics  # NExT-OE's

    tags: dict[str, list[str]] = {}
    original = nltk.pos_tag

    def remembered(words: list[str]) -> list[tuple[str, str]]:
        tagged = original(words)
        tags[" ".join(words)] = [tag for _, tag in tagged]
        return tagged

    pywsd.utils.pos_tag = remembered
    stop_words = (next_oe / "stopwords.txt").read_text().splitlines()

    def content(text: str) -> str:
        lemmas = pywsd.utils.lemmatize_sentence(text, postagger=remembered)
        return " ".join(lemma for lemma in lemmas if lemma not in stop_words)

    for one in items:
        said, right = content(one["prediction"]), [content(answer) for answer in one["answers"]]
        one["content"] = said
        for name, threshold in (("wups_0", 0.0), ("wups_0.9", 0.9)):
            if one["kind"] in ("DC", "DB"):
                one[name] = float(said in right)
            else:
                one[name] = round(float(max(metrics.get_wups(said, answer, threshold) for answer in right)), 12)
    return tags


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("wordnet", "nltk-data", "next-oe", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    draw = random.Random(20220429)
    items = captions(given.wordnet, draw)
    corpus = score_captions(items)
    asked = answers(draw)
    tags = score_answers(asked, given.nltk_data, given.next_oe)
    found = {"licence": LICENCE, "captions": items, "corpus": corpus, "answers": asked, "tags": tags}
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    with gzip.GzipFile(given.out, "wb", mtime=0) as file:
        file.write(text.encode())
    number = sum(1 + len(one["references"]) for one in items)
    print(f"{number} captions of {len(items)} videos, {len(asked)} answers; {corpus}; {given.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
