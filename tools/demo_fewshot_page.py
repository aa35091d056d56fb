"""The few-shot part of the demo's page as HTML. Every clip is in it once, as a strip of its frames that CSS plays."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from videoflamingo.clip import Clip

from .demo_fewshot import SUBJECTS, Lesson, Named, Subject, Taught, Told, examples, outcome

FRAME_HEIGHT, STILL_HEIGHT = 128, 192
# What to know before looking, of each kind of lesson.
INTRODUCTIONS: dict[Subject, str] = {
    "drawings": "Both drawings are held out: training never showed them. Each picture has another background, place "
    "and size.",
    "motions": "The same drawing is in every video, from another place and on another background, so that only its way "
    "tells the two apart. What leaves at one side comes in at the other.",
    "films": "The first third of each film is an example; it is asked about the second and the last third of each.",
}

_STYLE = """
  .names { display: flex; flex-wrap: wrap; gap: .35rem 1.25rem; margin: .5rem 0 1rem; padding: 0; list-style: none; }
  .name { padding: .05rem .5rem; border-radius: 99px; font-weight: 600; white-space: nowrap; }
  .of0 { --own: #2f66c9; --own-soft: #dfe9fb; } .of1 { --own: #b4580a; --own-soft: #fbe9d6; }
  .of2 { --own: #0d7a68; --own-soft: #d8f1ec; }
  .name { background: var(--own-soft); color: var(--own); }
  .columns { display: grid; gap: .75rem; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); }
  .column { display: flex; flex-direction: column; gap: .6rem; padding: .75rem; border: 1px solid var(--rule);
            border-radius: 8px; }
  .column h4 { margin: 0; font-size: .95rem; }
  .shots { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: .35rem; align-items: end; }
  .films .shots { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .shots figcaption { margin-top: .15rem; overflow: hidden; color: var(--own); font-weight: 600; font-size: .7rem; }
  .answers .word { display: none; }
  .none { margin: 0; color: var(--grey); font-size: .85rem; }
  .asked { margin-top: auto; padding-top: .6rem; border-top: 1px dashed var(--rule); }
  .asked p { margin: .35rem 0; }
  .asked .clip { max-width: 15rem; }
  .said { font-size: 1.1rem; font-weight: 600; overflow-wrap: anywhere; }
  .bar { display: grid; grid-template-columns: 1fr auto; gap: 0 .5rem; margin-top: .3rem; font-size: .8rem; }
  .bar b { color: var(--own); font-weight: 600; }
  .bar span { color: var(--grey); font-variant-numeric: tabular-nums; }
  .bar i { grid-column: 1 / -1; height: .4rem; border-radius: 99px; background: var(--rule); overflow: hidden; }
  .bar i::before { display: block; width: var(--share); height: 100%; background: var(--own); content: ""; }
  .wrong { color: var(--wrong); font-weight: 600; white-space: nowrap; }
  .clip { aspect-ratio: var(--aspect); border-radius: 4px; background-size: 100% 100%; }
  .plays { background-size: 800% 100%; animation: play var(--seconds) steps(8, jump-none) infinite; }
  .strip { aspect-ratio: calc(8 * var(--aspect)); border-radius: 4px; background-size: 100% 100%; }
  .strip::after { display: block; height: 100%; content: "";
                  background: repeating-linear-gradient(90deg, transparent 0 calc(12.5% - 3px), var(--card) 0 12.5%); }
  .strip.still { aspect-ratio: var(--aspect); }
  .strip.still::after { content: none; }
  @keyframes play { from { background-position: 0 0; } to { background-position: 100% 0; } }
  .plays:hover { animation-play-state: paused; }
  .answers { width: 100%; margin-top: 1rem; border-collapse: collapse; }
  .answers td { font-size: .9rem; line-height: 1.7; }
  .answers td:first-child { width: 10rem; }
  .answers td .clip { width: 4.5rem; margin-bottom: .2rem; }
  .answers tr:last-child td { border-bottom: 0; font-weight: 600; }
  .whole { margin-bottom: .75rem; }
  .strips { display: grid; gap: .4rem .75rem; margin-top: .5rem; font-size: .8rem; }
  .strips a { color: var(--accent); }
  .strips > div { display: grid; gap: .2rem .75rem; grid-template-columns: 9rem 1fr; }
  .drawings .strips { grid-template-columns: repeat(6, minmax(0, 1fr)); }
  .drawings .strips > div { grid-template-columns: 1fr; }
  @media (prefers-color-scheme: dark) {
    .of0 { --own: #9bbcf7; --own-soft: #22344f; } .of1 { --own: #f2b679; --own-soft: #46311a; }
    .of2 { --own: #7fd6c5; --own-soft: #173d37; }
  }
  @media (prefers-reduced-motion: reduce) { .plays { animation: none; } }
  @media (max-width: 860px) { .columns { grid-template-columns: minmax(0, 1fr); } .shots { max-width: 30rem; }
    .asked .clip { max-width: 9rem; } }
  @media (max-width: 640px) { .strips > div { grid-template-columns: 1fr; }
    .drawings .strips { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
"""


def style(taught: Sequence[Taught]) -> str:
    """How lessons look, with all their frames, for the page's head."""
    pictures = (
        f".{_picture(one.lesson, sample)} {{ {_background(sample.clip)} }}\n"
        for one in taught
        for sample in (*one.lesson.shots, *one.lesson.queries)
    )
    return _STYLE + "".join(pictures)


def section(taught: Sequence[Taught], model_name: str) -> str:
    """All lessons, with what came out on top; nothing without lessons."""
    if not taught:
        return ""
    results = "".join(
        f"<li><b>{escape(SUBJECTS[one.lesson.subject])}:</b> {escape(outcome(one))}</li>" for one in taught
    )
    return (
        "<h2>Learning from the prompt</h2>"
        "<p>Show it a few examples of something it has never seen, then ask about the next. Nothing is trained here: "
        "the examples only stand before the question, and their names were made up at random for this page, so that "
        f"{escape(model_name)} can know them from nowhere else. It is asked the same after more and more examples: "
        "once freely, and once which of the names is the likeliest. Bars are the likelihood of each name among all of "
        "them, and log p is the logarithm of its probability among everything that could be said.</p>"
        f'<ul class="results">{results}</ul>{"".join(_lesson(one, model_name) for one in taught)}'
    )


def _lesson(taught: Taught, model_name: str) -> str:
    lesson = taught.lesson
    names = "".join(f"<li>{_name(lesson, name)} {escape(what)}</li>" for name, what in lesson.meanings.items())
    columns = "".join(_column(lesson, of_count[0]) for of_count in taught.answers)
    first = lesson.queries[0]
    whole = f'<div class="whole">{_strip(lesson, first)}</div>' if len(first.clip) > 1 else ""
    return (
        f'<section class="{lesson.subject}"><h3>{escape(SUBJECTS[lesson.subject])}</h3>'
        f"<p>{escape(INTRODUCTIONS[lesson.subject])} Asked each time: “{escape(lesson.question)}”</p>"
        f'<ul class="names">{names}</ul><p>The first question, where {_name(lesson, first.name)} is right:</p>{whole}'
        f'<div class="columns" style="--columns: {len(taught.answers)}">{columns}</div>'
        f"{_answers(taught)}{_strips(lesson)}</section>"
    )


def _column(lesson: Lesson, told: Told) -> str:
    """A prompt: the examples, the question, and what was answered."""
    shots = lesson.shots[: told.num_shots]
    figures = "".join(
        f'<figure class="{_class(lesson, shot.name)}">{_clip(lesson, shot)}<figcaption>{escape(shot.name)}</figcaption>'
        "</figure>"
        for shot in shots
    )
    shown = f'<div class="shots">{figures}</div>' if shots else '<p class="none">only the question</p>'
    scores = "".join(_bar(lesson, told, name) for name in lesson.names)
    return (
        f'<div class="column"><h4>{examples(told.num_shots)}</h4>{shown}<div class="asked">'
        f'{_clip(lesson, lesson.queries[0])}<p>{escape(lesson.question)}</p><p class="said">{_said(told)}</p>'
        f"{scores}<p>picks {_name(lesson, told.picked)} {_mark(told.picked_right)}</p></div></div>"
    )


def _bar(lesson: Lesson, told: Told, name: str) -> str:
    share = f"{100 * told.probabilities[name]:.0f}%"
    score = f"{told.log_probabilities[name]:.1f}".replace("-", "&minus;")
    return (
        f'<div class="bar {_class(lesson, name)}" style="--share: {share}"><b>{escape(name)}</b>'
        f"<span>{share} <small>log p {score}</small></span><i></i></div>"
    )


def _answers(taught: Taught) -> str:
    """Every query after each number of examples, as a table with how many were right."""
    lesson = taught.lesson
    head = "".join(f"<th>{examples(count)}</th>" for count in lesson.num_shots)
    rows = []
    for index, query in enumerate(lesson.queries):
        cells = "".join(f"<td>{_cell(lesson, of_count[index])}</td>" for of_count in taught.answers)
        rows.append(f"<tr><td>{_clip(lesson, query)}{_name(lesson, query.name)}</td>{cells}</tr>")
    total = len(lesson.queries)
    counts = zip(taught.num_picked_right, taught.num_said_right, strict=True)
    sums = "".join(f"<td>picked {picked} of {total}<br>said {said} of {total}</td>" for picked, said in counts)
    return (
        f'<div class="wide"><table class="answers"><tr><th>asked about</th>{head}</tr>{"".join(rows)}'
        f'<tr><td>right <span class="grey">(guessing: {taught.guessing:.0f})</span></td>{sums}</tr></table></div>'
    )


def _cell(lesson: Lesson, told: Told) -> str:
    share = f"{100 * told.probabilities[told.picked]:.0f}%"
    return f"{_said(told)}<br>picks {_name(lesson, told.picked)} {share} {_mark(told.picked_right)}"


def _strips(lesson: Lesson) -> str:
    """All frames, each clip with the file that they are of."""
    rows = []
    for role, samples in (("example", lesson.shots), ("asked", lesson.queries)):
        for number, sample in enumerate(samples, 1):
            times = sample.clip.pts_seconds
            when = f" {times[0]:.2f} to {times[-1]:.2f} s" if len(times) > 1 else ""
            rows.append(
                f'<div><div><a href="videos/{escape(sample.file.name)}">{role} {number}</a> '
                f'{_name(lesson, sample.name)}<span class="grey">{when}</span></div>{_strip(lesson, sample)}</div>'
            )
    return f'<details><summary>every frame that it saw</summary><div class="strips">{"".join(rows)}</div></details>'


def _strip(lesson: Lesson, sample: Named) -> str:
    """All frames beside each other."""
    still = " still" if len(sample.clip) == 1 else ""
    return f'<div class="strip{still} {_picture(lesson, sample)}" role="img" aria-label="every frame"></div>'


def _said(told: Told) -> str:
    said = f"“{escape(told.said)}”" if told.said else '<span class="grey">(nothing)</span>'
    return f"{said} {_mark(told.said_right)}"


def _mark(right: bool) -> str:
    kind, sign = ("right", "✓") if right else ("wrong", "✗")
    return f'<span class="{kind}" title="{kind}">{sign}<span class="word"> {kind}</span></span>'


def _name(lesson: Lesson, name: str) -> str:
    return f'<span class="name {_class(lesson, name)}">{escape(name)}</span>'


def _class(lesson: Lesson, name: str) -> str:
    return f"of{lesson.names.index(name)}"


def _picture(lesson: Lesson, sample: Named) -> str:
    """CSS class that has the sample's frames as its background."""
    return f"{lesson.subject}-{[*lesson.shots, *lesson.queries].index(sample)}"


def _clip(lesson: Lesson, sample: Named) -> str:
    plays = " plays" if len(sample.clip) > 1 else ""
    return f'<div class="clip{plays} {_picture(lesson, sample)}" role="img" aria-label="what it was shown"></div>'


def _background(clip: Clip) -> str:
    """Its frames beside each other, the shape of one of them, and how long they last at their own pace."""
    height, width = clip.frames.shape[2:]
    own = STILL_HEIGHT if len(clip) == 1 else FRAME_HEIGHT
    size = (round(own * width / height), own)
    strip = Image.new("RGB", (size[0] * len(clip), own))
    for index, frame in enumerate(clip.frames):
        strip.paste(Image.fromarray(frame.transpose(1, 2, 0)).resize(size), (index * size[0], 0))
    stream = io.BytesIO()
    strip.save(stream, "JPEG", quality=80)
    url = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
    gap = float(np.diff(clip.pts_seconds).mean()) if len(clip) > 1 else 0.0
    return f'background-image: url("{url}"); --aspect: {width / height:.4f}; --seconds: {len(clip) * gap:.2f}s;'
