"""The page of a run, as a pure function of its numbers: no network, no script, every text from outside escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from videoflamingo.evaluation.page_parts import STYLE, frames_row
from videoflamingo.evaluation.report_cases import Case, Said, shares
from videoflamingo.evaluation.report_tables import (
    BASELINE_TITLES,
    CONDITION_TITLES,
    also_table,
    difference_of,
    groups_table,
    interval_of,
    scores_plot,
    scores_table,
    section,
    shots_of,
    trials_table,
)
from videoflamingo.evaluation.summary import Row, entry_of

SHOWN_FAILURES = 50
LONG_TEXT = 90  # characters; a longer value of the protocol stands on lines of its own


def render_report(
    summary: Row, protocol: Mapping[str, Any], description: Sequence[str], best: Sequence[Case], worst: Sequence[Case]
) -> str:
    """The whole page as HTML.

    Args:
        summary: as `summarise` gives it.
        protocol: whatever says how the run was made, nested as wanted; it is shown whole.
        description: of the benchmark, in sentences.
        best, worst: cases to show with frames.
    """
    return _PAGE.substitute(
        style=STYLE,
        benchmark=escape(summary["benchmark"]),
        intro="".join(f"<p>{escape(sentence)}</p>" for sentence in description),
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in _notes(summary)),
        headline="".join(f"<li>{line}</li>" for line in _headline(summary)),
        plot=f'<section class="wide">{scores_plot(summary)}</section>' if summary["scores"] else "",
        scores=scores_table(summary),
        also=also_table(summary),
        trials=trials_table(summary),
        groups=groups_table(summary),
        best=_cases("Best answers", "The highest scores; of equal ones those the model was most sure of.", best),
        worst=_cases("Worst answers", "The lowest scores; of equal ones those the model was most sure of.", worst),
        failures=_failures(summary),
        protocol=section("How it was done", _values(_data(summary) | dict(protocol))),
    )


def _headline(summary: Row) -> Iterable[str]:
    """What one should know after ten seconds; HTML."""
    real = [entry for entry in summary["scores"] if entry["condition"] == "real"]
    if not real:
        yield "Nothing has been asked yet."
        return
    last = max(real, key=lambda entry: int(entry["num_shots"]))
    first = min(real, key=lambda entry: int(entry["num_shots"]))
    told = f"<b>{last['mean']:.1f}</b> with {shots_of(last)} {interval_of(last)}"
    if first is not last:
        told += f"; {first['mean']:.1f} with {shots_of(first)}"
    yield f"{told} ({escape(summary['metric_title'])})."
    for name, baseline in summary["baselines"].items():
        line = f"{BASELINE_TITLES[name].capitalize()}: {baseline['mean']:.1f}"
        if name in last["above"]:
            line += f" (difference {difference_of(last['above'][name])})"
        yield line + "."
    blind = entry_of(summary, "no_video", last["num_shots"])
    if blind and "real_minus" in blind:
        yield f"Without any video: {blind['mean']:.1f} (difference {difference_of(blind['real_minus'])})."
    yield (
        f"{summary['num_asked']:,} questions about {summary['num_videos']:,} videos; intervals are of 95 % and take "
        "videos, not questions, as independent."
    )


def _notes(summary: Row) -> Iterable[str]:
    if summary["num_asked"] < summary["num_query"]:
        yield (
            f"{summary['num_asked']:,} of the benchmark's {summary['num_query']:,} questions were asked; the numbers "
            "are of these."
        )
    errors = sum(failure["num_questions"] for failure in summary["failures"])
    if errors:
        yield (
            f"{_count(len(summary['failures']), 'video')} could not be read. {_count(errors, 'answer')} missing for "
            "that count as wrong."
        )
    asked = {
        entry["num_items"] // max(len(entry["trials"]), 1)
        for entry in summary["scores"]
        if entry["condition"] == "real"
    }
    if len(asked) > 1:
        yield "Not every number of shots was asked as many questions: the run is not finished, or was made in parts."


def _cases(title: str, told: str, cases: Sequence[Case]) -> str:
    if not cases:
        return ""
    return f'<h2>{title}</h2><p class="grey">{told}</p>' + "".join(map(_case, cases))


def _case(case: Case) -> str:
    example = case.sample.example
    count = f" ({len(case.frames)} of {case.num_frames} frames)" if len(case.frames) < case.num_frames else ""
    note = f'<p class="note">{escape(case.note)}</p>' if case.note else ""
    question = "" if example.question is None else f'<p class="prompt">{escape(example.question)}</p>'
    truth = "<br>".join(escape(answer) for answer in example.answers[:5])
    if len(example.answers) > 5:
        truth += f'<br><span class="grey">and {len(example.answers) - 5} more</span>'
    rows = f"<tr><th>truth</th><td>{truth}</td><td></td></tr>" if not example.options else ""
    rows += "".join(_said(number, said, example.options) for number, said in enumerate(case.said))
    answers = f"<table>{rows}</table>"
    if example.options:
        answers = f'<div class="beside">{_options(case)}<div>{answers}</div></div>'
    kind = f" &middot; {escape(example.kind)}" if example.kind else ""
    return (
        f'<section class="case">{frames_row(case.frames, case.times_seconds)}'
        f'<p class="file">{escape(example.video)}{count}</p>{note}{question}{answers}'
        f'{_shown(case)}<p class="place">{escape(example.id)}{kind}'
        f"{f' &middot; {escape(example.place)}' if example.place else ''}</p></section>"
    )


def _options(case: Case) -> str:
    example, believed = case.sample.example, shares(case.sample)
    if not example.options:
        return ""
    rows = ""
    for number, option in enumerate(example.options):
        right = number == example.answer_index
        share = believed[number] if number < len(believed) else 0.0
        chosen = " chosen" if option == case.sample.answer else ""
        rows += (
            f'<tr class="option{chosen}"><td>{escape(option)}</td>'
            f'<td><div class="bar" style="width:{100 * share:.1f}%"></div>{100 * share:.1f} %</td>'
            f"<td>{'<span class=right>✓ right</span>' if right else ''}</td></tr>"
        )
    return f'<div><table class="options">{rows}</table></div>'


def _said(number: int, said: Said, options: Sequence[str]) -> str:
    one = said.sample
    if one.answered.error:
        text = f'<span class="wrong">not read: {escape(one.answered.error)}</span>'
    elif one.unparsed:
        text = '<span class="wrong">(nothing that could be read)</span>'
    else:
        text = escape(one.answer)
    if one.score in (0.0, 100.0):
        told = '<span class="right">✓ right</span>' if one.score else '<span class="wrong">wrong</span>'
    else:
        told = f"{one.score:.1f}"
    name = _count(said.num_shots, "shot") if said.condition == "real" else CONDITION_TITLES[said.condition]
    return f"<tr{' class=now' if number == 0 else ''}><th>{escape(name)}</th><td>{text}</td><td>{told}</td></tr>"


def _shown(case: Case) -> str:
    if not case.shots:
        return ""
    rows = "".join(
        f"<tr><td>{escape(shot.question or '')}</td><td>{escape(shot.answers[0])}</td>"
        f'<td class="grey">{escape(shot.video.rpartition("/")[2])}</td></tr>'
        for shot in case.shots
    )
    told = f"{_count(len(case.shots), 'example')} shown before it"
    return f"<details><summary>{told}</summary><table>{rows}</table></details>"


def _failures(summary: Row) -> str:
    failures = summary["failures"]
    if not failures:
        return ""
    rows = "".join(
        f"<tr><td>{escape(one['video'])}</td><td>{escape(one['error'])}</td><td>{one['num_questions']:,}</td></tr>"
        for one in failures[:SHOWN_FAILURES]
    )
    more = f'<p class="grey">and {len(failures) - SHOWN_FAILURES} more</p>' if len(failures) > SHOWN_FAILURES else ""
    return section(
        "Videos that could not be read",
        f"<table><tr><th>video</th><th>why</th><th>answers missing</th></tr>{rows}</table>{more}",
    )


def _data(summary: Row) -> dict[str, Any]:
    """What was asked, for the head of the protocol."""
    return {
        "benchmark": {
            "name": summary["benchmark"],
            "digest of its examples": summary["data_digest"],
            "metric": summary["metric_title"],
            "questions asked": f"{summary['num_asked']:,} of {summary['num_query']:,}",
            "videos asked about": summary["num_videos"],
            "examples to show": summary["num_support"],
        }
    }


def _values(values: Mapping[str, Any]) -> str:
    """Anything nested, as a table of names and values."""
    rows = "".join(
        f"<tr><th>{escape(str(name).replace('_', ' '))}</th><td>{_value(one)}</td></tr>" for name, one in values.items()
    )
    return f'<table class="values">{rows}</table>'


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return _values(value) if value else '<span class="grey">none</span>'
    if isinstance(value, list | tuple):
        return _value(", ".join(str(one) for one in value)) if value else '<span class="grey">none</span>'
    if value is None or value == "":
        return '<span class="grey">none</span>'
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 100_000 else str(value)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"<pre>{escape(text)}</pre>" if "\n" in text or len(text) > LONG_TEXT else escape(text)


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Few-shot results: $benchmark</title>
<style>$style
  :root { --real: #0072b2; --no_video: #d55e00; --shuffled_frames: #009e73; --swapped_videos: #cc79a7;
          --swapped_answers: #b8860b; --bar: #dbe7f6; }
  @media (prefers-color-scheme: dark) {
    :root { --real: #56b4e9; --no_video: #ff8c42; --shuffled_frames: #35c79c; --swapped_videos: #e39cc3;
            --swapped_answers: #e6b54a; --bar: #2b3d57; }
  }
  body { max-width: 1240px; }
  table { width: 100%; border-collapse: collapse; }
  tr:last-child > * { border-bottom: 0; }
  .small { color: var(--grey); font-size: .8rem; white-space: nowrap; font-weight: 400; }
  .nowrap { white-space: nowrap; }
  .faint { opacity: .55; }
  .wrong { color: var(--wrong); }
  .numbers { font-variant-numeric: tabular-nums; }
  .numbers th, .numbers td { overflow-wrap: normal; padding-right: 1.1rem; }
  .numbers th { white-space: nowrap; }
  .numbers tr:first-child th { white-space: normal; vertical-align: bottom; min-width: 4.5rem; }
  .bars td { position: relative; min-width: 5rem; }
  .bar { height: .3rem; margin: .1rem 0 .15rem; min-width: 1px; background: var(--real); border-radius: 2px;
         opacity: .75; }
  .case table { table-layout: fixed; }
  .case th { width: 10rem; }
  .case td:last-child { width: 4.5rem; }
  .beside { display: grid; grid-template-columns: 1fr 1fr; gap: 2.5rem; }
  .case .now td:nth-child(2) { font-weight: 600; }
  .options td:nth-child(2) { width: 6rem; color: var(--grey); font-size: .85rem; }
  .options .chosen td:first-child { font-weight: 600; }
  .case details td:last-child { width: 14rem; font-size: .8rem; }
  .values .values { margin: -.35rem 0; }
  .values th { width: 14rem; }
  .values .values th { width: 11rem; }
  pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; }
  .plot { display: block; width: 100%; min-width: 640px; height: auto; font-family: inherit; }
  .plot text { fill: var(--grey); font-size: 13px; }
  .plot .value { fill: var(--real); font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
  .plot .main { fill: var(--ink); font-weight: 600; }
  .plot .name { fill: var(--ink); }
  .plot .grid { stroke: var(--rule); stroke-width: 1; }
  .plot .leader { fill: none; stroke: var(--grey); stroke-width: .8; opacity: .6; }
  .plot .band-real { fill: var(--real); opacity: .16; }
  .plot polyline, .plot line { fill: none; }
  .plot .line-real { stroke: var(--real); stroke-width: 3; }
  .plot .dot-real { fill: var(--real); stroke: var(--card); stroke-width: 1.5; }
  .plot .line-no_video { stroke: var(--no_video); stroke-width: 1.8; }
  .plot .dot-no_video { fill: var(--no_video); }
  .plot .line-shuffled_frames { stroke: var(--shuffled_frames); stroke-width: 1.8; stroke-dasharray: 7 3; }
  .plot .dot-shuffled_frames { fill: var(--shuffled_frames); }
  .plot .line-swapped_videos { stroke: var(--swapped_videos); stroke-width: 1.8; stroke-dasharray: 3 3; }
  .plot .dot-swapped_videos { fill: var(--swapped_videos); }
  .plot .line-swapped_answers { stroke: var(--swapped_answers); stroke-width: 1.8; stroke-dasharray: 9 3 2 3; }
  .plot .dot-swapped_answers { fill: var(--swapped_answers); }
  .plot .line-majority, .plot .line-majority_of_kind, .plot .line-chance { stroke: var(--grey); stroke-width: 1.4; }
  .plot .line-majority { stroke-dasharray: 8 4; }
  .plot .line-majority_of_kind { stroke-dasharray: 2 3; }
  .plot .line-chance { stroke-dasharray: 12 3 2 3; }
  .plot .whisker { stroke-width: 1.2; stroke-dasharray: none; opacity: .5; }
  @media (max-width: 800px) { .beside { grid-template-columns: 1fr; gap: 1rem; } }
  @media (max-width: 640px) { .case th { width: 7rem; } .values th, .values .values th { width: 6rem; } }
</style>
</head>
<body>
<header>
<h1>Few-shot results: $benchmark</h1>
$intro
$notes
<ul>$headline</ul>
</header>
<main>$plot
$scores
$groups
$also
$trials
$best
$worst
$failures
$protocol</main>
</body>
</html>
""")
