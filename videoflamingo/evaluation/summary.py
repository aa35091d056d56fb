"""Scores of a run -> its numbers: means with intervals, trials, types of question, each control beside the score."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, get_args

from videoflamingo.evaluation.benchmark import MetricName
from videoflamingo.evaluation.protocol import RankBy
from videoflamingo.evaluation.results import Condition
from videoflamingo.evaluation.scoring import Cell, Sample, Scored, best_option
from videoflamingo.evaluation.statistics import clustered_mean, over_trials, paired_difference
from videoflamingo.metrics.wups import installed_tagger

METRIC_TITLES: dict[MetricName, str] = {
    "exact_match": "accuracy (exact match), %",
    "choice_accuracy": "accuracy, %",
    "wups": "WUPS, %",
    "captions": "CIDEr-D x 100",
}

Row = dict[str, Any]


def summarise(scored: Scored) -> Row:
    """All numbers that a report states, as it goes into `summary.json`.

    `scores` has an entry for each condition and number of shots: the mean over all its trials, with an interval
    clustered by video; `trials`, the mean of each; `groups`, the same by type of question; and, of a control,
    `real_minus`: what the real condition scores more on the same questions in the same trials. `baselines` are over
    the questions that were asked.
    """
    benchmark = scored.benchmark
    asked = {sample.example.id: sample.example for cell in scored.cells for sample in cell.samples}
    pairs = dict.fromkeys((cell.condition, cell.num_shots) for cell in scored.cells)
    baselines = dict(scored.baselines.items()) | ({"chance": scored.chance} if scored.chance else {})
    return {
        "benchmark": benchmark.name,
        "data_digest": benchmark.digest,
        "answer_kind": benchmark.answer_kind,
        "metric": benchmark.metric,
        "metric_title": _metric_title(benchmark.metric),
        "rank_by": scored.rank_by if benchmark.answer_kind == "choices" else None,
        "num_support": len(benchmark.support),
        "num_query": len(benchmark.query),
        "num_asked": len(asked),
        "num_videos": len({example.video for example in asked.values()}),
        "scores": [_entry(scored, condition, num_shots) for condition, num_shots in pairs],
        "baselines": {
            name: _over_groups(
                [(benchmark.group(example), example.video, scores[example.id]) for example in asked.values()],
                scored.bounds,
            )
            for name, scores in baselines.items()
        },
        "failures": _failures(scored),
    }


def _metric_title(metric: MetricName) -> str:
    """What is measured, and where it is not exactly the original's."""
    without_tagger = metric == "wups" and installed_tagger() is None
    return METRIC_TITLES[metric] + (" (without NLTK's tagger, see `wups`)" if without_tagger else "")


def entry_of(summary: Row, condition: Condition, num_shots: int) -> Row | None:
    """The entry of a condition at a number of shots; None if it was not asked."""
    for entry in summary["scores"]:
        if (entry["condition"], entry["num_shots"]) == (condition, num_shots):
            return dict(entry)
    return None


def _entry(scored: Scored, condition: Condition, num_shots: int) -> Row:
    cells = scored.trials(condition, num_shots)
    samples = [sample for cell in cells for sample in cell.samples]
    trials = over_trials([cell.mean for cell in cells])
    group = scored.benchmark.group
    entry: Row = {
        "condition": condition,
        "num_shots": num_shots,
        **_over_groups([(group(one.example), one.example.video, one.score) for one in samples], scored.bounds),
        "trials": {str(cell.trial): cell.mean for cell in cells},
        "spread": trials.spread,
        "num_errors": sum(bool(one.answered.error) for one in samples),
        "num_unparsed": sum(one.unparsed for one in samples),
        "also": _also(cells, samples),
    }
    if condition == "real":
        entry["above"] = {
            name: _compared(samples, lambda one, scores=scores: scores[one.example.id])  # type: ignore[misc]
            for name, scores in scored.baselines.items()
        }
        return entry
    real = {_question(one): one for cell in scored.trials("real", num_shots) for one in cell.samples}
    both = [one for one in samples if _question(one) in real]
    if both:
        entry["real_minus"] = _compared([real[_question(one)] for one in both], {_question(one): one for one in both})
    return entry


def _question(sample: Sample) -> tuple[int, str]:
    return sample.answered.trial, sample.example.id


def _compared(samples: Sequence[Sample], other: Callable[[Sample], float] | dict[tuple[int, str], Sample]) -> Row:
    """Scores of samples minus other scores of the same questions."""
    others = [other[_question(one)].score if isinstance(other, dict) else other(one) for one in samples]
    difference = paired_difference(others, [one.score for one in samples], [one.example.video for one in samples])
    return asdict(difference.estimate) | {
        "p_value": difference.p_value,
        "num_better": difference.num_better,
        "num_worse": difference.num_worse,
        "num_equal": difference.num_equal,
    }


def _over_groups(scores: Iterable[tuple[str, str, float]], bounds: tuple[float, float] | None) -> Row:
    """The mean with its interval, of all and of each group; of (group, video, score)."""
    groups: dict[str, list[tuple[str, float]]] = {}
    whole: list[tuple[str, float]] = []
    for group, video, score in scores:
        groups.setdefault(group, []).append((video, score))
        whole.append((video, score))

    def estimate(own: list[tuple[str, float]]) -> Row:
        return asdict(clustered_mean([score for _, score in own], [video for video, _ in own], bounds))

    return estimate(whole) | {"groups": {name: estimate(own) for name, own in sorted(groups.items())}}


def _also(cells: Sequence[Cell], samples: Sequence[Sample]) -> dict[str, float]:
    """Further metrics, means over trials: of captions BLEU and ROUGE-L, of options the accuracy by each rule."""
    names = dict.fromkeys(name for cell in cells for name in cell.corpus)
    also = {name: sum(cell.corpus[name] for cell in cells) / len(cells) for name in names}
    if any(one.answered.choices for one in samples):
        for rank_by in get_args(RankBy):
            right = sum(
                bool(one.answered.choices)
                and best_option(one.answered.choices or (), rank_by) == one.example.answer_index
                for one in samples
            )
            also[f"accuracy_by_{rank_by}"] = 100 * right / len(samples)
    return also


def _failures(scored: Scored) -> list[Row]:
    """Each video that could not be read, with the number of questions that count as wrong for it."""
    failures: dict[tuple[str, str], int] = {}
    for cell in scored.cells:
        for one in cell.samples:
            if one.answered.error:
                key = one.example.video, one.answered.error
                failures[key] = failures.get(key, 0) + 1
    return [{"video": video, "error": error, "num_questions": count} for (video, error), count in failures.items()]
