"""The numbers of a report as HTML: the plot, and tables of scores, controls, types of question and trials."""

from collections.abc import Callable, Sequence
from html import escape

from videoflamingo.evaluation.report_plot import Line, Point, draw_scores
from videoflamingo.evaluation.results import CONDITIONS, Condition
from videoflamingo.evaluation.summary import Row, entry_of

CONDITION_TITLES: dict[Condition, str] = {
    "real": "real",
    "no_video": "no video",
    "shuffled_frames": "frames shuffled",
    "swapped_videos": "shots' videos swapped",
    "swapped_answers": "shots' answers swapped",
}
BASELINE_TITLES = {
    "majority": "most frequent answer",
    "majority_of_kind": "most frequent of its type",
    "chance": "chance",
}
ALSO_TITLES = {
    "accuracy_by_sum": "ranked by sum",
    "accuracy_by_mean": "ranked per token",
    "accuracy_by_characters": "ranked per character",
    "rouge_l": "ROUGE-L",
} | {f"bleu_{order}": f"BLEU-{order}" for order in range(1, 5)}


def scores_plot(summary: Row) -> str:
    """Score against shots, with controls and baselines."""
    lines = []
    for condition in CONDITIONS:
        own = sorted(
            (one for one in summary["scores"] if one["condition"] == condition), key=lambda one: one["num_shots"]
        )
        points = [Point(one["num_shots"], one["mean"], one["low"], one["high"]) for one in own]
        if points:
            lines.append(Line(CONDITION_TITLES[condition], condition, points, is_main=condition == "real"))
    for name, baseline in summary["baselines"].items():
        lines.append(Line(BASELINE_TITLES[name], name, [Point(0, baseline["mean"])], is_level=True))
    return draw_scores(lines, summary["metric_title"], None if summary["metric"] == "captions" else 100.0)


def scores_table(summary: Row) -> str:
    """Each number of shots with its controls and baselines beside it."""
    shots = sorted({entry["num_shots"] for entry in summary["scores"]})
    conditions = [one for one in CONDITIONS if any(entry["condition"] == one for entry in summary["scores"])]
    head = "".join(f"<th>{escape(CONDITION_TITLES[one])}</th>" for one in conditions)
    head += "".join(f"<th>{escape(BASELINE_TITLES[name])}</th>" for name in summary["baselines"])
    rows = []
    for num_shots in shots:
        real = entry_of(summary, "real", num_shots)
        cells = "".join(_score_cell(entry_of(summary, condition, num_shots), real) for condition in conditions)
        for name, baseline in summary["baselines"].items():
            cells += f"<td>{baseline['mean']:.1f}{_gain(real['above'].get(name) if real else None)}</td>"
        rows.append(f"<tr><th>{num_shots}</th>{cells}</tr>")
    return section(
        f"Score and controls: {summary['metric_title']}",
        '<p class="grey">Below a score its 95 % interval. Below a control or baseline, after the arrow, how much more '
        "the real condition scores on the same questions, with the interval of that difference; faint where that "
        "interval holds 0.</p>"
        f'<div class="wide"><table class="numbers"><tr><th>shots</th>{head}</tr>{"".join(rows)}</table></div>',
    )


def _score_cell(entry: Row | None, real: Row | None) -> str:
    if entry is None:
        return '<td class="grey">-</td>'
    is_real = entry["condition"] == "real"
    counts = [
        f"{entry[key]:,} {name}"
        for key, name in (("num_errors", "not read"), ("num_unparsed", "unparsed"))
        if entry[key] and (is_real or real is None or entry[key] != real[key])
    ]
    wrong = f'<div class="small wrong">{", ".join(counts)}</div>' if counts else ""
    if is_real and entry["spread"] is not None:
        wrong = f'<div class="small">&plusmn; {entry["spread"]:.1f} over {len(entry["trials"])} trials</div>{wrong}'
    if real is not None and entry["num_items"] != real["num_items"]:
        wrong = f'<div class="small">{entry["num_items"]:,} of {real["num_items"]:,} answers</div>{wrong}'
    number = f"<b>{entry['mean']:.1f}</b>" if is_real else f"{entry['mean']:.1f}"
    return f"<td>{number}<div>{interval_of(entry)}</div>{_gain(entry.get('real_minus'))}{wrong}</td>"


def interval_of(estimate: Row) -> str:
    """Its interval as HTML; nothing where there is none."""
    if estimate["low"] is None:
        return ""
    return f'<span class="small">[{estimate["low"]:.1f}, {estimate["high"]:.1f}]</span>'


def _gain(difference: Row | None) -> str:
    """Real minus something, below its cell."""
    if difference is None:
        return ""
    is_sure = difference["low"] is not None and not difference["low"] <= 0 <= difference["high"]
    kind = "small" if is_sure else "small faint"
    return f'<div class="{kind}">&rarr; {difference_of(difference)}</div>'


def difference_of(difference: Row) -> str:
    """A difference with its sign and interval, as HTML."""
    told = f"{difference['mean']:+.1f}".replace("-", "&minus;")
    if difference["low"] is not None:
        told += f" [{difference['low']:.1f}, {difference['high']:.1f}]".replace("-", "&minus;")
    return f'<span class="nowrap">{told}</span>'


def also_table(summary: Row) -> str:
    """Metrics beside the headline; nothing where there are none."""
    names = list(dict.fromkeys(name for entry in summary["scores"] for name in entry["also"]))
    if not names:
        return ""
    head = "".join(f"<th>{escape(ALSO_TITLES.get(name, name))}</th>" for name in names)

    def cells(entry: Row) -> str:
        return "".join(
            f"<td>{entry['also'][name]:.1f}</td>" if name in entry["also"] else "<td>-</td>" for name in names
        )

    return section("Other metrics", _by_condition(summary, head, cells))


def trials_table(summary: Row) -> str:
    """The mean of each trial; nothing where there is one."""
    trials = sorted({trial for entry in summary["scores"] for trial in entry["trials"]}, key=int)
    if len(trials) < 2:
        return ""
    head = "".join(f"<th>trial {int(trial)}</th>" for trial in trials) + "<th>mean</th><th>spread</th>"

    def cells(entry: Row) -> str:
        means = "".join(
            f"<td>{entry['trials'][trial]:.1f}</td>" if trial in entry["trials"] else "<td>-</td>" for trial in trials
        )
        spread = "-" if entry["spread"] is None else f"{entry['spread']:.2f}"
        return f"{means}<td><b>{entry['mean']:.1f}</b></td><td>{spread}</td>"

    told = "Trials differ in what is drawn, such as the shots. The spread is the standard deviation of their means."
    return section("Trials", f'<p class="grey">{told}</p>{_by_condition(summary, head, cells)}')


def _by_condition(summary: Row, head: str, cells: Callable[[Row], str]) -> str:
    """A line for each number of shots of the real condition; the controls' unfold."""

    def table(conditions: Sequence[Condition]) -> str:
        entries = [entry for one in conditions for entry in summary["scores"] if entry["condition"] == one]
        rows = "".join(
            f"<tr><th>{entry['num_shots']}</th><td>{escape(CONDITION_TITLES[entry['condition']])}</td>{cells(entry)}</tr>"
            for entry in entries
        )
        head_row = f"<tr><th>shots</th><th>condition</th>{head}</tr>"
        return f'<div class="wide"><table class="numbers">{head_row}{rows}</table></div>' if entries else ""

    controls = table([one for one in CONDITIONS if one != "real"])
    return table(["real"]) + (f"<details><summary>of the controls</summary>{controls}</details>" if controls else "")


def groups_table(summary: Row) -> str:
    """Scores by type of question; nothing where there is one."""
    real = sorted((one for one in summary["scores"] if one["condition"] == "real"), key=lambda one: one["num_shots"])
    groups = sorted({group for entry in real for group in entry["groups"]})
    if len(groups) < 2:
        return ""
    most = max(100.0, *(one["mean"] for entry in real for one in entry["groups"].values()))
    blind = entry_of(summary, "no_video", real[-1]["num_shots"])
    head = "".join(f"<th>{shots_of(entry)}</th>" for entry in real)
    head += f"<th>no video, {shots_of(blind)}</th>" if blind else ""
    head += "".join(f"<th>{escape(BASELINE_TITLES[name])}</th>" for name in summary["baselines"])
    rows = ""
    for group in groups:
        own = [entry["groups"].get(group) for entry in real] + ([blind["groups"].get(group)] if blind else [])
        cells = "".join(_bar_cell(estimate, most) for estimate in own)
        cells += "".join(_bar_cell(one["groups"].get(group), most, bare=True) for one in summary["baselines"].values())
        number = max(
            one["num_items"] // max(len(entry["trials"]), 1) for entry, one in zip(real, own, strict=False) if one
        )
        rows += f'<tr><th>{escape(group) or "(no type)"}</th><td class="grey">{number:,}</td>{cells}</tr>'
    return section(
        "By type of question",
        '<div class="wide"><table class="numbers bars"><tr><th>type</th><th>questions</th>'
        f"{head}</tr>{rows}</table></div>",
    )


def _bar_cell(estimate: Row | None, most: float, bare: bool = False) -> str:
    if estimate is None:
        return '<td class="grey">-</td>'
    if bare:
        return f'<td class="grey">{estimate["mean"]:.1f}</td>'
    width = 100 * min(max(estimate["mean"] / most, 0.0), 1.0)
    bar = f'<div class="bar" style="width:{width:.1f}%"></div>'
    return f"<td>{bar}{estimate['mean']:.1f}<div>{interval_of(estimate)}</div></td>"


def section(title: str, content: str) -> str:
    """A part of the page, of HTML."""
    return f"<h2>{escape(title)}</h2><section>{content}</section>"


def shots_of(entry: Row) -> str:
    """Its number of shots, in words."""
    return f"{entry['num_shots']} shot{'' if entry['num_shots'] == 1 else 's'}"
