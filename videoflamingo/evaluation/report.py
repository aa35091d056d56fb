"""What a run leaves behind for people: `summary.json`, two tables, and one page; and how two runs compare."""

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from videoflamingo.errors import UsageError
from videoflamingo.evaluation.benchmark import Benchmark, Example
from videoflamingo.evaluation.protocol import RankBy
from videoflamingo.evaluation.report_cases import best_and_worst
from videoflamingo.evaluation.report_html import render_report
from videoflamingo.evaluation.report_tables import CONDITION_TITLES
from videoflamingo.evaluation.results import Answered, Condition, read_results
from videoflamingo.evaluation.scoring import Sample, Scored, score
from videoflamingo.evaluation.statistics import paired_difference
from videoflamingo.evaluation.summary import METRIC_TITLES, Row, summarise

SCORE_COLUMNS = (
    *("benchmark", "metric", "condition", "num_shots", "trial", "type", "num_questions", "num_videos"),
    *("score", "low", "high", "num_errors", "num_unparsed"),
)
ANSWER_COLUMNS = (
    *("condition", "num_shots", "trial", "id", "type", "video", "question", "truth", "answer", "score"),
    *("mean_log_probability", "unparsed", "error", "shots"),
)


def write_report(
    folder: Path,
    benchmark: Benchmark,
    protocol: dict[str, Any],
    answered: Sequence[Answered],
    frames: Callable[[Example], list[Image.Image]],
    rank_by: RankBy = "sum",
) -> Row:
    """Write `summary.json`, `scores.csv` (each mean), `answers.csv` (each answer with its score) and `report.html`.

    Each file is replaced whole. An unfinished run has a report as well, which says so.

    Args:
        folder: of the run; made if need be.
        protocol: everything that says how the run was made: settings, prompt, versions, memory. It is shown as it is,
            nested mappings as nested tables and long texts on lines of their own.
        answered: so far.
        frames: what the model saw of an example, in order; asked only for the cases on the page. It may raise
            `VideoError` or `UsageError`, which the page then states.
        rank_by: how options are compared.

    Returns:
        What `summary.json` holds.

    Raises:
        UsageError: if the answers are to another benchmark, or the folder cannot be written.
    """
    scored = score(benchmark, answered, rank_by)
    summary = summarise(scored)
    best, worst = best_and_worst(scored, frames)
    page = render_report(summary, protocol, benchmark.description, best, worst)
    whole = summary | {"protocol": protocol}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("summary.json", json.dumps(whole, indent=2, ensure_ascii=False, default=str) + "\n"),
            ("scores.csv", _table(SCORE_COLUMNS, _score_rows(scored, summary))),
            ("answers.csv", _table(ANSWER_COLUMNS, _answer_rows(scored))),
            ("report.html", page),
        ):
            part = folder / f"{name}.part"  # whoever reads meanwhile sees the old one or the new one
            part.write_text(text, "utf-8")
            os.replace(part, folder / name)
    except OSError as error:
        raise UsageError(
            f"{folder}: the report cannot be written ({error}); make room, or name another folder"
        ) from error
    return whole


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return stream.getvalue()


def _score_rows(scored: Scored, summary: Row) -> list[list[object]]:
    """Each condition and number of shots by trial and over all trials, as a whole and by type of question."""
    benchmark = scored.benchmark
    rows: list[list[object]] = []

    def add(condition: str, num_shots: object, trial: object, own: Row, samples: Sequence[Sample]) -> None:
        for group, estimate in [("", own), *own["groups"].items()]:
            counted = [one for one in samples if not group or benchmark.group(one.example) == group]
            rows.append(
                [
                    *(benchmark.name, benchmark.metric, condition, num_shots, trial, group),
                    *(estimate[key] for key in ("num_items", "num_clusters", "mean", "low", "high")),
                    sum(bool(one.answered.error) for one in counted),
                    sum(one.unparsed for one in counted),
                ]
            )

    for entry in summary["scores"]:
        cells = scored.trials(entry["condition"], entry["num_shots"])
        for cell in cells if len(cells) > 1 else ():
            alone = Scored(benchmark, scored.rank_by, (cell,), scored.bounds, {})
            add(cell.condition, cell.num_shots, cell.trial, summarise(alone)["scores"][0], cell.samples)
        together = [one for cell in cells for one in cell.samples]
        add(entry["condition"], entry["num_shots"], cells[0].trial if len(cells) == 1 else "all", entry, together)
    for name, baseline in summary["baselines"].items():
        add(name, "", "", baseline, ())
    return rows


def _answer_rows(scored: Scored) -> list[list[object]]:
    return [
        [
            *(cell.condition, cell.num_shots, cell.trial, one.example.id, one.example.kind, one.example.video),
            *(one.example.question or "", " | ".join(one.example.answers), one.answer, one.score),
            *(one.answered.score, int(one.unparsed), one.answered.error, " ".join(one.answered.shots)),
        ]
        for cell in scored.cells
        for one in cell.samples
    ]


def compare_runs(first: Path, second: Path, benchmark: Benchmark, rank_by: RankBy = "sum") -> Row:
    """How the second run differs from the first on the questions that both asked, in the same trials.

    Returns:
        `differences`: an entry for each condition and number of shots, with both means, the difference, its 95 %
        interval clustered by video, the p-value of the sign-flip test, and how many questions got better and worse.
        `num_unpaired`: answers that only one of the runs has; they are left out.
        `text`: all of it as a table for a terminal.

    Raises:
        UsageError: if a run has no answers, is of another benchmark, or the two have no question in common.
    """
    scores = []
    for folder in (first, second):
        answered = read_results(folder)
        if not answered:
            raise UsageError(f"{folder}: has no results; name the folder of a run")
        try:
            cells = score(benchmark, answered, rank_by).cells
        except UsageError as error:
            raise UsageError(f"{folder}: {error}") from error
        scores.append({one.answered.key: one for cell in cells for one in cell.samples})
    both = [key for key in scores[0] if key in scores[1]]
    if not both:
        raise UsageError(
            f"{first} and {second} have no question in common: compare runs with the same shots and trials"
        )
    differences = []
    for condition, num_shots in dict.fromkeys((key.condition, key.num_shots) for key in both):
        own = [key for key in both if (key.condition, key.num_shots) == (condition, num_shots)]
        before, after = ([run[key].score for key in own] for run in scores)
        difference = paired_difference(before, after, [scores[0][key].example.video for key in own])
        means = {"first": sum(before) / len(own), "second": sum(after) / len(own)}
        entry = {"condition": condition, "num_shots": num_shots, **means, **asdict(difference.estimate)}
        counts = {"num_better": difference.num_better, "num_worse": difference.num_worse}
        differences.append({**entry, "p_value": difference.p_value, **counts, "num_equal": difference.num_equal})
    comparison = {
        "benchmark": benchmark.name,
        "metric": benchmark.metric,
        "first": str(first),
        "second": str(second),
        "num_unpaired": len(scores[0]) + len(scores[1]) - 2 * len(both),
        "differences": differences,
    }
    return comparison | {"text": comparison_text(comparison)}


def comparison_text(comparison: Row) -> str:
    """What `compare_runs` found, as a table for a terminal."""
    lines = [
        f"{comparison['benchmark']}, {METRIC_TITLES[comparison['metric']]}: second minus first, on the same questions",
        f"  first   {comparison['first']}",
        f"  second  {comparison['second']}",
        "",
        f"  {'condition':<22} {'shots':>5} {'first':>7} {'second':>7} {'difference':>11}   {'95 % interval':<17} "
        f"{'p':>7}   better/worse/equal",
    ]
    for one in comparison["differences"]:
        condition: Condition = one["condition"]
        interval = "-" if one["low"] is None else f"[{one['low']:+.1f}, {one['high']:+.1f}]"
        lines.append(
            f"  {CONDITION_TITLES[condition]:<22} {one['num_shots']:>5} {one['first']:>7.1f} {one['second']:>7.1f} "
            f"{one['mean']:>+11.1f}   {interval:<17} {one['p_value']:>7.4f}   "
            f"{one['num_better']}/{one['num_worse']}/{one['num_equal']}"
        )
    if number := comparison["num_unpaired"]:
        lines += ["", f"  {number:,} answer{' is' if number == 1 else 's are'} of one run only, and left out."]
    return "\n".join(lines)
