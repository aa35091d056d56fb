"""The page of `PredictionsPage`: a pure function of what was asked, answered and measured."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from string import Template

from videoflamingo.evaluation.page_parts import STYLE, frames_row
from videoflamingo.training.shown_texts import ShownMedium

SHOWN_LOSSES = 12  # validations in the table of losses
SHOWN_ANSWERS = 4  # answers at once; older ones unfold


@dataclass(frozen=True)
class Asked:
    """A text of a validation split, with what the model answered so far.

    Args:
        place: where it comes from.
        answers: (step, answer), oldest first; none where the model was not asked.
        num_media: how many it has, of which `media` may be the first few.
    """

    place: str
    prompt: str
    truth: str
    media: Sequence[ShownMedium]
    answers: Sequence[tuple[int, str]] = ()
    num_media: int = 0


@dataclass(frozen=True)
class Losses:
    """A dataset's losses at one validation; None where there was none."""

    step: int
    training: float | None
    validation: float | None


@dataclass(frozen=True)
class Dataset:
    """What the page says of one dataset: losses oldest first."""

    name: str
    asked: Sequence[Asked]
    losses: Sequence[Losses] = ()


def render_page(datasets: Sequence[Dataset], step: int, notes: Iterable[str] = ()) -> str:
    """The whole page as HTML, its pictures inside it; every text from outside is escaped.

    Args:
        step: at which the model was asked last.
        notes: what the reader must know, such as that nothing was asked.
    """
    return _PAGE.substitute(
        style=STYLE,
        step=f"{step:,}",
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in notes),
        summary="".join(f"<li>{_summary(one)}</li>" for one in datasets),
        datasets="".join(_dataset(number, one) for number, one in enumerate(datasets)),
    )


def is_right(answer: str, truth: str) -> bool:
    """Whether an answer is the truth but for case, surrounding space and a full stop."""
    return answer.strip(" .").casefold() == truth.strip(" .").casefold()


def runs_of_answers(answers: Iterable[tuple[int, str]]) -> list[tuple[int, int, str]]:
    """Equal answers after each other as one: first step, last step, answer; newest first.

    >>> runs_of_answers([(0, "a dog"), (100, "a cat"), (200, "a cat")])
    [(100, 200, 'a cat'), (0, 0, 'a dog')]
    """
    runs = []
    for answer, group in groupby(answers, key=lambda one: one[1]):
        steps = [step for step, _ in group]
        runs.append((steps[0], steps[-1], answer))
    return runs[::-1]


def _summary(one: Dataset) -> str:
    told = f"<b>{escape(one.name)}</b>"
    if one.losses and one.losses[-1].validation is not None:
        told += f": validation loss {one.losses[-1].validation:.3f}"
    answered = [asked for asked in one.asked if asked.answers]
    right = sum(is_right(asked.answers[-1][1], asked.truth) for asked in answered)
    return told + (f", {right} of {len(answered)} answers below right" if answered else "")


def _dataset(number: int, one: Dataset) -> str:
    cards = "".join(map(_card, one.asked)) or '<p class="grey">No text of this dataset was seen.</p>'
    return f'<h2 id="dataset-{number}">{escape(one.name)}</h2>{_losses(one.losses)}{cards}'


def _losses(losses: Sequence[Losses]) -> str:
    if not losses:
        return ""
    shown = losses if len(losses) <= SHOWN_LOSSES else [losses[0], *losses[1 - SHOWN_LOSSES :]]
    rows = {
        "step": [f"{one.step:,}" for one in shown],
        "training loss, last step": [_number(one.training) for one in shown],
        "validation loss": [_number(one.validation) for one in shown],
    }
    cells = "".join(
        f"<tr><th>{name}</th>" + "".join(f"<td>{value}</td>" for value in values) + "</tr>"
        for name, values in rows.items()
    )
    return f'<div class="wide"><table class="losses">{cells}</table></div>'


def _number(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.3f}"


def _card(asked: Asked) -> str:
    media = "".join(map(_medium, asked.media))
    if asked.num_media > len(asked.media):
        media += f'<p class="grey">and {asked.num_media - len(asked.media)} more media, not shown</p>'
    runs = runs_of_answers(asked.answers)
    rows = "".join(_answer(run, asked.truth, now=number == 0) for number, run in enumerate(runs[:SHOWN_ANSWERS]))
    older = "".join(_answer(run, asked.truth, now=False) for run in runs[SHOWN_ANSWERS:])
    if older:
        older = f"<details><summary>older answers</summary><table>{older}</table></details>"
    if not runs:
        rows = '<tr><th>now</th><td class="grey">not asked</td><td></td></tr>'
    return (
        f'<section>{media}<p class="prompt">{escape(asked.prompt)}</p><table>'
        f"<tr><th>truth</th><td>{escape(asked.truth)}</td><td></td></tr>{rows}</table>{older}"
        f'<p class="place">{escape(asked.place)}</p></section>'
    )


def _answer(run: tuple[int, int, str], truth: str, now: bool) -> str:
    first, last, answer = run
    steps = f"step {last:,}" if first == last else f"steps {first:,} to {last:,}"
    steps = "before training" if last == 0 else steps
    said = escape(answer) if answer else '<span class="grey">(nothing)</span>'
    right = '<td class="right">✓ right</td>' if is_right(answer, truth) else "<td></td>"
    kind = ' class="now"' if now else ""
    return f"<tr{kind}><th>{'now, ' if now else ''}{steps}</th><td>{said}</td>{right}</tr>"


def _medium(medium: ShownMedium) -> str:
    times = [None] * len(medium.frames) if medium.times_seconds is None else medium.times_seconds
    frames = frames_row(medium.frames, times)
    count = f" ({len(medium.frames)} of {medium.num_frames} frames)" if len(medium.frames) < medium.num_frames else ""
    note = f'<p class="note">{escape(medium.note)}</p>' if medium.note else ""
    return f'{frames}<p class="file">{escape(medium.name)}{count}</p>{note}'


_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Answers while training, step $step</title>
<style>$style
  section table { width: 100%; border-collapse: collapse; table-layout: fixed; }
  section th { width: 12.5rem; }
  section td:last-child { width: 5.5rem; }
  section tr:last-child > * { border-bottom: 0; }
  .now td:nth-child(2) { font-weight: 600; }
  .losses { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; background: var(--card); }
  .losses th, .losses td { padding: .3rem .75rem; text-align: right; white-space: nowrap; }
  .losses th { text-align: left; }
  .losses td:last-child { font-weight: 600; }
  @media (max-width: 640px) { section th { width: 8rem; } }
</style>
</head>
<body>
<header>
<h1>Answers while training, step $step</h1>
<p>The first texts of each dataset's validation split, the same at every validation. The model sees the frames above a
prompt and goes on with it; its newest answer comes first.</p>
$notes
<ul>$summary</ul>
</header>
<main>$datasets</main>
</body>
</html>
""")
